"""The stage clock: where the time of one retrieval went. The only clock that stages are timed by.

- *queue*: from the request's last header byte read to its handler's start, where it can be known;
- *index*: address → locator;
- *metadata*: locator → decoded record;
- *disk*: time in which the backend made the bytes ready to send (first byte and total);
- *network*: from the first byte handed to the kernel to the last byte accepted by it.

Where streaming interleaves disk and network, each is the sum of its own parts.
"""

from __future__ import annotations

from time import perf_counter_ns as now_ns

import msgspec

__all__ = ["STAGES", "StageClock", "Timing", "now_ns"]

STAGES = ("queue", "index", "metadata", "disk", "network")


class StageClock:
    """Nanoseconds spent in each stage of one retrieval so far, by ``time.perf_counter_ns``.

    A leg is timed by reading ``now_ns()`` right before and right after it and adding the difference
    to the stage's field: plain arithmetic, because a context manager costs as much as an index
    lookup. ``started`` and ``ended`` enclose everything; 0 in ``ended`` means not yet.
    """

    __slots__ = ("disk", "disk_first", "ended", "index", "metadata", "network", "queue", "started")

    def __init__(self, arrived: int = 0) -> None:
        """``arrived``: when the last header byte was read, by ``now_ns``; 0 if that is not known."""
        handled = now_ns()
        self.started = arrived or handled
        self.queue = handled - self.started
        self.index = self.metadata = self.disk_first = self.disk = self.network = self.ended = 0

    def first_byte(self) -> None:
        """Note that the first byte is ready to be sent: what the disk took so far, it took for that."""
        self.disk_first = self.disk

    def end(self) -> None:
        """Stop the clock."""
        self.ended = now_ns()

    @property
    def total(self) -> int:
        """Nanoseconds from start to end (or to now, while it runs)."""
        return (self.ended or now_ns()) - self.started


class Timing(msgspec.Struct, frozen=True):
    """The complete record of one retrieval, as ``/v1/timings`` gives it; durations in milliseconds.

    ``status`` is the HTTP status that was sent; 499 if the client went away before the end.
    ``bytes`` counts the body bytes handed to the kernel, ``unsent_bytes`` those of them that it had
    not yet passed on when the last one was accepted. ``worker`` is the worker's number, from 1.
    """

    request_id: str
    address: str
    method: str
    status: int
    bytes: int
    range: str | None
    worker: int
    at: str
    queue_ms: float
    index_ms: float
    metadata_ms: float
    disk_first_ms: float
    disk_ms: float
    network_ms: float
    unsent_bytes: int
    total_ms: float
    source: str | None
    backend: str
