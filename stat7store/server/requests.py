"""How many requests had which method and status, counted in memory that all workers of a node share."""

from __future__ import annotations

import mmap

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other")
_OTHER = len(METHODS) - 1
_NUMBERS = {method: number for number, method in enumerate(METHODS)}
_FIRST, _LAST = 100, 599
_STATUSES = _LAST - _FIRST + 1
_TABLE = len(METHODS) * _STATUSES
_WORD_BYTES = 8


class RequestCounts:
    """One worker's counting end, and everyone's reading end."""

    def __init__(self, memory: mmap.mmap, worker: int) -> None:
        """``memory`` comes from ``allocate``; ``worker`` is numbered from 1."""
        self._words = memoryview(memory).cast("Q")
        self._worker = worker
        self._own = (worker - 1) * _TABLE - _FIRST

    @staticmethod
    def allocate(workers: int) -> mmap.mmap:
        """Return memory for this many workers, which processes forked later share: 32 KB each."""
        return mmap.mmap(-1, workers * _TABLE * _WORD_BYTES)

    def count(self, method: str, status: int) -> None:
        """Count a request; ``status`` is 100 to 599. Methods without a name here count as ``other``."""
        self._words[self._own + _NUMBERS.get(method, _OTHER) * _STATUSES + status] += 1

    def own(self) -> memoryview:
        """Return the words in which this worker counts: those of one method after those of another."""
        return self._words[(self._worker - 1) * _TABLE : self._worker * _TABLE]

    def totals(self) -> dict[tuple[str, int], int]:
        """Return the sums over all workers, of what has occurred."""
        totals: dict[tuple[str, int], int] = {}
        for at, count in enumerate(self._words.tolist()):
            if count:
                method, status = divmod(at % _TABLE, _STATUSES)
                key = METHODS[method], _FIRST + status
                totals[key] = totals.get(key, 0) + count
        return totals
