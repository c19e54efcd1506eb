/* Reading a request: which file it asks for, and what the few headers say that differ from one request to the
 * next. What is not in the plainest form is not understood here, and so is left to others. */

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#define MOST_REQUEST_BYTES 4096
#define DIGITS 64
#define REQUEST_ID_BYTES 128
#define RANGE_BYTES 124

typedef struct {
    const char *at;
    size_t length;
} Text;

/* ``block``: the headers with their empty line, but for those below, which are NULL where they are not given. */
typedef struct {
    bool is_head;
    const char *digits;
    uint8_t address[32];
    Text block, range, none_match, request_id;
} Request;

static bool read_address(const char *digits, uint8_t *address)
{
    /* one more than what each digit means; a branch for each would be guessed wrong half the time */
    static const uint8_t MEANING[256] = {
        ['0'] = 1, ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
        ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    };
    bool all = true;
    for (int place = 0; place < DIGITS / 2; place++) {
        uint8_t high = MEANING[(uint8_t)digits[2 * place]], low = MEANING[(uint8_t)digits[2 * place + 1]];
        all &= (high != 0) & (low != 0);
        address[place] = (uint8_t)((high - 1) * 16 + low - 1);
    }
    return all;
}

/* Tell whether a text is not there, or has 1 to ``most`` letters, digits and these. */
static bool is_made_of(Text text, size_t most, const char *others)
{
    for (size_t place = 0; place < text.length; place++) {
        char one = text.at[place], letter = one | 0x20;
        if (!((one >= '0' && one <= '9') || (letter >= 'a' && letter <= 'z') || (one && strchr(others, one))))
            return false;
    }
    return text.at == NULL || (text.length > 0 && text.length <= most);
}

/* Take the value of a line ``name: value`` (one space at most) if its name is this one; false if it is another. */
static bool take(const char *line, size_t length, const char *name, Text *value, bool *twice)
{
    size_t named = strlen(name);
    if (length <= named || line[named] != ':' || strncasecmp(line, name, named) != 0)
        return false;
    *twice |= value->at != NULL;
    named++;
    if (named < length && line[named] == ' ')
        named++;
    *value = (Text){line + named, length - named};
    return true;
}

/* Read a whole request; ``room`` is for its block, if that has to be put together anew.
 * False if it is not in the plainest form. */
static bool read_request(const char *data, size_t length, Request *request, char room[MOST_REQUEST_BYTES])
{
    static const char GET[] = "GET /v1/files/", HEAD[] = "HEAD /v1/files/", VERSION[] = " HTTP/1.1\r\n";
    memset(request, 0, sizeof *request);
    if (length > MOST_REQUEST_BYTES || length < sizeof HEAD + DIGITS + sizeof VERSION + 2)
        return false;
    request->is_head = data[0] == 'H';
    size_t at = request->is_head ? sizeof HEAD - 1 : sizeof GET - 1;
    if (memcmp(data, request->is_head ? HEAD : GET, at) != 0)
        return false;
    request->digits = data + at;
    at += DIGITS;
    if (memcmp(data + at, VERSION, sizeof VERSION - 1) != 0 || memcmp(data + length - 4, "\r\n\r\n", 4) != 0)
        return false;
    at += sizeof VERSION - 1;
    if (!read_address(request->digits, request->address))
        return false;
    /* what is in between is compared with blocks that were read before, so it need not be looked at closely */
    size_t kept = 0;
    bool twice = false;
    for (const char *line = data + at, *end = data + length - 2; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(data + length - line));
        size_t whole = (size_t)(stop - line) + 1;
        if (whole < 3 || stop[-1] != '\r')
            return false;
        char first = line[0] | 0x20;
        if (!((first == 'r' && take(line, whole - 2, "range", &request->range, &twice)) ||
              (first == 'i' && take(line, whole - 2, "if-none-match", &request->none_match, &twice)) ||
              (first == 'x' && take(line, whole - 2, "x-request-id", &request->request_id, &twice)))) {
            memcpy(room + kept, line, whole);
            kept += whole;
        }
        line += whole;
    }
    memcpy(room + kept, "\r\n", 2);
    request->block = (Text){room, kept + 2};
    return !twice && is_made_of(request->request_id, REQUEST_ID_BYTES, ".-_") && is_made_of(request->range, RANGE_BYTES, "=,-");
}

/* Read digits up to the end or up to a hyphen; false if there are none, or too many to count with. */
static bool read_number(const char **at, const char *end, int64_t *number)
{
    const char *begun = *at;
    *number = 0;
    while (*at < end && **at >= '0' && **at <= '9' && *at - begun < 18)
        *number = *number * 10 + (*(*at)++ - '0');
    return *at > begun;
}

/* Read ``bytes=a-b``, ``bytes=a-`` or ``bytes=-n`` for a file of ``size`` bytes; false if it is none of these, or
 * has no byte of the file. */
static bool read_range(Text range, int64_t size, int64_t *start, int64_t *length)
{
    static const char UNIT[] = "bytes=";
    const char *at = range.at + sizeof UNIT - 1, *end = range.at + range.length;
    int64_t first, last;
    if (range.length < sizeof UNIT + 1 || range.length > 48 || memcmp(range.at, UNIT, sizeof UNIT - 1) != 0)
        return false;
    if (*at == '-') {
        at++;
        if (!read_number(&at, end, &last) || at != end || last == 0 || size == 0)
            return false;
        *length = last < size ? last : size;
        *start = size - *length;
        return true;
    }
    if (!read_number(&at, end, &first) || at == end || *at++ != '-' || first >= size)
        return false;
    last = size - 1;
    if (at != end && (!read_number(&at, end, &last) || at != end || last < first))
        return false;
    if (last >= size)
        last = size - 1;
    *start = first;
    *length = last - first + 1;
    return true;
}
