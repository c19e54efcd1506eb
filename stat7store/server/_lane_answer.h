/* Answering one request: found, made ready, written, sent and recorded in one go. See the rule in _lane.c. */

#pragma once

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "_lane_board.h"
#include "_lane_head.h"
#include "_lane_log.h"

#define COPIED_BYTES (32 * 1024) /* more is cheaper to send out of the page cache than to copy */
#define HEARD_BYTES (64 * 1024)
#define UNLOCKED_BYTES (64 * 1024)
#define CLIENT_GONE 499
#define ASK_NOT_SENT 0x894B /* linux/sockios.h: SIOCOUTQNSD */
#define CACHESTAT 451       /* the same on every architecture */
#define GET_NUMBER 0        /* the methods' numbers in requests.py */
#define HEAD_NUMBER 1
#define FILE_CAPSULE "stat7store.server._lane.File"

/* What was put together for an entry; good for as long as the catalog returns that very entry. */
typedef struct {
    PyObject *entry, *location;
    PyObject *opened; /* a weak reference to the file as it is kept open, or NULL */
    int number;       /* and its descriptor */
    int64_t size;
    size_t shared_length;
    char shared[];
} File;

/* A parked connection, and the block of headers that it sent last. */
typedef struct {
    PyObject *connection, *block, *headers;
    int64_t heard;
    bool may_send_files, has_client;
    Client client;
} Slot;

typedef struct {
    PyObject *young, *old; /* dictionaries: used since the last turn, and in the turn before */
    Py_ssize_t most;
} Recent;

typedef struct {
    PyObject_HEAD
    PyObject *admit, *refusal, *find, *open, *file_type, *go_on, *log;
    PyObject *method_get, *method_head, *abort, *can_send_files, *client, *fileno, *size;
    Recent blocks, files;
    Board board;
    Slot **slots;
    int slots_length, listening;
    int64_t largest, answered; /* ``answered``: when the last answer was over */
    bool timed;
    char source[SHORT_TEXT_BYTES];
    Words words;
    Lines lines;
    Draft head; /* this and what follows it is good for one answer */
    Draft line;
    char whole[DRAFT_BYTES + COPIED_BYTES]; /* the body, and a copy of the head right before it: both leave in one piece */
    char heard[HEARD_BYTES];
} Lane;

/* All that is known of an answer on its way out. */
typedef struct {
    const Request *request;
    PyObject *connection, *opened;
    Text request_id;
    int socket, status;
    int64_t started, found, begun; /* the request's arrival, the end of the look-up, the beginning of the sending */
    int64_t start, length;         /* of the file's bytes */
    Figures record;
} Answer;

static char *body_of(Lane *lane)
{
    return lane->whole + DRAFT_BYTES;
}

/* Nanoseconds of the monotonic clock, for the timings. */
static int64_t now_ns(const Lane *lane)
{
    return lane->timed ? clock_ns() : 0;
}

static Slot *slot_of(const Lane *lane, int socket)
{
    return socket >= 0 && socket < lane->slots_length ? lane->slots[socket] : NULL;
}

/* What was used of late, as in storage/recent.py. */

static int recent_put(Recent *recent, PyObject *key, PyObject *value)
{
    if (PyDict_GET_SIZE(recent->young) >= recent->most) {
        PyObject *fresh = PyDict_New();
        if (fresh == NULL)
            return -1;
        Py_SETREF(recent->old, recent->young);
        recent->young = fresh;
    }
    return PyDict_SetItem(recent->young, key, value);
}

/* Return a new reference, or NULL; then an exception may be set. */
static PyObject *recent_get(Recent *recent, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(recent->young, key);
    if (value == NULL) {
        if (PyErr_Occurred() || (value = PyDict_GetItemWithError(recent->old, key)) == NULL)
            return NULL;
        Py_INCREF(value);
        if (recent_put(recent, key, value) < 0)
            Py_CLEAR(value);
    } else
        Py_INCREF(value);
    return value;
}

static void file_destroy(PyObject *capsule)
{
    File *file = PyCapsule_GetPointer(capsule, FILE_CAPSULE);
    Py_DECREF(file->entry);
    Py_DECREF(file->location);
    Py_XDECREF(file->opened);
    PyMem_Free(file);
}

/* The head */

static int write_head(Lane *lane, Answer *answer, const File *file)
{
    Draft *head = &lane->head;
    Text id = answer->request->request_id;
    if (id.at == NULL) /* good until the next one is made */
        id = (Text){new_id(&lane->words), NEW_ID_DIGITS};
    if (id.at == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    answer->request_id = id;
    head->length = 0;
    if (answer->status == 200)
        PUT(head, "HTTP/1.1 200 OK\r\n");
    else if (answer->status == 206)
        PUT(head, "HTTP/1.1 206 Partial Content\r\n");
    else
        PUT(head, "HTTP/1.1 304 Not Modified\r\n");
    put(head, file->shared, file->shared_length);
    if (answer->status == 206) {
        PUT(head, "Content-Range: bytes ");
        put_number(head, (uint64_t)answer->start);
        PUT(head, "-");
        put_number(head, (uint64_t)(answer->start + answer->length - 1));
        PUT(head, "/");
        put_number(head, (uint64_t)file->size);
        PUT(head, "\r\n");
    }
    if (answer->status != 304) {
        PUT(head, "Content-Length: ");
        put_number(head, (uint64_t)answer->length);
        PUT(head, "\r\n");
    }
    PUT(head, "Server-Timing: ");
    if (lane->timed) {
        PUT(head, "index;dur=");
        put_duration(head, answer->record.index);
        PUT(head, ", metadata;dur=");
        put_duration(head, answer->record.metadata);
        PUT(head, ", disk;dur=");
        put_duration(head, answer->record.disk_first);
        if (answer->opened != NULL && !answer->request->is_head) {
            PUT(head, ";desc=\"");
            put(head, lane->source, strlen(lane->source));
            PUT(head, "\"");
        }
    }
    PUT(head, "\r\nDate: ");
    put_date(head, &lane->words);
    PUT(head, "\r\nServer: STAT7 Store\r\nX-Request-ID: ");
    put(head, id.at, id.length);
    PUT(head, "\r\n\r\n");
    return 0;
}

/* What came of it */

static uint64_t unsent(int socket)
{
    int count = 0;
    return ioctl(socket, ASK_NOT_SENT, &count) == 0 ? (uint64_t)count : 0;
}

/* Return the name of a connection's client, for log lines; NULL if that is for Python to write. */
static const Client *client_of(Lane *lane, PyObject *connection, int socket, Client *room)
{
    Slot *slot = slot_of(lane, socket);
    Client *client = slot == NULL ? room : &slot->client;
    if (slot == NULL || !slot->has_client) {
        PyObject *name = PyObject_GetAttr(connection, lane->client);
        bool is_plain = take_client(client, name);
        Py_XDECREF(name);
        PyErr_Clear();
        if (!is_plain)
            return NULL;
        if (slot != NULL)
            slot->has_client = true;
    }
    return client;
}

/* Log an answer; -1: an error. */
static int log_answer(Lane *lane, const Answer *answer, int status)
{
    const Request *request = answer->request;
    const Figures *record = &answer->record;
    Client room;
    const Client *client = NULL;
    if (lane->lines.facts_length > 0)
        client = client_of(lane, answer->connection, answer->socket, &room);
    if (client != NULL) {
        write_line(&lane->line, &lane->lines, request->is_head, request->digits, status, answer->request_id, client,
                   record);
        return keep_line(&lane->lines, &lane->line);
    }
    PyObject *done = PyObject_CallFunction(lane->log, "OOs#is#(LLLLLLL)", answer->connection,
                                           request->is_head ? lane->method_head : lane->method_get, request->digits,
                                           (Py_ssize_t)DIGITS, status, answer->request_id.at,
                                           (Py_ssize_t)answer->request_id.length, record->queue, record->index,
                                           record->metadata, record->disk, record->network, answer->started,
                                           record->ended);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Record an answer that is over: all of it was sent, or the client is gone. */
static int end(Lane *lane, Answer *answer, int status, int64_t sent)
{
    const Request *request = answer->request;
    Figures *record = &answer->record;
    lane->answered = clock_ns();
    board_count_request(&lane->board, request->is_head ? HEAD_NUMBER : GET_NUMBER, status);
    if (!lane->timed)
        return 1;
    record->ended = (uint64_t)lane->answered;
    record->at = record->ended + (uint64_t)lane->words.wall;
    record->network = record->ended - (uint64_t)answer->begun;
    record->total = record->ended - (uint64_t)answer->started;
    record->sent = (uint64_t)sent;
    record->unsent = unsent(answer->socket);
    static const char GET[METHOD_BYTES] = "GET", HEAD[METHOD_BYTES] = "HEAD", NONE[SHORT_TEXT_BYTES] = "";
    board_record(&lane->board, record, status, request->address, request->is_head ? HEAD : GET,
                 answer->opened != NULL && !request->is_head ? lane->source : NONE, answer->request_id, request->range);
    return lane->log != Py_None && log_answer(lane, answer, status) < 0 ? -1 : 1;
}

static int gone(Lane *lane, Answer *answer)
{
    PyObject *done = PyObject_CallMethodNoArgs(answer->connection, lane->abort);
    Py_XDECREF(done);
    return done == NULL ? -1 : end(lane, answer, CLIENT_GONE, 0);
}

/* Have Python send what the socket did not take: ``rest``, which is taken over, then the file's bytes that are left,
 * if it is a file that is sent. ``sent`` of its bytes are. */
static int go_on(Lane *lane, Answer *answer, PyObject *rest, PyObject *file, int64_t sent)
{
    const Request *request = answer->request;
    const Figures *record = &answer->record;
    if (rest == NULL)
        return -1;
    lane->answered = clock_ns();
    PyObject *done = PyObject_CallFunction(
        lane->go_on, "OOs#is#z#zNOLLL(LLLLLLL)", answer->connection, request->is_head ? lane->method_head : lane->method_get,
        request->digits, (Py_ssize_t)DIGITS, answer->status, answer->request_id.at,
        (Py_ssize_t)answer->request_id.length, request->range.at, (Py_ssize_t)request->range.length,
        answer->opened == NULL || request->is_head ? NULL : lane->source, rest, file, answer->start, answer->length, sent,
        answer->started, record->queue, record->index, record->metadata, record->disk_first, record->disk,
        answer->begun);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* Sending */

static int send_copied(Lane *lane, Answer *answer)
{
    Draft *head = &lane->head;
    size_t length = answer->opened == NULL || answer->request->is_head ? 0 : (size_t)answer->length;
    char *whole = body_of(lane) - head->length;
    memcpy(whole, head->text, head->length);
    answer->begun = now_ns(lane);
    ssize_t taken = send(answer->socket, whole, head->length + length, MSG_NOSIGNAL);
    if (taken < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return gone(lane, answer);
        taken = 0;
    }
    if ((size_t)taken == head->length + length)
        return end(lane, answer, answer->status, (int64_t)length);
    /* a copy, since the buffers will be the next answer's */
    PyObject *rest = PyBytes_FromStringAndSize(whole + taken, (Py_ssize_t)(head->length + length) - taken);
    return go_on(lane, answer, rest, Py_None, (int64_t)length);
}

static int send_file(Lane *lane, Answer *answer, int file)
{
    Draft *head = &lane->head;
    off_t from = answer->start;
    answer->begun = now_ns(lane);
    /* the head alone is not pushed out: it leaves with the first of the file */
    ssize_t sent = 0, taken = send(answer->socket, head->text, head->length, MSG_MORE | MSG_NOSIGNAL);
    if (taken < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return gone(lane, answer);
        taken = 0;
    }
    if ((size_t)taken == head->length) {
        if (answer->length > UNLOCKED_BYTES) {
            Py_BEGIN_ALLOW_THREADS
            sent = sendfile(answer->socket, file, &from, (size_t)answer->length);
            Py_END_ALLOW_THREADS
        } else
            sent = sendfile(answer->socket, file, &from, (size_t)answer->length);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return gone(lane, answer);
            sent = 0;
        }
    }
    if (sent == answer->length)
        return end(lane, answer, answer->status, sent);
    PyObject *rest = PyBytes_FromStringAndSize(head->text + taken, (Py_ssize_t)head->length - taken);
    answer->start += sent;
    answer->length -= sent;
    return go_on(lane, answer, rest, answer->opened, sent);
}

/* Finding */

/* Tell whether these bytes of a file are in the page cache; also false if the kernel cannot tell (before 6.5). */
static bool is_resident(int file, int64_t start, int64_t length)
{
    struct {
        uint64_t start, length;
    } range = {(uint64_t)start, (uint64_t)length};
    uint64_t pages[5] = {0}, page = (uint64_t)sysconf(_SC_PAGESIZE);
    /* its size by now, and not as it was opened: nobody reads where this moves to */
    if (lseek(file, 0, SEEK_END) < start + length || syscall(CACHESTAT, file, &range, pages, 0) < 0)
        return false;
    return pages[0] >= (uint64_t)(start + length - 1) / page - (uint64_t)start / page + 1;
}

/* Look a file up in the catalog, and what was put together for it; charges queue, index and metadata.
 * NULL, without an exception, if that is not to be used (any more). */
static PyObject *look_up(Lane *lane, Answer *answer)
{
    PyObject *address = PyBytes_FromStringAndSize((const char *)answer->request->address, 32);
    if (address == NULL)
        return NULL;
    PyObject *capsule = recent_get(&lane->files, address);
    if (capsule == NULL) {
        Py_DECREF(address);
        return NULL;
    }
    int64_t begun = now_ns(lane), looked_up = 0;
    answer->record.queue = (uint64_t)(begun - answer->started);
    PyObject *found = PyObject_CallOneArg(lane->find, address);
    answer->found = now_ns(lane);
    Py_DECREF(address);
    const File *file = PyCapsule_GetPointer(capsule, FILE_CAPSULE);
    if (found != NULL && PyTuple_CheckExact(found) && PyTuple_GET_SIZE(found) == 2 &&
        PyTuple_GET_ITEM(found, 0) == file->entry &&
        ((looked_up = PyLong_AsLongLong(PyTuple_GET_ITEM(found, 1))) != -1 || !PyErr_Occurred())) {
        answer->record.index = (uint64_t)(looked_up - begun);
        answer->record.metadata = (uint64_t)(answer->found - looked_up);
    } else
        Py_CLEAR(capsule);
    Py_XDECREF(found);
    return capsule;
}

/* Ask access; 1: it admits, 0: it refuses (to be told why by the other path), -1: an error. */
static int is_admitted(Lane *lane, bool is_head, PyObject *headers)
{
    PyObject *arguments[] = {is_head ? lane->method_head : lane->method_get, headers};
    PyObject *admitted = PyObject_Vectorcall(lane->admit, arguments, 2, NULL);
    Py_XDECREF(admitted);
    if (admitted != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(lane->refusal))
        return -1;
    PyErr_Clear();
    return 0;
}

/* Return the headers of a block that was read before, without those that request.h takes out; NULL if it was not. */
static PyObject *headers_of(Lane *lane, Slot *slot, Text block)
{
    if (slot != NULL && slot->block != NULL && (size_t)PyBytes_GET_SIZE(slot->block) == block.length &&
        memcmp(PyBytes_AS_STRING(slot->block), block.at, block.length) == 0)
        return Py_NewRef(slot->headers);
    PyObject *key = PyBytes_FromStringAndSize(block.at, (Py_ssize_t)block.length);
    if (key == NULL)
        return NULL;
    PyObject *headers = recent_get(&lane->blocks, key);
    if (headers != NULL && slot != NULL) {
        Py_XSETREF(slot->block, Py_NewRef(key));
        Py_XSETREF(slot->headers, Py_NewRef(headers));
    }
    Py_DECREF(key);
    return headers;
}

/* Read an integer off an object by calling one of its methods, or by an attribute. */
static int64_t integer(PyObject *value)
{
    int64_t number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

static bool may_send_files(Lane *lane, Slot *slot, PyObject *connection)
{
    if (slot != NULL && slot->may_send_files)
        return true;
    PyObject *may = PyObject_CallMethodNoArgs(connection, lane->can_send_files);
    bool it_may = may == Py_True;
    Py_XDECREF(may);
    if (slot != NULL)
        slot->may_send_files = it_may;
    return it_may;
}

/* Return a new reference to what a weak one refers to; NULL if that is gone. */
static PyObject *referred(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object;
    return PyWeakref_GetRef(reference, &object) == 1 ? object : NULL;
#else
    PyObject *object = PyWeakref_GetObject(reference);
    return object == NULL || object == Py_None ? NULL : Py_NewRef(object);
#endif
}

/* Find the file open, or open it, if that takes no waiting, and it is as long as it should be.
 * 1: ``answer->opened`` is it, 0: it is not to be had, -1: an error. */
static int open_file(Lane *lane, Answer *answer, File *file)
{
    answer->opened = file->opened == NULL ? NULL : referred(file->opened);
    if (answer->opened != NULL) /* whoever keeps files open still keeps it */
        return 1;
    answer->opened = PyObject_CallOneArg(lane->open, file->location);
    if (answer->opened == NULL)
        return -1;
    if (Py_TYPE(answer->opened) != (PyTypeObject *)lane->file_type ||
        integer(PyObject_GetAttr(answer->opened, lane->size)) != file->size ||
        (file->number = (int)integer(PyObject_CallMethodNoArgs(answer->opened, lane->fileno))) < 0)
        return PyErr_Occurred() ? -1 : 0;
    Py_XSETREF(file->opened, PyWeakref_NewRef(answer->opened, NULL));
    return file->opened == NULL ? -1 : 1;
}

/* Make the bytes ready, and send; charges disk. 1: answered, 0: not one for this lane, -1: an error. */
static int answer_with(Lane *lane, Answer *answer, Slot *slot, File *file)
{
    const Request *request = answer->request;
    bool is_copied = answer->status == 304 || request->is_head || answer->length <= COPIED_BYTES;
    if (answer->status != 304) {
        int opened = open_file(lane, answer, file);
        if (opened <= 0)
            return opened;
        if (!request->is_head) {
            struct iovec buffer = {body_of(lane), (size_t)answer->length};
            if (is_copied ? preadv2(file->number, &buffer, 1, answer->start, RWF_NOWAIT) != answer->length
                          : !is_resident(file->number, answer->start, answer->length))
                return 0;
        }
        answer->record.disk = answer->record.disk_first = (uint64_t)(now_ns(lane) - answer->found);
    }
    if (!is_copied && !may_send_files(lane, slot, answer->connection))
        return PyErr_Occurred() ? -1 : 0;
    if (write_head(lane, answer, file) < 0)
        return -1;
    return is_copied ? send_copied(lane, answer) : send_file(lane, answer, file->number);
}

/* Weigh condition and range: false if the answer is none of the lane's. */
static bool plan(Answer *answer, const File *file, int64_t largest)
{
    const Request *request = answer->request;
    answer->status = 200;
    answer->start = 0;
    answer->length = file->size;
    if (request->none_match.at != NULL) { /* this file's own tag, or it is for others to weigh */
        answer->status = 304;
        answer->length = 0;
        return request->none_match.length == DIGITS + 2 && request->none_match.at[0] == '"' &&
               memcmp(request->none_match.at + 1, request->digits, DIGITS) == 0 &&
               request->none_match.at[DIGITS + 1] == '"';
    }
    if (request->range.at != NULL) {
        answer->status = 206;
        if (!read_range(request->range, file->size, &answer->start, &answer->length))
            return false;
    }
    return answer->length <= largest || request->is_head;
}

/* 1: answered, 0: not one for this lane, with nothing done, -1: an error. ``slot`` may be NULL. */
static int answer(Lane *lane, PyObject *connection, int socket, Slot *slot, Text data, int64_t arrived)
{
    char room[MOST_REQUEST_BYTES];
    Request request;
    if (!read_request(data.at, data.length, &request, room))
        return 0;
    Answer answer = {.request = &request, .connection = connection, .socket = socket, .started = arrived};
    PyObject *headers = headers_of(lane, slot, request.block), *capsule = NULL;
    int done = headers == NULL ? 0 : is_admitted(lane, request.is_head, headers);
    if (done == 1) {
        capsule = look_up(lane, &answer);
        File *file = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, FILE_CAPSULE);
        done = file != NULL && plan(&answer, file, lane->largest) ? answer_with(lane, &answer, slot, file) : 0;
    }
    Py_XDECREF(headers);
    Py_XDECREF(capsule);
    Py_XDECREF(answer.opened);
    return PyErr_Occurred() ? -1 : done;
}
