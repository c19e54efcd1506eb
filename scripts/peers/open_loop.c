/* The client of the open loop: requests go when they are due, evenly spaced, whatever became of those before.
 *
 *     open_loop PORT CONNECTIONS RATE SECONDS SEED FILE
 *
 * FILE holds what is asked for: for each a line of status, size of the body and length of the request, then the
 * request. Each time one of them is chosen at random. A latency counts from the moment at which a request was due to
 * the last byte of its answer, also while the request waits for a connection to be free: what a server holds up is
 * not left out. How late the client itself was is told apart: until it sent a request for which a connection was free,
 * and until it looked at all where none was.
 *
 * What is due in the first quarter of a second is asked and counted, but its latencies are not: a server that takes 64 new connections at
 * once is busy with them for some milliseconds, which would be a p99.
 *
 * It never sleeps, since waking takes longer than what it measures; it is to have a core of its own. What it found goes
 * to standard output as JSON, a ``Done`` of work.py. Exit code 1: it could not even begin; standard error says why.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000
#define DRAIN_S 30
#define WARM_UP_S 0.25
#define READY_AT_ONCE 64
#define PAUSES 50
#define HEAD_BYTES 16384 /* of a head, with what comes of the body in the same read */
#define BODY_BYTES (1 << 20)
#define ERROR_BYTES 160

typedef struct {
    const char *request;
    size_t length;
    int status;
    int64_t size;
} Ask;

typedef struct {
    int socket; /* -1: closed */
    const Ask *asked; /* NULL: nothing, it is free */
    int64_t number, due, freed; /* number: of its request, from 0 */
    int status;
    int64_t size, missing; /* bytes of the body, and those still to come; -1: the head is not whole */
    size_t head_length;
    char head[HEAD_BYTES + 1];
} Connection;

typedef struct {
    const Ask *asks;
    size_t asks_length;
    Connection *connections, **free; /* a ring of those that are free: the one that waited longest is the next */
    int length, open, free_at, free_length;
    int poll;
    double rate;
    int64_t begun, ended, warm, most, seen, sent; /* most: of requests, of which the first, warm, are not measured */
    int64_t done, right; /* those that are over, and those that were answered as they should */
    int64_t *latencies, *late;
    size_t latencies_length;
    uint64_t chance;
    char error[ERROR_BYTES]; /* the first */
} Client;

static char body[BODY_BYTES]; /* what is in it is counted, and forgotten */

static void give_up(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static void *room_for(size_t number, size_t bytes)
{
    void *room = calloc(number ? number : 1, bytes);
    if (room == NULL)
        give_up("memory");
    return room;
}

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

static void fail(Client *client, const char *format, ...)
{
    if (client->error[0] != '\0')
        return;
    va_list values;
    va_start(values, format);
    vsnprintf(client->error, ERROR_BYTES, format, values);
    va_end(values);
}

/* A connection that broke is not replaced, and what it was asked is over. */
static void close_connection(Client *client, Connection *connection)
{
    close(connection->socket);
    connection->socket = -1;
    client->open--;
    if (connection->asked != NULL)
        client->done++;
}

/* Sending */

static const Ask *any_ask(Client *client)
{
    client->chance ^= client->chance << 13;
    client->chance ^= client->chance >> 7;
    client->chance ^= client->chance << 17;
    return &client->asks[(client->chance >> 11) % client->asks_length];
}

static int64_t due_at(const Client *client, int64_t number)
{
    return client->begun + (int64_t)((double)number / client->rate * SECOND);
}

static void send_what_is_due(Client *client, int64_t now)
{
    for (; client->seen < client->most && due_at(client, client->seen) <= now; client->seen++)
        client->late[client->seen] = now - due_at(client, client->seen);
    while (client->free_length && client->sent < client->seen) {
        Connection *connection = client->free[client->free_at];
        client->free_at = (client->free_at + 1) % client->length;
        client->free_length--;
        if (connection->socket < 0)
            continue;
        connection->asked = any_ask(client);
        connection->number = client->sent;
        connection->due = due_at(client, client->sent);
        connection->missing = -1;
        connection->head_length = 0;
        if (connection->freed <= connection->due)
            client->late[client->sent] = clock_ns() - connection->due;
        client->sent++;
        /* nothing of an earlier request can be left in the socket, so that all of it fits */
        if (send(connection->socket, connection->asked->request, connection->asked->length, MSG_NOSIGNAL) !=
            (ssize_t)connection->asked->length) {
            fail(client, "a request could not be sent");
            close_connection(client, connection);
        }
    }
}

/* Receiving */

/* Read a head that is whole up to its empty line; tell whether it can be understood. */
static bool read_head(Connection *connection, const char *end)
{
    if (strncmp(connection->head, "HTTP/1.1 ", 9) != 0)
        return false;
    connection->status = atoi(connection->head + 9);
    for (char *line = connection->head; line < end; line = (char *)memchr(line, '\n', (size_t)(end + 2 - line)) + 1)
        if (strncasecmp(line, "content-length:", 15) == 0) {
            connection->size = strtoll(line + 15, NULL, 10);
            return connection->size >= 0;
        }
    return false;
}

static void finish(Client *client, Connection *connection)
{
    const Ask *asked = connection->asked;
    connection->asked = NULL;
    connection->freed = client->ended = clock_ns();
    client->free[(client->free_at + client->free_length++) % client->length] = connection;
    client->done++;
    if (connection->status != asked->status || connection->size != asked->size) {
        fail(client, "%d with %" PRId64 " bytes", connection->status, connection->size);
        return;
    }
    client->right++;
    if (connection->number >= client->warm)
        client->latencies[client->latencies_length++] = connection->freed - connection->due;
}

/* Take what came; tell what is wrong with it, NULL if nothing is. */
static const char *take(Client *client, Connection *connection)
{
    bool in_head = connection->missing < 0;
    char *to = in_head ? connection->head + connection->head_length : body;
    size_t room = in_head ? HEAD_BYTES - connection->head_length : sizeof body;
    ssize_t length = recv(connection->socket, to, room, MSG_DONTWAIT);
    if (length < 0)
        return errno == EAGAIN || errno == EINTR ? NULL : strerror(errno);
    if (length == 0)
        return "the server closed the connection";
    if (connection->asked == NULL)
        return "bytes that nobody asked for";
    if (in_head) {
        connection->head_length += (size_t)length;
        connection->head[connection->head_length] = '\0';
        const char *end = memmem(connection->head, connection->head_length, "\r\n\r\n", 4);
        if (end == NULL)
            return connection->head_length == HEAD_BYTES ? "a head without an end" : NULL;
        if (!read_head(connection, end))
            return "a head without a status or Content-Length";
        connection->missing = connection->size;
        length = connection->head + connection->head_length - (end + 4);
    }
    connection->missing -= length;
    if (connection->missing < 0)
        return "more bytes than the head announced";
    if (connection->missing == 0)
        finish(client, connection);
    return NULL;
}

/* Leave the core to the one that may share it, for a microsecond or so. */
static void rest(void)
{
    for (int at = 0; at < PAUSES; at++)
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("" ::: "memory");
#endif
}

static void run(Client *client)
{
    struct epoll_event ready[READY_AT_ONCE];
    client->begun = client->ended = clock_ns();
    int64_t now = client->begun;
    int64_t latest = due_at(client, client->most) + (int64_t)DRAIN_S * SECOND;
    while (client->done < client->most && client->open && now < latest) {
        send_what_is_due(client, now);
        int number = epoll_wait(client->poll, ready, READY_AT_ONCE, 0);
        if (number == 0)
            rest();
        for (int at = 0; at < number; at++) {
            Connection *connection = ready[at].data.ptr;
            const char *wrong = connection->socket < 0 ? NULL : take(client, connection);
            if (wrong != NULL) {
                fail(client, "%s", wrong);
                close_connection(client, connection);
            }
            send_what_is_due(client, clock_ns()); /* which does not wait for all that came at once */
        }
        now = clock_ns();
    }
}

/* Beginning and ending */

static void open_connections(Client *client, uint16_t port)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->connections = room_for((size_t)client->length, sizeof *client->connections);
    client->free = room_for((size_t)client->length, sizeof *client->free);
    client->poll = epoll_create1(EPOLL_CLOEXEC);
    if (client->poll < 0)
        give_up("epoll");
    for (int at = 0, on = 1; at < client->length; at++) {
        Connection *connection = client->free[at] = &client->connections[at];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connection->socket < 0 || connect(connection->socket, (void *)&server, sizeof server) < 0 ||
            setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
            epoll_ctl(client->poll, EPOLL_CTL_ADD, connection->socket, &event) < 0)
            give_up("connecting");
    }
    client->open = client->free_length = client->length;
}

static void read_asks(Client *client, const char *name)
{
    FILE *file = fopen(name, "rb");
    size_t most = 0;
    Ask *asks = NULL, ask;
    if (file == NULL)
        give_up(name);
    while (fscanf(file, "%d %" SCNd64 " %zu", &ask.status, &ask.size, &ask.length) == 3 && fgetc(file) == '\n') {
        char *request = room_for(ask.length, 1);
        if (client->asks_length == most)
            asks = realloc(asks, (most = 2 * most + 1024) * sizeof *asks);
        if (asks == NULL || fread(request, 1, ask.length, file) != ask.length)
            give_up(name);
        ask.request = request;
        asks[client->asks_length++] = ask;
    }
    if (!feof(file) || client->asks_length == 0)
        give_up(name);
    fclose(file);
    client->asks = asks;
}

static int compare(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

/* Return a part (0 to 1) of sorted times, in milliseconds; 0 if there are none. */
static double part_of(const int64_t *times, size_t length, double part)
{
    size_t at = (size_t)((double)length * part);
    return length == 0 ? 0 : (double)times[at < length ? at : length - 1] / 1e6;
}

static void tell(Client *client, double cpu_s)
{
    size_t length = client->latencies_length;
    qsort(client->latencies, length, sizeof *client->latencies, compare);
    int64_t *late = client->late + client->warm;
    size_t late_length = client->seen > client->warm ? (size_t)(client->seen - client->warm) : 0;
    qsort(late, late_length, sizeof *late, compare);
    int64_t errors = client->most - client->right; /* what was not answered right, or not at all */
    if (errors)
        fail(client, "some answers did not come");
    printf("{\"requests\": %" PRId64 ", \"seconds\": %.9f, \"p50_ms\": %.6f, \"p99_ms\": %.6f, \"client_cpu_s\": %.6f, ", client->right,
           (double)(client->ended - client->begun + 1) / SECOND, part_of(client->latencies, length, 0.5),
           part_of(client->latencies, length, 0.99), cpu_s);
    printf("\"errors\": %" PRId64 ", \"error\": \"%s\", ", errors, errors ? client->error : "");
    printf("\"tail\": {\"p90_ms\": %.6f, \"p999_ms\": %.6f, \"max_ms\": %.6f, \"late_p99_ms\": %.6f}}\n",
           part_of(client->latencies, length, 0.9), part_of(client->latencies, length, 0.999),
           part_of(client->latencies, length, 1), part_of(late, late_length, 0.99));
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int count, char **arguments)
{
    if (count != 7) {
        fprintf(stderr, "usage: open_loop PORT CONNECTIONS RATE SECONDS SEED FILE\n");
        return 1;
    }
    Client client = {.length = atoi(arguments[2]), .rate = atof(arguments[3])};
    client.warm = (int64_t)(client.rate * WARM_UP_S);
    client.most = client.warm + (int64_t)(client.rate * atof(arguments[4]));
    client.chance = strtoull(arguments[5], NULL, 10) | 1;
    if (client.length < 1 || client.rate <= 0 || client.most < 1) {
        fprintf(stderr, "there is nothing to do\n");
        return 1;
    }
    client.latencies = room_for((size_t)client.most, sizeof *client.latencies);
    client.late = room_for((size_t)client.most, sizeof *client.late);
    memset(client.latencies, 1, (size_t)client.most * sizeof *client.latencies); /* no page is fetched later */
    memset(client.late, 1, (size_t)client.most * sizeof *client.late);
    read_asks(&client, arguments[6]);
    open_connections(&client, (uint16_t)atoi(arguments[1]));
    double cpu_s = cpu_seconds();
    run(&client);
    tell(&client, cpu_seconds() - cpu_s);
    return 0;
}
