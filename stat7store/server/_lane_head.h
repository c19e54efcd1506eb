/* Writing the head of an answer, word for word as retrieval.py and the framework do. */

#pragma once

#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <sys/types.h>
#include <time.h>

#define MOST_SHARED_BYTES 3072 /* of the headers of a file; longer ones are left to Python */
#define DRAFT_BYTES (MOST_SHARED_BYTES + 1024)
#define NEW_ID_BYTES 16
#define NEW_ID_DIGITS (2 * NEW_ID_BYTES)
#define IDS_AT_ONCE 128

/* A text that is being put together: a head, or a log line. */
typedef struct {
    size_t length;
    char text[DRAFT_BYTES];
} Draft;

/* What differs by the second, and ids that were not used yet. ``wall``: how far the wall clock is ahead of the
 * monotonic one, in nanoseconds. */
typedef struct {
    time_t second;
    int64_t wall;
    size_t date_length;
    char date[40];
    size_t ids_at;
    char ids[IDS_AT_ONCE * NEW_ID_DIGITS];
} Words;

static inline void put(Draft *draft, const char *text, size_t length)
{
    memcpy(draft->text + draft->length, text, length);
    draft->length += length;
}

#define PUT(draft, literal) put(draft, literal, sizeof(literal) - 1)

static void put_number(Draft *draft, uint64_t number)
{
    size_t length = 1;
    for (uint64_t more = number; more >= 10; more /= 10)
        length++;
    draft->length += length;
    char *end = draft->text + draft->length;
    do
        *--end = (char)('0' + number % 10);
    while (number /= 10);
}

/* Write nanoseconds as milliseconds with four decimals. */
static void put_duration(Draft *draft, uint64_t ns)
{
    uint64_t units = (ns + 50) / 100;
    unsigned rest = (unsigned)(units % 10000);
    put_number(draft, units / 10000);
    const char decimals[] = {'.', (char)('0' + rest / 1000), (char)('0' + rest / 100 % 10),
                             (char)('0' + rest / 10 % 10), (char)('0' + rest % 10)};
    put(draft, decimals, sizeof decimals);
}

/* Nanoseconds of the clock that time.perf_counter_ns and the event loop read, too. */
static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Write the moment as RFC 9110 §5.6.7 has it. */
static void put_date(Draft *draft, Words *words)
{
    static const char DAYS[] = "SunMonTueWedThuFriSat", MONTHS[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t second = time(NULL);
    if (second != words->second) {
        struct tm moment;
        gmtime_r(&second, &moment);
        int length = snprintf(words->date, sizeof words->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
                              DAYS + 3 * moment.tm_wday, moment.tm_mday, MONTHS + 3 * moment.tm_mon,
                              moment.tm_year + 1900, moment.tm_hour, moment.tm_min, moment.tm_sec);
        words->date_length = (size_t)length < sizeof words->date ? (size_t)length : sizeof words->date - 1;
        words->second = second;
        struct timespec wall;
        clock_gettime(CLOCK_REALTIME, &wall);
        words->wall = wall.tv_sec * 1000000000LL + wall.tv_nsec - clock_ns();
    }
    put(draft, words->date, words->date_length);
}

/* Return the hex digits of 128 random bits; NULL if the kernel has none. */
static const char *new_id(Words *words)
{
    static const char HEX[] = "0123456789abcdef";
    if (words->ids_at == sizeof words->ids) {
        unsigned char bytes[IDS_AT_ONCE * NEW_ID_BYTES];
        for (size_t got = 0; got < sizeof bytes;) {
            ssize_t more = getrandom(bytes + got, sizeof bytes - got, 0);
            if (more < 0 && errno != EINTR)
                return NULL;
            got += more < 0 ? 0 : (size_t)more;
        }
        for (size_t place = 0; place < sizeof bytes; place++) {
            words->ids[2 * place] = HEX[bytes[place] >> 4];
            words->ids[2 * place + 1] = HEX[bytes[place] & 15];
        }
        words->ids_at = 0;
    }
    words->ids_at += NEW_ID_DIGITS;
    return words->ids + words->ids_at - NEW_ID_DIGITS;
}
