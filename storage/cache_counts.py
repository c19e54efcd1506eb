"""What the cache counts."""

from __future__ import annotations

import threading

_NAMES = ("cache_hits", "cache_misses", "cache_fills", "cache_bytes_served", "cache_evictions", "cache_errors")


class CacheCounts:
    """Counters that any thread may add to.

    ``cache_hits`` and ``cache_misses``: blobs opened; ``cache_fills``: blobs admitted;
    ``cache_bytes_served``: bytes that hits were asked for; ``cache_evictions``: blobs that made
    room for others; ``cache_errors``: files found damaged, and failures of the cache's own disk.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_NAMES, 0)
        self._lock = threading.Lock()

    def add(self, name: str, number: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += number

    def hit(self, length: int) -> None:
        """Count a hit that was asked for so many bytes."""
        with self._lock:
            self._counts["cache_hits"] += 1
            self._counts["cache_bytes_served"] += length

    def now(self) -> dict[str, int]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)
