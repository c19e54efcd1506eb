/* Reads a folder and tells its unchanged files from all else. The rule: what it yields is what scan.py
 * yields in Python, in whatever order the folder is read; each file that is not plainly the one that the
 * journal knows is among the others, and walk.py decides what that means.
 *
 * The interpreter's lock is free while a slice is read.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A row as remembered.py writes it: the length of a name, the name, facts, an address. */
enum { LENGTH_BYTES = 2, FACTS_BYTES = 24, ROW_BYTES = FACTS_BYTES + 32 };

typedef struct {
    PyObject_HEAD
    DIR *folder;
    PyObject *rows;          /* bytes */
    const uint8_t **starts;  /* of each row, in the order of the names */
    size_t count;
    bool folders;            /* whether one was seen */
} Scan;

/* What a slice holds of one name. */
typedef struct {
    size_t name;          /* where it begins among the names of the slice */
    size_t length;
    const uint8_t *row;   /* of an unchanged file; else NULL */
} Seen;

typedef struct {
    Seen *seen;
    size_t count;
    char *names;
    size_t used, room;
    uint64_t size; /* of the unchanged, in bytes */
} Slice;

static size_t
length_at(const uint8_t *row)
{
    return row[0] | (size_t)row[1] << 8;
}

static uint64_t
little_endian(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* Find where the rows begin, as far as they are whole. */
static bool
index_rows(Scan *self)
{
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(self->rows), *end = at + PyBytes_GET_SIZE(self->rows);
    self->starts = malloc((size_t)(end - at) / (LENGTH_BYTES + ROW_BYTES) * sizeof *self->starts + 1);
    if (self->starts == NULL)
        return false;
    while (end - at >= LENGTH_BYTES + ROW_BYTES && (size_t)(end - at) >= LENGTH_BYTES + length_at(at) + ROW_BYTES) {
        self->starts[self->count++] = at;
        at += LENGTH_BYTES + length_at(at) + ROW_BYTES;
    }
    return true;
}

/* The facts and the address that are remembered of a name; NULL if there are none. */
static const uint8_t *
remembered(const Scan *self, const char *name, size_t length)
{
    size_t low = 0, high = self->count;
    while (low < high) {
        size_t middle = (low + high) / 2, other = length_at(self->starts[middle]);
        int order = memcmp(self->starts[middle] + LENGTH_BYTES, name, other < length ? other : length);
        if (order == 0 && other == length)
            return self->starts[middle] + LENGTH_BYTES + length;
        if (order < 0 || (order == 0 && other < length))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static bool
is_same(int folder, const char *name, const uint8_t *row)
{
    struct stat status;
    return fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode) &&
           (uint64_t)status.st_size == little_endian(row) &&
           (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec == little_endian(row + 8) &&
           (uint64_t)status.st_ino == little_endian(row + 16);
}

static bool
add(Slice *slice, const char *name, const uint8_t *row)
{
    size_t length = strlen(name);
    if (slice->room - slice->used < length) {
        size_t room = 2 * slice->room + length + 4096;
        char *names = realloc(slice->names, room);
        if (names == NULL)
            return false;
        slice->names = names;
        slice->room = room;
    }
    memcpy(slice->names + slice->used, name, length);
    slice->seen[slice->count++] = (Seen){slice->used, length, row};
    slice->used += length;
    if (row != NULL)
        slice->size += little_endian(row);
    return true;
}

static void
end(Scan *self)
{
    rewinddir(self->folder); /* the place in the folder is shared with the descriptor that was given */
    closedir(self->folder);
    self->folder = NULL;
}

/* Read until there are so many names, or no more. Returns 0 or an error's number. */
static int
read_slice(Scan *self, Slice *slice, size_t most)
{
    while (slice->count < most) {
        errno = 0;
        const struct dirent *entry = readdir(self->folder);
        if (entry == NULL)
            return errno;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (entry->d_type == DT_DIR) {
            self->folders = true;
            continue;
        }
        const uint8_t *row = NULL;
        if (entry->d_type == DT_REG && name[0] != '.')
            row = remembered(self, name, strlen(name));
        if (row != NULL && !is_same(dirfd(self->folder), name, row))
            row = NULL;
        if (!add(slice, name, row))
            return ENOMEM;
    }
    return 0;
}

/* Add a new bytes object to a list. */
static bool
append(PyObject *list, const void *data, size_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
    bool done = bytes != NULL && PyList_Append(list, bytes) == 0;
    Py_XDECREF(bytes);
    return done;
}

static PyObject *
as_lists(const Slice *slice)
{
    PyObject *names = PyList_New(0), *rows = PyList_New(0), *others = PyList_New(0);
    bool whole = names != NULL && rows != NULL && others != NULL;
    for (size_t i = 0; whole && i < slice->count; i++) {
        const Seen *seen = &slice->seen[i];
        const char *name = slice->names + seen->name;
        if (seen->row == NULL)
            whole = append(others, name, seen->length);
        else
            whole = append(names, name, seen->length) && append(rows, seen->row, ROW_BYTES);
    }
    PyObject *size = whole ? PyLong_FromUnsignedLongLong(slice->size) : NULL;
    PyObject *result = size == NULL ? NULL : PyTuple_Pack(4, names, rows, size, others);
    Py_XDECREF(size);
    Py_XDECREF(names);
    Py_XDECREF(rows);
    Py_XDECREF(others);
    return result;
}

static PyObject *
scan_next(Scan *self, PyObject *argument)
{
    size_t most = PyLong_AsSize_t(argument);
    if (most == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (self->folder == NULL)
        Py_RETURN_NONE;
    Slice slice = {.seen = PyMem_New(Seen, most)};
    if (slice.seen == NULL)
        return PyErr_NoMemory();
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = read_slice(self, &slice, most);
    if (error != 0 || slice.count < most) /* an error is final: what was read before it is lost with it */
        end(self);
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (error == 0)
        result = as_lists(&slice);
    else if (error == ENOMEM)
        PyErr_NoMemory();
    else {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    PyMem_Free(slice.seen);
    free(slice.names);
    return result;
}

static PyObject *
scan_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    int folder;
    PyObject *rows;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) != 0)
        return PyErr_Format(PyExc_TypeError, "no keywords are taken");
    if (!PyArg_ParseTuple(arguments, "iS", &folder, &rows))
        return NULL;
    Scan *self = (Scan *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    Py_INCREF(rows);
    self->rows = rows;
    if (!index_rows(self)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    int own = fcntl(folder, F_DUPFD_CLOEXEC, 0); /* closedir closes it */
    if (own < 0 || (self->folder = fdopendir(own)) == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (own >= 0)
            close(own);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
scan_free(Scan *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->folder != NULL)
        end(self);
    free(self->starts);
    Py_XDECREF(self->rows);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
scan_folders(Scan *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->folders);
}

static PyMethodDef scan_methods[] = {
    {"next", (PyCFunction)scan_next, METH_O, "Return the next slice; None at the end."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scan_attributes[] = {
    {"folders", (getter)scan_folders, NULL, "Whether a folder was seen.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot scan_slots[] = {
    {Py_tp_new, scan_new},
    {Py_tp_dealloc, scan_free},
    {Py_tp_methods, scan_methods},
    {Py_tp_getset, scan_attributes},
    {0, NULL},
};

static PyType_Spec scan_type = {
    .name = "stat7store.importer._scan.Scan",
    .basicsize = sizeof(Scan),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = scan_slots,
};

static int
fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&scan_type);
    int done = type == NULL ? -1 : PyModule_AddObjectRef(module, "Scan", type);
    Py_XDECREF(type);
    return done;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_scan",
    .m_doc = "Folders, read in C; see scan.py.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__scan(void)
{
    return PyModuleDef_Init(&definition);
}
