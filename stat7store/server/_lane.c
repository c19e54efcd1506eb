/* The lane's own hands: answers again, at once, what the fast lane of fastlane.py has answered before.
 *
 * The rule: only a request whose headers were read and whose file was put together before is answered here, and only
 * if access admits it, the catalog still returns the very same entry, and the page cache has the bytes. Everything
 * else falls through, with nothing done. What is decided, and every word of an answer but the times, was decided in
 * Python; the two ways are held together by tests.
 *
 * Connections with nothing to do are parked here: this object then listens for them by an epoll of its own, so that a
 * request in its commonest shape meets nothing of asyncio. The event loop watches that epoll alone.
 *
 * Only the thread of the event loop may call any of it, and it keeps the interpreter's lock but to send large spans.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <sys/epoll.h>

#include "_lane_answer.h"

#define READY_AT_ONCE 64

/* Parked connections */

static void slot_free(Lane *lane, int socket)
{
    Slot *slot = lane->slots[socket];
    lane->slots[socket] = NULL;
    Py_XDECREF(slot->block);
    Py_XDECREF(slot->headers);
    Py_DECREF(slot->connection);
    PyMem_Free(slot);
}

static PyObject *lane_park(Lane *lane, PyObject *arguments)
{
    PyObject *connection;
    int socket;
    if (!PyArg_ParseTuple(arguments, "Oi:park", &connection, &socket))
        return NULL;
    if (socket < 0 || slot_of(lane, socket) != NULL)
        return PyErr_Format(PyExc_ValueError, "socket %d cannot be parked", socket);
    if (socket >= lane->slots_length) {
        int length = 2 * socket + 64;
        Slot **slots = PyMem_Realloc(lane->slots, (size_t)length * sizeof *slots);
        if (slots == NULL)
            return PyErr_NoMemory();
        memset(slots + lane->slots_length, 0, (size_t)(length - lane->slots_length) * sizeof *slots);
        lane->slots = slots;
        lane->slots_length = length;
    }
    Slot *slot = PyMem_Calloc(1, sizeof *slot);
    if (slot == NULL)
        return PyErr_NoMemory();
    struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
    if (epoll_ctl(lane->listening, EPOLL_CTL_ADD, socket, &event) < 0) {
        PyMem_Free(slot);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    slot->connection = Py_NewRef(connection);
    slot->heard = clock_ns();
    lane->slots[socket] = slot;
    Py_RETURN_NONE;
}

static PyObject *lane_unpark(Lane *lane, PyObject *number)
{
    int socket = (int)PyLong_AsLong(number);
    if (socket == -1 && PyErr_Occurred())
        return NULL;
    if (slot_of(lane, socket) != NULL) {
        epoll_ctl(lane->listening, EPOLL_CTL_DEL, socket, NULL);
        slot_free(lane, socket);
    }
    Py_RETURN_NONE;
}

static PyObject *lane_heard(Lane *lane, PyObject *number)
{
    int socket = (int)PyLong_AsLong(number);
    if (socket == -1 && PyErr_Occurred())
        return NULL;
    const Slot *slot = slot_of(lane, socket);
    return PyLong_FromLongLong(slot == NULL ? 0 : slot->heard);
}

/* Read what a parked connection has to say, and answer it or hand it on. */
static int listen_to(Lane *lane, int socket)
{
    Slot *slot = slot_of(lane, socket);
    if (slot == NULL) /* it was unparked since */
        return 0;
    ssize_t length = recv(socket, lane->heard, sizeof lane->heard, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    int64_t arrived = now_ns(lane);
    PyObject *connection = Py_NewRef(slot->connection), *done = NULL;
    int answered = length <= 0 ? 0 : answer(lane, connection, socket, slot, (Text){lane->heard, (size_t)length}, arrived);
    if (answered > 0) {
        if ((slot = slot_of(lane, socket)) != NULL)
            slot->heard = lane->answered;
    } else if (answered < 0) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        done = PyObject_CallMethodNoArgs(connection, lane->abort);
        if (done == NULL)
            PyErr_Clear();
        PyErr_Restore(type, value, trace);
    } else {
        done = PyObject_CallMethod(connection, "hear", "y#L", length < 0 ? NULL : lane->heard,
                                   length < 0 ? (Py_ssize_t)0 : length, arrived);
        answered = done == NULL ? -1 : 0;
        if (done != NULL && (slot = slot_of(lane, socket)) != NULL) /* still parked, so it was answered */
            slot->heard = clock_ns();
    }
    Py_XDECREF(done);
    Py_DECREF(connection);
    return answered;
}

static PyObject *lane_turn(Lane *lane, PyObject *Py_UNUSED(nothing))
{
    struct epoll_event ready[READY_AT_ONCE];
    int number = epoll_wait(lane->listening, ready, READY_AT_ONCE, 0);
    for (int at = 0; at < number; at++)
        if (listen_to(lane, ready[at].data.fd) < 0)
            return NULL;
    Py_RETURN_NONE;
}

/* The object */

static PyObject *lane_answer(Lane *lane, PyObject *const *arguments, Py_ssize_t count)
{
    char *data;
    Py_ssize_t length;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "answer takes a connection, its socket's number, data and a time");
        return NULL;
    }
    long socket = PyLong_AsLong(arguments[1]);
    long long arrived = PyLong_AsLongLong(arguments[3]);
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(arguments[2], &data, &length) < 0)
        return NULL;
    int done = answer(lane, arguments[0], (int)socket, NULL, (Text){data, (size_t)length}, arrived);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *lane_keep_block(Lane *lane, PyObject *arguments)
{
    PyObject *block, *headers;
    if (!PyArg_ParseTuple(arguments, "SO:keep_block", &block, &headers) || recent_put(&lane->blocks, block, headers) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *lane_keep_file(Lane *lane, PyObject *arguments)
{
    PyObject *address, *entry, *location;
    const char *shared;
    Py_ssize_t length;
    long long size;
    if (!PyArg_ParseTuple(arguments, "SOOLy#:keep_file", &address, &entry, &location, &size, &shared, &length))
        return NULL;
    if (length > MOST_SHARED_BYTES)
        Py_RETURN_NONE;
    File *file = PyMem_Malloc(sizeof *file + (size_t)length);
    if (file == NULL)
        return PyErr_NoMemory();
    file->opened = NULL;
    file->number = -1;
    file->size = size;
    file->shared_length = (size_t)length;
    memcpy(file->shared, shared, (size_t)length);
    PyObject *capsule = PyCapsule_New(file, FILE_CAPSULE, file_destroy);
    if (capsule == NULL) {
        PyMem_Free(file);
        return NULL;
    }
    file->entry = Py_NewRef(entry);
    file->location = Py_NewRef(location);
    int kept = recent_put(&lane->files, address, capsule);
    Py_DECREF(capsule);
    if (kept < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *lane_take_lines(Lane *lane, PyObject *Py_UNUSED(nothing))
{
    return take_lines(&lane->lines);
}

static PyObject *lane_fileno(Lane *lane, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromLong(lane->listening);
}

static int traverse(Lane *lane, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(lane));
    Py_VISIT(lane->admit);
    Py_VISIT(lane->refusal);
    Py_VISIT(lane->find);
    Py_VISIT(lane->open);
    Py_VISIT(lane->file_type);
    Py_VISIT(lane->go_on);
    Py_VISIT(lane->log);
    Py_VISIT(lane->lines.wait);
    Py_VISIT(lane->blocks.young);
    Py_VISIT(lane->blocks.old);
    Py_VISIT(lane->files.young);
    Py_VISIT(lane->files.old);
    for (int socket = 0; socket < lane->slots_length; socket++)
        if (lane->slots[socket] != NULL)
            Py_VISIT(lane->slots[socket]->connection);
    return 0;
}

static int clear(Lane *lane)
{
    for (int socket = 0; socket < lane->slots_length; socket++)
        if (lane->slots[socket] != NULL)
            slot_free(lane, socket);
    Py_CLEAR(lane->admit);
    Py_CLEAR(lane->refusal);
    Py_CLEAR(lane->find);
    Py_CLEAR(lane->open);
    Py_CLEAR(lane->file_type);
    Py_CLEAR(lane->go_on);
    Py_CLEAR(lane->log);
    Py_CLEAR(lane->lines.wait);
    Py_CLEAR(lane->blocks.young);
    Py_CLEAR(lane->blocks.old);
    Py_CLEAR(lane->files.young);
    Py_CLEAR(lane->files.old);
    return 0;
}

static void dealloc(Lane *lane)
{
    PyTypeObject *type = Py_TYPE(lane);
    PyObject_GC_UnTrack(lane);
    clear(lane);
    PyMem_Free(lane->slots);
    if (lane->listening >= 0)
        close(lane->listening);
    Py_buffer *buffers[] = {&lane->board.histogram, &lane->board.counters, &lane->board.requests,
                            &lane->board.tags,      &lane->board.entries,  &lane->board.next};
    for (size_t at = 0; at < sizeof buffers / sizeof *buffers; at++)
        if (buffers[at]->obj != NULL)
            PyBuffer_Release(buffers[at]);
    Py_XDECREF(lane->method_get);
    Py_XDECREF(lane->method_head);
    Py_XDECREF(lane->abort);
    Py_XDECREF(lane->can_send_files);
    Py_XDECREF(lane->client);
    Py_XDECREF(lane->fileno);
    Py_XDECREF(lane->size);
    type->tp_free(lane);
    Py_DECREF(type);
}

/* Take the memory of a worker: ``SharedMemory`` of board.py. */
static int take_board(Board *board, PyObject *memory)
{
    unsigned long long worker;
    if (!PyArg_ParseTuple(memory, "w*w*w*w*w*w*KKKKnnK:board", &board->histogram, &board->counters, &board->requests,
                          &board->tags, &board->entries, &board->next, &board->buckets, &board->first, &board->last,
                          &board->capacity, &board->bytes_sent, &board->fast_lane, &worker))
        return -1;
    board->worker = (uint16_t)worker;
    Py_ssize_t words = board->counters.len / 8;
    if (board->last - board->first + 1 != board->buckets ||
        (uint64_t)board->histogram.len != STAGES_COUNTED * board->buckets * 8 || words < 4 || board->bytes_sent < 0 ||
        board->bytes_sent >= words || board->fast_lane < 0 || board->fast_lane >= words ||
        board->requests.len < (HEAD_NUMBER + 1) * STATUSES * 8 || !board->capacity ||
        (uint64_t)board->tags.len != board->capacity * 8 ||
        (uint64_t)board->entries.len != board->capacity * ENTRY_BYTES || board->next.len != 8) {
        PyErr_SetString(PyExc_ValueError, "the board is laid out otherwise");
        return -1;
    }
    return 0;
}

static int take_text(char to[SHORT_TEXT_BYTES], const char *text)
{
    size_t length = strlen(text);
    if (length >= SHORT_TEXT_BYTES) {
        PyErr_Format(PyExc_ValueError, "%s is longer than %d bytes", text, SHORT_TEXT_BYTES - 1);
        return -1;
    }
    memcpy(to, text, length + 1);
    return 0;
}

static int take_facts(Lines *lines, const char *facts, Py_ssize_t length)
{
    if (length > MOST_FACTS_BYTES) {
        PyErr_Format(PyExc_ValueError, "log_facts are longer than %d bytes", MOST_FACTS_BYTES);
        return -1;
    }
    lines->facts_length = facts == NULL ? 0 : (size_t)length;
    if (facts != NULL)
        memcpy(lines->facts, facts, (size_t)length);
    return 0;
}

static int recent_init(Recent *recent, Py_ssize_t most)
{
    recent->most = most;
    recent->young = PyDict_New();
    recent->old = PyDict_New();
    return recent->young == NULL || recent->old == NULL ? -1 : 0;
}

static PyObject *lane_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *known[] = {"admit", "refusal", "find",  "open_now",      "file_type",   "go_on",   "log",  "log_facts", "lines_wait", "board",
                            "source", "backend", "largest", "most_blocks", "most_files", "timed", NULL};
    Lane *lane = (Lane *)type->tp_alloc(type, 0); /* filled with zeros */
    PyObject *admit, *refusal, *find, *open, *file_type, *go_on, *log, *lines_wait, *board;
    const char *source, *backend, *facts;
    Py_ssize_t most_blocks, most_files, facts_length;
    int timed = 1;
    if (lane == NULL)
        return NULL;
    lane->listening = -1;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "OOOOO!OOz#OO!ssLnn|p:Lane", known, &admit, &refusal, &find, &open,
                                     &PyType_Type, &file_type, &go_on, &log, &facts, &facts_length, &lines_wait, &PyTuple_Type, &board, &source, &backend,
                                     &lane->largest, &most_blocks, &most_files, &timed) ||
        take_board(&lane->board, board) < 0 || take_text(lane->source, source) < 0 || take_facts(&lane->lines, facts, facts_length) < 0 ||
        take_text(lane->board.backend, backend) < 0 || recent_init(&lane->blocks, most_blocks) < 0 ||
        recent_init(&lane->files, most_files) < 0)
        goto failed;
    lane->timed = timed;
    lane->words.ids_at = sizeof lane->words.ids;
    lane->admit = Py_NewRef(admit);
    lane->refusal = Py_NewRef(refusal);
    lane->find = Py_NewRef(find);
    lane->open = Py_NewRef(open);
    lane->file_type = Py_NewRef(file_type);
    lane->go_on = Py_NewRef(go_on);
    lane->log = Py_NewRef(log);
    lane->lines.wait = Py_NewRef(lines_wait);
    if ((lane->method_get = PyUnicode_InternFromString("GET")) == NULL ||
        (lane->method_head = PyUnicode_InternFromString("HEAD")) == NULL ||
        (lane->abort = PyUnicode_InternFromString("abort")) == NULL ||
        (lane->can_send_files = PyUnicode_InternFromString("can_send_files")) == NULL ||
        (lane->client = PyUnicode_InternFromString("client")) == NULL ||
        (lane->fileno = PyUnicode_InternFromString("fileno")) == NULL ||
        (lane->size = PyUnicode_InternFromString("size")) == NULL)
        goto failed;
    lane->listening = epoll_create1(EPOLL_CLOEXEC);
    if (lane->listening < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto failed;
    }
    return (PyObject *)lane;
failed:
    Py_DECREF(lane);
    return NULL;
}

static PyMethodDef methods[] = {
    {"answer", (PyCFunction)(void (*)(void))lane_answer, METH_FASTCALL,
     "Answer a request; False, with nothing done, if it is not one for this lane."},
    {"keep_block", (PyCFunction)lane_keep_block, METH_VARARGS,
     "Know a block of headers, without the lines that differ from request to request."},
    {"keep_file", (PyCFunction)lane_keep_file, METH_VARARGS,
     "Know the headers of a file, for as long as find returns this very entry."},
    {"park", (PyCFunction)lane_park, METH_VARARGS,
     "Listen for a connection from now on. Raises OSError if that cannot be."},
    {"unpark", (PyCFunction)lane_unpark, METH_O, "Do not listen for it any more; repeats are harmless."},
    {"heard", (PyCFunction)lane_heard, METH_O,
     "Return when a parked connection was last answered or was parked, in nanoseconds; 0 if it is not parked."},
    {"turn", (PyCFunction)lane_turn, METH_NOARGS,
     "Answer what parked connections ask; to be called when fileno can be read."},
    {"take_lines", (PyCFunction)lane_take_lines, METH_NOARGS, "Return the log lines that wait; they wait no more."},
    {"fileno", (PyCFunction)lane_fileno, METH_NOARGS, "Return the descriptor of the epoll that listens."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, lane_new},        {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse},
    {Py_tp_clear, clear}, {Py_tp_methods, methods}, {0, NULL},
};

static PyType_Spec spec = {
    .name = "stat7store.server._lane.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    int added = type == NULL ? -1 : PyModule_AddObjectRef(module, "Lane", type);
    Py_XDECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "stat7store.server._lane",
    .m_size = 0,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__lane(void)
{
    return PyModuleDef_Init(&definition);
}
