/* The memory in which a worker counts and keeps its retrievals: the same places, written the same way, as
 * by histograms.py, ring.py, requests.py and board.py, which say what they mean and read them. */

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_lane_request.h"

#define STAGES_COUNTED 6
#define STATUSES 500
#define FIRST_STATUS 100
#define ENTRY_BYTES 448
#define METHOD_BYTES 8
#define SHORT_TEXT_BYTES 16

typedef struct {
    uint64_t ended, at;
    uint64_t queue, index, metadata, disk_first, disk, network, total;
    uint64_t sent, unsent;
} Figures;

/* One entry of the ring, as ring.py lays it out: the checksum of all that follows it and is used, then the record.
 * ``texts``: the request id, and right behind it the range. */
typedef struct {
    uint8_t checksum[8];
    uint64_t sequence;
    Figures figures;
    uint16_t status, worker;
    uint8_t address[32];
    char method[METHOD_BYTES];
    char source[SHORT_TEXT_BYTES];
    char backend[SHORT_TEXT_BYTES];
    uint8_t request_id_length, range_length;
    char texts[REQUEST_ID_BYTES + RANGE_BYTES + 14];
} Entry;

_Static_assert(sizeof(Entry) == ENTRY_BYTES, "ring.py lays entries out otherwise");

typedef struct {
    Py_buffer histogram, counters, requests, tags, entries, next;
    uint64_t buckets, first, last, capacity;
    Py_ssize_t bytes_sent, fast_lane;
    uint16_t worker;
    char backend[SHORT_TEXT_BYTES];
} Board;

/* XXH64, seed 0: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md */

#define PRIME_1 0x9E3779B185EBCA87u
#define PRIME_2 0xC2B2AE3D27D4EB4Fu
#define PRIME_3 0x165667B19E3779F9u
#define PRIME_4 0x85EBCA77C2B2AE63u
#define PRIME_5 0x27D4EB2F165667C5u

static inline uint64_t rotated(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static inline uint64_t little_endian(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline uint64_t xxh64_round(uint64_t lane, uint64_t input)
{
    return rotated(lane + input * PRIME_2, 31) * PRIME_1;
}

static inline uint64_t xxh64_merged(uint64_t hash, uint64_t lane)
{
    return (hash ^ xxh64_round(0, lane)) * PRIME_1 + PRIME_4;
}

static uint64_t xxh64(const void *data, size_t length)
{
    const uint8_t *at = data, *end = at + length;
    uint64_t hash = PRIME_5;
    if (length >= 32) {
        uint64_t a = PRIME_1 + PRIME_2, b = PRIME_2, c = 0, d = 0 - PRIME_1;
        for (; end - at >= 32; at += 32) {
            a = xxh64_round(a, little_endian(at));
            b = xxh64_round(b, little_endian(at + 8));
            c = xxh64_round(c, little_endian(at + 16));
            d = xxh64_round(d, little_endian(at + 24));
        }
        hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
        hash = xxh64_merged(xxh64_merged(xxh64_merged(xxh64_merged(hash, a), b), c), d);
    }
    hash += length;
    for (; end - at >= 8; at += 8)
        hash = rotated(hash ^ xxh64_round(0, little_endian(at)), 27) * PRIME_1 + PRIME_4;
    if (end - at >= 4) {
        uint64_t half = at[0] | at[1] << 8 | at[2] << 16 | (uint64_t)at[3] << 24;
        hash = rotated(hash ^ half * PRIME_1, 23) * PRIME_2 + PRIME_3;
        at += 4;
    }
    for (; at < end; at++)
        hash = rotated(hash ^ *at * PRIME_5, 11) * PRIME_1;
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

static void count_duration(const Board *board, int stage, uint64_t ns)
{
    float rounded = (float)(double)ns;
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    uint64_t half = bits >> 16;
    if (half > board->last)
        half = board->last;
    if (half)
        ((uint64_t *)board->histogram.buf)[(uint64_t)stage * board->buckets + half - board->first]++;
}

/* Count one retrieval and keep its record. ``method`` and ``source`` are filled up with zeros. */
static void board_record(const Board *board, const Figures *figures, int status, const uint8_t *address,
                         const char *method, const char *source, Text request_id, Text range)
{
    const uint64_t durations[STAGES_COUNTED] = {figures->queue, figures->index,   figures->metadata,
                                                figures->disk,  figures->network, figures->total};
    for (int stage = 0; stage < STAGES_COUNTED; stage++)
        count_duration(board, stage, durations[stage]);
    uint64_t *counters = board->counters.buf;
    counters[status / 100 - 2]++;
    counters[board->bytes_sent] += figures->sent;
    /* last, so that whoever finds the record finds it counted */
    uint64_t sequence = (*(uint64_t *)board->next.buf)++, position = sequence % board->capacity;
    Entry *entry = (Entry *)board->entries.buf + position;
    entry->sequence = sequence;
    entry->figures = *figures;
    entry->status = (uint16_t)status;
    entry->worker = board->worker;
    memcpy(entry->address, address, sizeof entry->address);
    memcpy(entry->method, method, sizeof entry->method);
    memcpy(entry->source, source, sizeof entry->source);
    memcpy(entry->backend, board->backend, sizeof entry->backend);
    entry->request_id_length = (uint8_t)request_id.length;
    entry->range_length = (uint8_t)range.length;
    memcpy(entry->texts, request_id.at, request_id.length);
    if (range.length)
        memcpy(entry->texts + request_id.length, range.at, range.length);
    size_t used = offsetof(Entry, texts) - offsetof(Entry, sequence) + request_id.length + range.length;
    uint64_t checksum = xxh64(&entry->sequence, used);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    checksum = __builtin_bswap64(checksum); /* its canonical form */
#endif
    memcpy(entry->checksum, &checksum, sizeof checksum);
    ((uint64_t *)board->tags.buf)[position] = xxh64(request_id.at, request_id.length);
}

static void board_count_request(const Board *board, int method, int status)
{
    ((uint64_t *)board->counters.buf)[board->fast_lane]++;
    ((uint64_t *)board->requests.buf)[method * STATUSES + status - FIRST_STATUS]++;
}
