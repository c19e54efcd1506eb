"""How many bytes the cache holds, agreed on by all processes that use it, and what goes when it is full."""

from __future__ import annotations

import fcntl
import heapq
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from storage.cache_counts import CacheCounts
from storage.cache_folder import ROOM, entries, fills, part_of
from storage.cache_slot import fill_size

Result = TypeVar("Result")

_USED = struct.Struct("<Q")


class Room:
    """The bytes in use, fills under way included, and the least recently used to be dropped first.

    The number is kept in a file, which is locked (``flock``) for every change. Each look for
    something to drop counts anew, and so does each process that opens the cache: a process that
    was killed between two changes makes no lasting error. Every method blocks, and may raise ``OSError``.
    """

    def __init__(self, root: int, limit: int, counts: CacheCounts) -> None:
        """``root``: the open folder, which must stay open for the life of this object; ``limit``: bytes."""
        self._root = root
        self._limit = limit
        self._counts = counts
        # Threads share the open file, and with it the lock that keeps processes apart.
        self._threads = threading.Lock()
        self._file = os.open(ROOM, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            with self._locked():
                self._make_room(0)
        except BaseException:
            os.close(self._file)
            raise

    def reserve(self, size: int, begin: Callable[[], None]) -> bool:
        """Take ``size`` bytes and call ``begin``, which notes for what; False if there is no room."""
        with self._locked():
            used = self._used()
            if used + size > self._limit:
                used = self._make_room(size)
            if used + size > self._limit:
                return False
            begin()
            self._set_used(used + size)
            return True

    def release(self, size: int, end: Callable[[], None]) -> None:
        """Call ``end``, which drops that for which ``size`` bytes were taken, and give them back."""
        with self._locked():
            end()
            self._set_used(max(0, self._used() - size))

    def settle(self, work: Callable[[], Result]) -> Result:
        """Call ``work``, which moves or drops files, with nobody counting meanwhile; return what it returns."""
        with self._locked():
            return work()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _used(self) -> int:
        data = os.pread(self._file, _USED.size, 0)
        # A file that was cut short says that there is no room, and so has everything counted.
        used: int = _USED.unpack(data)[0] if len(data) == _USED.size else self._limit + 1
        return used

    def _set_used(self, used: int) -> None:
        os.pwrite(self._file, _USED.pack(used), 0)

    def _make_room(self, size: int) -> int:
        """Count all bytes, drop fills of dead processes, and the oldest blobs if ``size`` bytes find no room.

        Returns the bytes in use then. A tenth of the limit is made free, so that this is seldom done.
        """
        used = sum(self._living(path) for path in set(fills(self._root)))
        used += sum(facts.st_size for _, facts in entries(self._root))
        if used + size > self._limit:
            used -= self._evict(used + size - (self._limit - self._limit // 10))
        self._set_used(used)
        return used

    def _evict(self, need: int) -> int:
        """Drop the least recently used blobs of ``need`` bytes together; return how many bytes it was."""
        oldest: list[tuple[int, str, int]] = []
        chosen = 0
        for path, facts in entries(self._root):
            heapq.heappush(oldest, (-facts.st_atime_ns, path, facts.st_size))
            chosen += facts.st_size
            while chosen - oldest[0][2] >= need:
                chosen -= heapq.heappop(oldest)[2]
        dropped = 0
        for _, path, size in oldest:
            with suppress(FileNotFoundError):
                os.unlink(path, dir_fd=self._root)
            dropped += size
            self._counts.add("cache_evictions")
        return dropped

    def _living(self, path: str) -> int:
        """Return the bytes that a fill will have; drop it and return 0 if its filler is dead."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._root)
        except FileNotFoundError:
            # Its file was dropped alone: these bytes belong to nobody.
            self._unlink(part_of(path))
            return 0
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return fill_size(file)
        else:
            self._unlink(part_of(path))
            self._unlink(path)
            return 0
        finally:
            os.close(file)

    def _unlink(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._root)

    def close(self) -> None:
        """Let go of what this object opened itself."""
        os.close(self._file)
