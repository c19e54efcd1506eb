/* Writes the canonical form of an entity in its commonest shape. The rule: the result is what
 * coordinates.py writes, byte for byte, or None; nothing is refused here, and whatever is not exactly
 * of the shape below is left to it: dicts, strings, floats and whole numbers of just those types, no
 * neighbours, no state, printable ASCII that needs no escape, at most 8 decimals, a moment in UTC.
 *
 * References are borrowed throughout: nothing here runs Python code, so nothing can let go of them.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    char bytes[1024];
    size_t length;
} Text;

enum { CREATED_AT, ENTITY_TYPE, ID, REALM, COORDINATES, STATE, ENTITY_FIELDS };
static const char *const entity_fields[] = {"created_at", "entity_type", "id", "realm", "stat7_coordinates", "state"};

enum { ADJACENCY, DENSITY, HORIZON, LINEAGE, WHERE_REALM, RESONANCE, VELOCITY, COORDINATES_FIELDS };
static const char *const coordinates_fields[] = {"adjacency", "density", "horizon", "lineage", "realm", "resonance",
                                                 "velocity"};

static const char *const horizons[] = {"genesis", "emergence", "peak", "decay", "crystallization"};

/* The characters of a str that is ASCII, and their number; NULL for any other object. */
static const char *
ascii(PyObject *object, size_t *length)
{
    if (!PyUnicode_CheckExact(object) || !PyUnicode_IS_COMPACT_ASCII(object))
        return NULL;
    *length = (size_t)PyUnicode_GET_LENGTH(object);
    return PyUnicode_DATA(object);
}

/* Which of the words it is; -1: none of them. */
static int
word_among(const char *const *words, int count, PyObject *object)
{
    size_t length;
    const char *characters = ascii(object, &length);
    if (characters == NULL)
        return -1;
    for (int i = 0; i < count; i++)
        if (words[i][0] == characters[0] && strlen(words[i]) == length && memcmp(words[i], characters, length) == 0)
            return i;
    return -1;
}

/* The values of a dict with exactly these keys, in this order. Its keys differ, so as many as there are
 * fields, each of them a field, are all of them. */
static bool
values_of(PyObject *object, const char *const *fields, int count, PyObject **values)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    if (!PyDict_CheckExact(object) || PyDict_GET_SIZE(object) != count)
        return false;
    while (PyDict_Next(object, &position, &key, &value)) {
        int field = word_among(fields, count, key);
        if (field < 0)
            return false;
        values[field] = value;
    }
    return true;
}

/* A text that does not fit is not in its commonest shape. */
static bool
put(Text *text, const char *characters, size_t length)
{
    if (length > sizeof text->bytes - text->length)
        return false;
    memcpy(text->bytes + text->length, characters, length);
    text->length += length;
    return true;
}

#define PUT(text, literal) put(text, literal, sizeof(literal) - 1)

static bool
put_name(Text *text, PyObject *name)
{
    size_t length;
    const char *characters = ascii(name, &length);
    if (characters == NULL || length == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = characters[i];
        if (c < ' ' || c > '~' || c == '"' || c == '\\')
            return false;
    }
    return put(text, characters, length);
}

static bool
put_horizon(Text *text, PyObject *object)
{
    int word = word_among(horizons, sizeof horizons / sizeof *horizons, object);
    if (word < 0)
        return false;
    return put(text, horizons[word], strlen(horizons[word]));
}

static bool
put_lineage(Text *text, PyObject *object)
{
    char digits[20];
    size_t start = sizeof digits;
    int overflow;
    if (!PyLong_CheckExact(object))
        return false;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow); /* -1 if it does not fit */
    if (number < 0)
        return false;
    do
        digits[--start] = (char)('0' + number % 10);
    while (number /= 10);
    return put(text, digits + start, sizeof digits - start);
}

_Static_assert(FLT_EVAL_METHOD == 0, "a quotient must be rounded to a double");

/* A number that is the nearest to a decimal of 8 places has that decimal for its shortest form: two of at
 * most 15 digits never share a nearest number. Division is correctly rounded, so it tells whether it is. */
static bool
put_decimal(Text *text, PyObject *object, double least)
{
    if (!PyFloat_CheckExact(object))
        return false;
    double value = PyFloat_AS_DOUBLE(object);
    if (!(value >= least && value <= 1.0))
        return false;
    double size = value < 0.0 ? -value : value;
    uint32_t steps = (uint32_t)(size * 1e8 + 0.5);
    if (steps / 1e8 != size)
        return false;
    char digits[] = "0.00000000";
    size_t last = 9;
    digits[0] = (char)('0' + steps / 100000000);
    for (size_t i = 9; i > 1; i--, steps /= 10)
        digits[i] = (char)('0' + steps % 10);
    while (last > 2 && digits[last] == '0')
        last--;
    return (value >= 0.0 || PUT(text, "-")) && put(text, digits, last + 1);
}

static int
two_digits(const char *at)
{
    return 10 * (at[0] - '0') + (at[1] - '0');
}

static bool
is_day(const char *date)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year = 100 * two_digits(date) + two_digits(date + 2), month = two_digits(date + 5), day = two_digits(date + 8);
    if (year < 1 || month < 1 || month > 12)
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return day >= 1 && day <= days[month - 1] + (leap && month == 2);
}

/* 2025-01-01T00:00:00, perhaps a fraction of a second, and Z or +00:00. */
static bool
put_moment(Text *text, PyObject *object)
{
    static const char form[] = "0000-00-00T00:00:00";
    enum { SECONDS = sizeof form - 1 };
    size_t length;
    const char *moment = ascii(object, &length);
    if (moment == NULL || length <= SECONDS)
        return false;
    for (size_t i = 0; i < SECONDS; i++)
        if (form[i] == '0' ? moment[i] < '0' || moment[i] > '9' : moment[i] != form[i])
            return false;
    if (!is_day(moment) || two_digits(moment + 11) > 23 || two_digits(moment + 14) > 59 || two_digits(moment + 17) > 59)
        return false;
    char milliseconds[] = ".000";
    size_t at = SECONDS;
    if (moment[at] == '.') {
        for (at++; at < length && moment[at] >= '0' && moment[at] <= '9'; at++)
            if (at < SECONDS + 4)
                milliseconds[at - SECONDS] = moment[at];
        if (at == SECONDS + 1)
            return false;
    }
    const char *zone = moment + at;
    size_t rest = length - at;
    if (!(rest == 1 && *zone == 'Z') && !(rest == 6 && memcmp(zone, "+00:00", 6) == 0))
        return false;
    return put(text, moment, SECONDS) && PUT(text, milliseconds) && PUT(text, "Z");
}

static bool
is_empty(PyObject *adjacency, PyObject *state)
{
    return PyList_CheckExact(adjacency) && PyList_GET_SIZE(adjacency) == 0 && PyDict_CheckExact(state) &&
           PyDict_GET_SIZE(state) == 0;
}

static bool
put_entity(Text *text, PyObject *entity)
{
    PyObject *is[ENTITY_FIELDS], *where[COORDINATES_FIELDS];
    return values_of(entity, entity_fields, ENTITY_FIELDS, is) &&
           values_of(is[COORDINATES], coordinates_fields, COORDINATES_FIELDS, where) &&
           is_empty(where[ADJACENCY], is[STATE]) &&
           PUT(text, "{\"created_at\":\"") && put_moment(text, is[CREATED_AT]) &&
           PUT(text, "\",\"entity_type\":\"") && put_name(text, is[ENTITY_TYPE]) &&
           PUT(text, "\",\"id\":\"") && put_name(text, is[ID]) &&
           PUT(text, "\",\"realm\":\"") && put_name(text, is[REALM]) &&
           PUT(text, "\",\"stat7_coordinates\":{\"adjacency\":[],\"density\":") &&
           put_decimal(text, where[DENSITY], 0.0) &&
           PUT(text, ",\"horizon\":\"") && put_horizon(text, where[HORIZON]) &&
           PUT(text, "\",\"lineage\":") && put_lineage(text, where[LINEAGE]) &&
           PUT(text, ",\"realm\":\"") && put_name(text, where[WHERE_REALM]) &&
           PUT(text, "\",\"resonance\":") && put_decimal(text, where[RESONANCE], -1.0) &&
           PUT(text, ",\"velocity\":") && put_decimal(text, where[VELOCITY], -1.0) &&
           PUT(text, "},\"state\":{}}");
}

static PyObject *
plain_form(PyObject *module, PyObject *entity)
{
    (void)module;
    Text text;
    text.length = 0;
    if (!put_entity(&text, entity))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(text.bytes, (Py_ssize_t)text.length);
}

static PyMethodDef functions[] = {
    {"plain_form", plain_form, METH_O, "Return the canonical form of an entity, or None if it is not plain."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_plain",
    .m_doc = "The canonical form of plain entities; see coordinates.py.",
    .m_size = 0,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__plain(void)
{
    return PyModuleDef_Init(&definition);
}
