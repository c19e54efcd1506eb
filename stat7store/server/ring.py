"""The last retrieval records of a node, in memory that all its workers share.

Each worker writes a ring of its own; everyone reads all of them. Nobody waits for anybody: an entry
carries a checksum and its own number, so a reader knows one that is half written or overwritten.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from heapq import merge, nlargest
from itertools import islice
from operator import attrgetter
from struct import Struct
from typing import NamedTuple

from xxhash import xxh64_digest, xxh64_intdigest

from stat7store.timing import StageClock, Timing

CAPACITY = 10_000
REQUEST_ID_BYTES = 128
RANGE_BYTES = 124

_CHECKSUM_BYTES = 8  # of the body, which follows it: the fields, the request id, the range
_FIELDS = Struct("12Q2H32s8s16s16sBB")
_ENTRY_BYTES = 448  # whole lines of the processor's cache
_SEQUENCE = Struct("Q")  # the first of the fields
_TAG = Struct("Q")


class _Entry(NamedTuple):
    """One record as it lies in memory, its shorter texts filled up with zero bytes.

    ``ended`` is a reading of the monotonic clock, by which the workers' entries are ordered;
    ``at`` is the wall clock's, in nanoseconds since 1970, which may jump.
    """

    sequence: int
    ended: int
    at: int
    queue_ns: int
    index_ns: int
    metadata_ns: int
    disk_first_ns: int
    disk_ns: int
    network_ns: int
    total_ns: int
    sent: int
    unsent: int
    status: int
    worker: int
    address: bytes
    method: bytes
    source: bytes
    backend: bytes
    request_id: bytes
    range: bytes


class Ring:
    """The newest ``CAPACITY`` records of each worker: one worker's writing end, and everyone's reading end.

    A record's number (its sequence) begins at ``CAPACITY`` and says where it lies: entry
    ``sequence % CAPACITY`` of the worker's ring. A worker that takes over a slot goes on after the
    last record in it; one that was killed while writing leaves at most one entry unreadable.
    """

    def __init__(self, memory: mmap.mmap, workers: int, worker: int) -> None:
        """``memory`` comes from ``allocate(workers)``; ``worker`` is 1 to ``workers``.

        One process at a time may write as a given worker, and only one of its threads.
        """
        self._memory = memory
        self._workers = workers
        self._worker = worker
        tags_bytes = CAPACITY * _TAG.size
        entries_bytes = CAPACITY * _ENTRY_BYTES
        self._tags = [slot * tags_bytes for slot in range(workers)]
        self._entries = [workers * tags_bytes + slot * entries_bytes for slot in range(workers)]
        self._own_tags = memoryview(memory)[self._tags[worker - 1] :][:tags_bytes].cast("Q")
        self._own_entries = self._entries[worker - 1]
        self._next = memoryview(bytearray(_SEQUENCE.size)).cast("Q")
        self._next[0] = self._following(worker - 1)

    @staticmethod
    def allocate(workers: int) -> mmap.mmap:
        """Return memory for the rings of this many workers, which processes forked later share."""
        return mmap.mmap(-1, workers * CAPACITY * (_TAG.size + _ENTRY_BYTES))

    def record(
        self,
        clock: StageClock,
        *,
        at: int,
        request_id: str,
        address: bytes,
        method: str,
        status: int,
        sent: int,
        asked_range: str | None,
        source: str | None,
        backend: str,
        unsent: int,
    ) -> None:
        """Add the newest record of this worker; see ``Board.record``. ``at``: nanoseconds since 1970."""
        sequence = self._next[0]
        self._next[0] = sequence + 1
        position = sequence % CAPACITY
        name = request_id.encode()
        span = _shortened(asked_range) if asked_range else b""
        fields = _FIELDS.pack(
            sequence,
            clock.ended,
            at,
            clock.queue,
            clock.index,
            clock.metadata,
            clock.disk_first,
            clock.disk,
            clock.network,
            clock.ended - clock.started,
            sent,
            unsent,
            status,
            self._worker,
            address,
            method.encode(),
            source.encode() if source else b"",
            backend.encode(),
            len(name),
            len(span),
        )
        self._own_tags[position] = xxh64_intdigest(name)
        body = fields + name + span
        start = self._own_entries + position * _ENTRY_BYTES
        self._memory[start : start + _CHECKSUM_BYTES + len(body)] = xxh64_digest(body) + body

    def own(self) -> tuple[memoryview, memoryview, memoryview]:
        """Return what this worker writes to: tags, entries, and the word that holds the next sequence."""
        entries = memoryview(self._memory)[self._own_entries :][: CAPACITY * _ENTRY_BYTES]
        return self._own_tags, entries, self._next

    def newest(self, limit: int) -> list[Timing]:
        """Return up to ``limit`` of the node's last ``CAPACITY`` records, newest first."""
        return [_timing(entry) for entry in islice(self._newest_first(), limit)]

    def slowest(self, limit: int) -> list[Timing]:
        """Return those of the node's last ``CAPACITY`` records whose total is longest, slowest first."""
        return [_timing(entry) for entry in nlargest(limit, self._newest_first(), key=attrgetter("total_ns"))]

    def find(self, request_id: str) -> Timing | None:
        """Return the newest record under this id (ids are the clients' choice), or None."""
        found = [entry for slot in range(self._workers) if (entry := self._find(slot, request_id))]
        return _timing(max(found, key=attrgetter("ended"))) if found else None

    def _find(self, slot: int, request_id: str) -> _Entry | None:
        wanted = request_id.encode(errors="replace")
        for position in self._tagged(slot, _TAG.pack(xxh64_intdigest(wanted))):
            entry = self._load(slot, position)
            if entry and entry.request_id == wanted:
                return entry
        return None

    def _tagged(self, slot: int, tag: bytes) -> Iterator[int]:
        """Yield the positions of a worker's ring that bear this tag, newest first."""
        first = self._tags[slot]
        head = first + self._following(slot) % CAPACITY * _TAG.size
        for start, end in ((first, head), (head, first + CAPACITY * _TAG.size)):
            found = self._memory.rfind(tag, start, end)
            while found >= 0:
                position, between = divmod(found - first, _TAG.size)
                if not between:
                    yield position
                found = self._memory.rfind(tag, start, found + _TAG.size - 1)

    def _newest_first(self) -> Iterator[_Entry]:
        """Yield the node's last ``CAPACITY`` records."""
        rings = [self._newest_of(slot) for slot in range(self._workers)]
        return islice(merge(*rings, key=attrgetter("ended"), reverse=True), CAPACITY)

    def _newest_of(self, slot: int) -> Iterator[_Entry]:
        following = self._following(slot)
        for sequence in range(following - 1, max(following - CAPACITY, CAPACITY) - 1, -1):
            entry = self._load(slot, sequence % CAPACITY)
            if entry and entry.sequence == sequence:
                yield entry

    def _following(self, slot: int) -> int:
        """Return the sequence that comes after the last one in a worker's ring."""
        first = self._sequence_at(slot, 0)
        if not first:
            return CAPACITY
        # entries of this round come first, then those of the round before (or none: 0)
        return first + bisect_left(
            range(CAPACITY), True, key=lambda position: self._sequence_at(slot, position) < first
        )

    def _sequence_at(self, slot: int, position: int) -> int:
        offset = self._entries[slot] + position * _ENTRY_BYTES + _CHECKSUM_BYTES
        sequence: int = _SEQUENCE.unpack_from(self._memory, offset)[0]
        return sequence

    def _load(self, slot: int, position: int) -> _Entry | None:
        """Return an entry, or None if it is empty or not whole."""
        start = self._entries[slot] + position * _ENTRY_BYTES
        entry = self._memory[start : start + _ENTRY_BYTES]
        *fields, id_length, range_length = _FIELDS.unpack_from(entry, _CHECKSUM_BYTES)
        texts = _CHECKSUM_BYTES + _FIELDS.size
        middle = texts + id_length
        end = middle + range_length
        if xxh64_digest(entry[_CHECKSUM_BYTES:end]) != entry[:_CHECKSUM_BYTES]:
            return None
        return _Entry._make((*fields, entry[texts:middle], entry[middle:end]))


def _shortened(text: str) -> bytes:
    data = text.encode("ascii", "replace")
    return data if len(data) <= RANGE_BYTES else data[: RANGE_BYTES - 3] + b"..."


def _timing(entry: _Entry) -> Timing:
    return Timing(
        request_id=_text(entry.request_id),
        address=entry.address.hex(),
        method=_text(entry.method),
        status=entry.status,
        bytes=entry.sent,
        range=_text(entry.range) or None,
        worker=entry.worker,
        at=iso_time(entry.at),
        queue_ms=entry.queue_ns / 1e6,
        index_ms=entry.index_ns / 1e6,
        metadata_ms=entry.metadata_ns / 1e6,
        disk_first_ms=entry.disk_first_ns / 1e6,
        disk_ms=entry.disk_ns / 1e6,
        network_ms=entry.network_ns / 1e6,
        unsent_bytes=entry.unsent,
        total_ms=entry.total_ns / 1e6,
        source=_text(entry.source) or None,
        backend=_text(entry.backend),
    )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


def iso_time(at: int) -> str:
    """Write nanoseconds since 1970 as ISO 8601 in UTC with milliseconds and ``Z``."""
    seconds, rest = divmod(at, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
