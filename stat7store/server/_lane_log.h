/* Log lines of answers, in the form that request_log.py gives them; it fetches them from here, and writes them. */

#pragma once

#include "_lane_board.h"
#include "_lane_head.h"

#define LINES_BYTES (256 * 1024)
#define MOST_FACTS_BYTES 512
#define MOST_CLIENT_BYTES 64

/* ``facts``: what each line begins with; of no length if nobody wants lines. ``wait``: to be called with False when the
 * first line waits, with True when there is no room for more. ``second``: the moment that ``moment`` is the text of. */
typedef struct {
    PyObject *wait;
    size_t facts_length, length;
    time_t second;
    char moment[24];
    char facts[MOST_FACTS_BYTES];
    char text[LINES_BYTES];
} Lines;

typedef struct {
    size_t length;
    char text[MOST_CLIENT_BYTES];
} Client;

/* Take a client's name if JSON has it as it is; false if it does not. */
static bool take_client(Client *client, PyObject *name)
{
    Py_ssize_t length = 0;
    const char *text = name != NULL && PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
    if (text == NULL || length > MOST_CLIENT_BYTES)
        return false;
    for (Py_ssize_t at = 0; at < length; at++)
        if (text[at] < ' ' || text[at] > '~' || text[at] == '"' || text[at] == '\\')
            return false;
    memcpy(client->text, text, (size_t)length);
    client->length = (size_t)length;
    return true;
}

/* Write the wall clock's nanoseconds as ISO 8601 with microseconds, in UTC. */
static void put_moment(Draft *line, Lines *lines, uint64_t at)
{
    time_t second = (time_t)(at / 1000000000);
    if (second != lines->second) {
        struct tm moment;
        gmtime_r(&second, &moment);
        strftime(lines->moment, sizeof lines->moment, "%Y-%m-%dT%H:%M:%S", &moment);
        lines->second = second;
    }
    put(line, lines->moment, 19);
    char fraction[] = ".000000Z";
    unsigned microseconds = (unsigned)(at % 1000000000 / 1000);
    for (int place = 6; place > 0; place--, microseconds /= 10)
        fraction[place] = (char)('0' + microseconds % 10);
    put(line, fraction, sizeof fraction - 1);
}

/* Put a line together. ``is_head``: the method was HEAD; ``digits``: of the address. */
static void write_line(Draft *line, Lines *lines, bool is_head, const char *digits, int status, Text request_id,
                       const Client *client, const Figures *figures)
{
    line->length = 0;
    put(line, lines->facts, lines->facts_length);
    if (is_head)
        PUT(line, "\"method\":\"HEAD\",\"path\":\"/v1/files/");
    else
        PUT(line, "\"method\":\"GET\",\"path\":\"/v1/files/");
    put(line, digits, DIGITS);
    PUT(line, "\",\"status\":");
    put_number(line, (uint64_t)status);
    PUT(line, ",\"ms\":");
    put_duration(line, figures->total);
    PUT(line, ",\"request_id\":\"");
    put(line, request_id.at, request_id.length);
    PUT(line, "\",\"client\":\"");
    put(line, client->text, client->length);
    PUT(line, "\",\"queue_ms\":");
    put_duration(line, figures->queue);
    PUT(line, ",\"index_ms\":");
    put_duration(line, figures->index);
    PUT(line, ",\"metadata_ms\":");
    put_duration(line, figures->metadata);
    PUT(line, ",\"disk_ms\":");
    put_duration(line, figures->disk);
    PUT(line, ",\"network_ms\":");
    put_duration(line, figures->network);
    PUT(line, ",\"event\":\"request\",\"level\":\"info\",\"timestamp\":\"");
    put_moment(line, lines, figures->at);
    PUT(line, "\"}\n");
}

/* Call ``wait``; -1: an error. */
static int tell_lines_wait(Lines *lines, PyObject *urgent)
{
    PyObject *done = PyObject_CallOneArg(lines->wait, urgent);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Keep a line until it is fetched; -1: an error. */
static int keep_line(Lines *lines, const Draft *line)
{
    if (lines->length + line->length > sizeof lines->text && tell_lines_wait(lines, Py_True) < 0)
        return -1;
    if (lines->length + line->length > sizeof lines->text) {
        PyErr_SetString(PyExc_RuntimeError, "nobody fetched the lines");
        return -1;
    }
    bool is_first = lines->length == 0;
    memcpy(lines->text + lines->length, line->text, line->length);
    lines->length += line->length;
    return is_first ? tell_lines_wait(lines, Py_False) : 0;
}

static PyObject *take_lines(Lines *lines)
{
    size_t length = lines->length;
    lines->length = 0;
    return PyBytes_FromStringAndSize(lines->text, (Py_ssize_t)length);
}
