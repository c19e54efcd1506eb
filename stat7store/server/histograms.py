"""How long the stages took, counted in buckets that all workers of a node share.

A duration's bucket is the upper half of its nanoseconds as a 32-bit float (IEEE 754): the exponent
and seven bits of the mantissa, so 128 buckets for each power of two. A bucket's middle is then
within 0.4 % of every duration in it, two struct calls find the buckets of all stages, and counting
is one addition a stage. Workers merge by addition, periods by subtraction.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from struct import Struct

import msgspec

from stat7store.timing import STAGES

COUNTED = (*STAGES, "total")
LONGEST_NS = 3_600_000_000_000
WINDOW_NS = 60_000_000_000
ROLL_NS = 10_000_000_000
_SNAPSHOTS = 8  # one more than a window needs: the one being overwritten is never the one being read

_FLOATS = Struct(f"<{len(COUNTED)}f")
_UPPER_HALVES = Struct("<" + "2xH" * len(COUNTED))


def _upper_half(ns: float) -> int:
    half: int = struct.unpack("<2xH", struct.pack("<f", ns))[0]
    return half


FIRST = _upper_half(1)
LAST = _upper_half(LONGEST_NS)
BUCKETS = LAST - FIRST + 1
_BLOCK_WORDS = len(COUNTED) * BUCKETS
_SLOT_WORDS = _BLOCK_WORDS + _SNAPSHOTS * (1 + _BLOCK_WORDS)
_WORD_BYTES = 8
_BUCKETS_IN_OCTAVE = 128


class StageSummary(msgspec.Struct, frozen=True):
    """One stage over a period, in milliseconds within 0.4 %; None where nothing was counted.

    An hour and more counts as an hour.
    """

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None


class Period(msgspec.Struct, frozen=True):
    """The stages by name (and ``total``) over the last ``seconds``."""

    seconds: float
    stages: dict[str, StageSummary]


@dataclass(frozen=True, slots=True)
class Counted:
    """The durations of one stage: how many were counted, their sum in nanoseconds within 0.4 %, and their spread.

    ``below[n]``: how many were less than 2ⁿ ns.
    """

    count: int
    sum_ns: float
    below: list[int]


class Histograms:
    """One worker's counting end, and everyone's reading end.

    All times are readings of ``stat7store.timing.now_ns``, which the processes of a machine share.
    """

    def __init__(self, memory: mmap.mmap, workers: int, worker: int, started: int) -> None:
        """``memory`` comes from ``allocate(workers)`` at the time ``started``; ``worker`` is 1 to ``workers``.

        One process at a time may count as a given worker, and only one of its threads.
        """
        self._words = memoryview(memory).cast("Q")
        self._slots = [slot * _SLOT_WORDS for slot in range(workers)]
        self._own = self._slots[worker - 1]
        self._started = started

    @staticmethod
    def allocate(workers: int) -> mmap.mmap:
        """Return memory for the counts of this many workers, which processes forked later share."""
        return mmap.mmap(-1, workers * _SLOT_WORDS * _WORD_BYTES)

    def count(self, queue: int, index: int, metadata: int, disk: int, network: int, total: int) -> None:
        """Count one retrieval: nanoseconds ≥ 0 for each of ``COUNTED``.

        A stage of 0 ns did not take place, or was not known, and is not counted.
        """
        words = self._words
        at = self._own - FIRST
        # one line a stage: a loop takes half as long again, and so does min()
        halves = _UPPER_HALVES.unpack(_FLOATS.pack(queue, index, metadata, disk, network, total))
        queue, index, metadata, disk, network, total = halves
        if queue:
            words[at + (queue if queue < LAST else LAST)] += 1  # noqa: FURB136
        if index:
            words[at + BUCKETS + (index if index < LAST else LAST)] += 1  # noqa: FURB136
        if metadata:
            words[at + 2 * BUCKETS + (metadata if metadata < LAST else LAST)] += 1  # noqa: FURB136
        if disk:
            words[at + 3 * BUCKETS + (disk if disk < LAST else LAST)] += 1  # noqa: FURB136
        if network:
            words[at + 4 * BUCKETS + (network if network < LAST else LAST)] += 1  # noqa: FURB136
        if total:
            words[at + 5 * BUCKETS + (total if total < LAST else LAST)] += 1  # noqa: FURB136

    def own(self) -> memoryview:
        """Return the words in which this worker counts: ``BUCKETS`` for each of ``COUNTED``."""
        return self._words[self._own : self._own + _BLOCK_WORDS]

    def roll(self, now: int) -> None:
        """Keep a snapshot of this worker's counts, unless the last one is younger than ``ROLL_NS``.

        To be called at least every ten seconds; how late it was shows in ``last_minute().seconds``.
        """
        stamps = self._stamps(self._own)
        if now - max(stamps) < ROLL_NS:
            return
        oldest = self._snapshot(self._own, stamps.index(min(stamps)))
        self._words[oldest] = 0  # not to be read while it is written
        self._words[oldest + 1 : oldest + 1 + _BLOCK_WORDS] = self._words[self._own : self._own + _BLOCK_WORDS]
        self._words[oldest] = now

    def since_start(self, now: int) -> Period:
        """Summarise everything since the node started, over all workers."""
        counts = sum(self._counts_at(slot) for slot in self._slots)
        return _period(now - self._started, counts)

    def counted(self) -> dict[str, Counted]:
        """Return everything since the node started, over all workers, by stage (and ``total``)."""
        return {stage: _counted(counts) for stage, counts in _by_stage(sum(map(self._counts_at, self._slots)))}

    def last_minute(self, now: int) -> Period:
        """Summarise the last minute, over all workers; it is 60 to 70 seconds long, or the node is younger."""
        counts = 0
        begun = now
        for slot in self._slots:
            # the earlier counts are read first, so that none of them exceeds the later one
            stamp, before = self._counts_before(slot, now - WINDOW_NS)
            counts += self._counts_at(slot) - before
            begun = min(begun, stamp)
        return _period(now - begun, counts)

    def _counts_before(self, slot: int, time: int) -> tuple[int, int]:
        """Return the newest snapshot that is not younger than ``time``, and when it was taken."""
        while True:
            stamps = self._stamps(slot)
            stamp = max((stamp for stamp in stamps if stamp <= time), default=0)
            if not stamp:
                return self._started, 0
            at = self._snapshot(slot, stamps.index(stamp))
            counts = self._counts_at(at + 1)
            if self._words[at] == stamp:
                return stamp, counts

    def _counts_at(self, word: int) -> int:
        """Return a block of counts as one large integer with a count in each of its 64-bit words.

        Blocks are added and subtracted at once that way, and no word ever carries into the next.
        """
        return int.from_bytes(self._words[word : word + _BLOCK_WORDS], sys.byteorder)

    def _snapshot(self, slot: int, number: int) -> int:
        return slot + _BLOCK_WORDS + number * (1 + _BLOCK_WORDS)

    def _stamps(self, slot: int) -> list[int]:
        return [self._words[self._snapshot(slot, number)] for number in range(_SNAPSHOTS)]


def middle_ns(bucket: int) -> float:
    """Return the middle of a bucket (from 0), in nanoseconds."""
    exponent, mantissa = divmod(FIRST + bucket, 128)
    return math.ldexp(128.5 + mantissa, exponent - 127 - 7)


def _period(elapsed: int, block: int) -> Period:
    return Period(elapsed / 1e9, {stage: _summary(counts) for stage, counts in _by_stage(block)})


def _by_stage(block: int) -> Iterator[tuple[str, list[int]]]:
    counts = memoryview(block.to_bytes(_BLOCK_WORDS * _WORD_BYTES, sys.byteorder)).cast("Q").tolist()
    for number, stage in enumerate(COUNTED):
        yield stage, counts[number * BUCKETS : (number + 1) * BUCKETS]


def _counted(counts: Sequence[int]) -> Counted:
    up_to = [0, *accumulate(counts)]
    sum_ns = sum(count * middle_ns(bucket) for bucket, count in enumerate(counts) if count)
    return Counted(up_to[-1], sum_ns, up_to[::_BUCKETS_IN_OCTAVE])


def _summary(counts: Sequence[int]) -> StageSummary:
    present = list(compress(counts, counts))
    if not present:
        return StageSummary(0, None, None, None, None, None, None)
    middles_ms = [middle_ns(bucket) / 1e6 for bucket in compress(range(BUCKETS), counts)]
    up_to = list(accumulate(present))
    count = up_to[-1]

    def percentile(percent: float) -> float:
        return middles_ms[bisect_left(up_to, math.ceil(count * percent / 100))]

    return StageSummary(
        count=count,
        mean_ms=sum(number * middle for number, middle in zip(present, middles_ms, strict=True)) / count,
        p50_ms=percentile(50),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        p999_ms=percentile(99.9),
        max_ms=middles_ms[-1],
    )
