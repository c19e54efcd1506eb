"""What all processes of an import see at once: whether to stop, and how many bytes were read."""

from __future__ import annotations

import mmap
import threading

_WORD_BYTES = 8
_STOP = 0  # the first word; then one for each process


class Gauge:
    """Memory shared with all processes that are forked later. Any may stop; each counts in a place of its own."""

    def __init__(self, processes: int = 1) -> None:
        self._words = memoryview(mmap.mmap(-1, (1 + processes) * _WORD_BYTES)).cast("q")
        self._own = 1
        self._lock = threading.Lock()

    def take_place(self, process: int) -> None:
        """Count in the place of this process from now on; they are numbered from 0, which is the first one's."""
        self._own = 1 + process

    def stop(self) -> None:
        """Have everyone end: what is under way is finished or let go of, and nothing is begun."""
        self._words[_STOP] = 1

    @property
    def stopped(self) -> bool:
        """Whether all are to end."""
        return self._words[_STOP] != 0

    def add_read(self, size: int) -> None:
        """Count bytes that were read, also of files that are not finished."""
        with self._lock:
            self._words[self._own] += size

    @property
    def read(self) -> int:
        """Bytes read by all processes so far."""
        return sum(self._words[1:])
