/* Reads the index's values. The rule: the result is what codec.py reads in Python; what is not whole, or
 * not of the usual types, is left to it, and it decides what that means.
 *
 * XXH32 as its specification has it (doc/xxhash_spec.md of the xxHash project), with seed 0.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { ADDRESS_BYTES = 32 };

/* A locator as it is written: where each part begins. */
enum { NUMBER = 0, SIZE = 8, CODE = 16, BACKEND = 18, FLAGS = 19, TOKEN = 20, CHECKSUM = 36, LOCATOR_BYTES = 40 };

enum { DAMAGED = 0x01, TOKEN_LENGTH_SHIFT = 4 }; /* the upper half of the flags is the token's length, less one */

/* All numbers are written little-endian; written out like this, compilers make one load of it. */
static uint32_t
word(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t
long_word(const unsigned char *at)
{
    return word(at) | (uint64_t)word(at + 4) << 32;
}

#define PRIME_1 0x9E3779B1u
#define PRIME_2 0x85EBCA77u
#define PRIME_3 0xC2B2AE3Du
#define PRIME_4 0x27D4EB2Fu
#define PRIME_5 0x165667B1u

static uint32_t
rotated(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

/* Of a whole number of words, 16 bytes at least. */
static uint32_t
xxh32(const unsigned char *data, size_t length)
{
    const unsigned char *end = data + length;
    uint32_t lanes[4] = {PRIME_1 + PRIME_2, PRIME_2, 0, -PRIME_1};
    for (; end - data >= 16; data += 16)
        for (int i = 0; i < 4; i++)
            lanes[i] = rotated(lanes[i] + word(data + 4 * i) * PRIME_2, 13) * PRIME_1;
    uint32_t sum = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18);
    sum += (uint32_t)length;
    for (; data < end; data += 4)
        sum = rotated(sum + word(data) * PRIME_3, 17) * PRIME_4;
    sum = (sum ^ sum >> 15) * PRIME_2;
    sum = (sum ^ sum >> 13) * PRIME_3;
    return sum ^ sum >> 16;
}

static bool
is_whole(const unsigned char *address, const unsigned char *value)
{
    unsigned char checked[ADDRESS_BYTES + CHECKSUM];
    memcpy(checked, address, ADDRESS_BYTES);
    memcpy(checked + ADDRESS_BYTES, value, CHECKSUM);
    return xxh32(checked, sizeof checked) == word(value + CHECKSUM);
}

static PyObject *
hex(const unsigned char *address)
{
    static const char digits[] = "0123456789abcdef";
    PyObject *text = PyUnicode_New(2 * ADDRESS_BYTES, 127);
    if (text == NULL)
        return NULL;
    Py_UCS1 *at = PyUnicode_1BYTE_DATA(text);
    for (int i = 0; i < ADDRESS_BYTES; i++) {
        *at++ = (Py_UCS1)digits[address[i] >> 4];
        *at++ = (Py_UCS1)digits[address[i] & 15];
    }
    return text;
}

/* Call a type with so many new references, none of which outlives this; if one is NULL, an error is set. */
static PyObject *
made(PyObject *type, PyObject **parts, size_t count)
{
    PyObject *result = NULL;
    bool complete = true;
    for (size_t i = 0; i < count; i++)
        complete = complete && parts[i] != NULL;
    if (complete)
        result = PyObject_Vectorcall(type, parts, count, NULL);
    for (size_t i = 0; i < count; i++)
        Py_XDECREF(parts[i]);
    return result;
}

static PyObject *
location_of(PyObject *type, const unsigned char *address, const unsigned char *value)
{
    PyObject *parts[] = {
        hex(address),
        PyBytes_FromStringAndSize((const char *)value + TOKEN, (value[FLAGS] >> TOKEN_LENGTH_SHIFT) + 1),
    };
    return made(type, parts, 2);
}

/* A new reference to the media type; NULL without an error if the table does not have it. */
static PyObject *
media_type_of(PyObject *table, const unsigned char *value)
{
    PyObject *code = PyLong_FromLong(value[CODE] | value[CODE + 1] << 8);
    if (code == NULL)
        return NULL;
    PyObject *media_type = PyDict_GetItemWithError(table, code);
    Py_XINCREF(media_type);
    Py_DECREF(code);
    return media_type;
}

/* What a reader is bound to: the types it makes, and what to ask where it cannot tell. */
enum { LOCATOR_TYPE, LOCATION_TYPE, OTHERWISE };

static PyObject *
read_locator(PyObject *bound, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "3 arguments are needed, not %zd", count);
    PyObject *address_object = arguments[0], *value_object = arguments[1], *media_types = arguments[2];
    PyObject *media_type = NULL;
    const unsigned char *address = NULL, *value = NULL;
    if (PyBytes_Check(address_object) && PyBytes_GET_SIZE(address_object) == ADDRESS_BYTES &&
        PyBytes_Check(value_object) && PyBytes_GET_SIZE(value_object) == LOCATOR_BYTES && PyDict_Check(media_types)) {
        address = (const unsigned char *)PyBytes_AS_STRING(address_object);
        value = (const unsigned char *)PyBytes_AS_STRING(value_object);
        if (is_whole(address, value))
            media_type = media_type_of(media_types, value);
    }
    if (media_type == NULL) {
        if (PyErr_Occurred())
            return NULL;
        return PyObject_Vectorcall(PyTuple_GET_ITEM(bound, OTHERWISE), arguments, 3, NULL);
    }
    PyObject *parts[] = {
        PyLong_FromUnsignedLongLong(long_word(value + NUMBER)),
        PyLong_FromUnsignedLongLong(long_word(value + SIZE)),
        media_type,
        location_of(PyTuple_GET_ITEM(bound, LOCATION_TYPE), address, value),
        PyLong_FromLong(value[BACKEND]),
        PyBool_FromLong(value[FLAGS] & DAMAGED),
    };
    return made(PyTuple_GET_ITEM(bound, LOCATOR_TYPE), parts, 6);
}

static PyMethodDef reader = {"read_locator", (PyCFunction)(void (*)(void))read_locator, METH_FASTCALL,
                             "Return the locator that a value holds."};

static PyObject *
locator_reader(PyObject *module, PyObject *bound)
{
    (void)module;
    if (PyTuple_GET_SIZE(bound) != 3)
        return PyErr_Format(PyExc_TypeError, "3 arguments are needed, not %zd", PyTuple_GET_SIZE(bound));
    return PyCFunction_New(&reader, bound);
}

static PyMethodDef functions[] = {
    {"locator_reader", locator_reader, METH_VARARGS,
     "Return a function that reads locators: of these two types, or what the third makes of its arguments."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_codec",
    .m_doc = "The index's values, read in C; see codec.py.",
    .m_size = 0,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__codec(void)
{
    return PyModuleDef_Init(&definition);
}
