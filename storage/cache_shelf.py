"""The blobs that are whole in the cache: found, compared with their names, and marked as used."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from contextlib import suppress
from typing import NamedTuple

from storage.base import Location
from storage.cache_counts import CacheCounts
from storage.cache_folder import entry_path
from storage.cache_room import Room
from storage.cache_threads import CacheThreads
from storage.kept_files import KeptFiles
from storage.linux import READ_ONLY, Linux
from storage.open_file import OpenFile

_READ_BYTES = 1 << 20
# So many files a process remembers as checked; more are checked again.
_REMEMBERED = 1 << 16
_MARK_EVERY_NS = 60 * 10**9

# The number of a file, its size, and its time of change in nanoseconds: one of them changes when the file does.
_Identity = tuple[int, int, int]


class Found(NamedTuple):
    """An open file, for the caller to close, and its size in bytes."""

    file: int
    size: int


class ShelvedFile(OpenFile):
    """An open file of the cache; each time its bytes are given out is a hit."""

    __slots__ = ("_counts", "path")

    source = "cache"

    def __init__(self, path: str, found: Found, linux: Linux, counts: CacheCounts) -> None:
        """Take over what was found at a path within the cache."""
        super().__init__(found.file, found.size, linux)
        self.path = path
        self._counts = counts

    def fill(self, buffer: memoryview, start: int) -> bool:
        """See ``ImmediateFile``."""
        filled = super().fill(buffer, start)
        if filled:
            self._counts.hit(len(buffer))
        return filled

    def is_resident(self, start: int, length: int) -> bool:
        """See ``ImmediateFile``."""
        resident = super().is_resident(start, length)
        if resident:
            self._counts.hit(length)
        return resident


class Shelf:
    """Finds whole blobs. None is given out before this process has compared it with its name.

    A file is compared again when its size or its time of change is another. The use of a file is
    marked by its access time, at most once a minute.
    """

    def __init__(self, root: int, room: Room, threads: CacheThreads, linux: Linux, counts: CacheCounts) -> None:
        """``root``: the open folder of the cache."""
        self._root = root
        self._room = room
        self._threads = threads
        self._linux = linux
        self._counts = counts
        self._checked: dict[str, tuple[_Identity, int]] = {}
        self._checking: dict[str, asyncio.Event] = {}
        self._kept = KeptFiles[ShelvedFile](only_small=True)

    async def find(self, location: Location) -> Found | None:
        """Return the file of a blob; None if it is not there, or was not what it should be.

        May raise ``OSError``.
        """
        path = entry_path(location)
        file = await self._open(path)
        if file is None:
            return None
        try:
            facts = os.fstat(file)
            if self._knows(path, facts) or await self._check(path, location.name, file, facts):
                self._mark(path, file, facts)
                return Found(file, facts.st_size)
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def find_now(self, location: Location) -> ShelvedFile | None:
        """Return the file of a blob if it was compared before, and if finding it takes no waiting."""
        kept = self._kept.get(location)
        try:
            if kept is None:
                path = entry_path(location)
                file = self._linux.open_cached(self._root, path)
                if file is None:
                    return None
                facts = os.fstat(file)
                found = ShelvedFile(path, Found(file, facts.st_size), self._linux, self._counts)
            else:
                facts, found = os.fstat(kept.fileno()), kept
        except OSError:  # the other way tells what is amiss
            return None
        if not facts.st_nlink or not self._knows(found.path, facts):
            self._kept.drop(location)
            return None
        if kept is None:
            self._kept.keep(location, found)
        self._mark(found.path, found.fileno(), facts)
        return found

    async def _open(self, path: str) -> int | None:
        try:
            file = self._linux.open_cached(self._root, path)
            if file is None:
                file = await self._threads.run(lambda: os.open(path, READ_ONLY, dir_fd=self._root))
        except FileNotFoundError:
            return None
        except OSError as error:
            if self._kept.make_way(error):
                return await self._open(path)
            raise
        return file

    def remember(self, location: Location, facts: os.stat_result) -> None:
        """Take a file for checked: its bytes were compared with its name as they were written."""
        self._remember(entry_path(location), facts, time.time_ns())

    def holds(self, location: Location) -> bool:
        """Whether there is a file of a blob, good or not. May raise ``OSError``."""
        try:
            os.stat(entry_path(location), dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remember(self, path: str, facts: os.stat_result, marked: int) -> None:
        while len(self._checked) >= _REMEMBERED:
            del self._checked[next(iter(self._checked))]
        self._checked[path] = (_identity(facts), marked)

    def _knows(self, path: str, facts: os.stat_result) -> bool:
        known = self._checked.get(path)
        return known is not None and known[0] == _identity(facts)

    async def _check(self, path: str, name: str, file: int, facts: os.stat_result) -> bool:
        # Many may want a large file at once: one reads it, the others wait.
        while checking := self._checking.get(path):
            await checking.wait()
            if self._knows(path, facts):
                return True
        self._checking[path] = asyncio.Event()
        try:
            good = await self._threads.run(lambda: _is_good(file, name, facts))
            if good:
                self._remember(path, facts, 0)
            else:
                self._counts.add("cache_errors")
                await self._threads.run(lambda: self._remove(path, facts))
            return good
        finally:
            self._checking.pop(path).set()

    def _mark(self, path: str, file: int, facts: os.stat_result) -> None:
        now = time.time_ns()
        known = self._checked.get(path)
        if known is not None and now - known[1] >= _MARK_EVERY_NS:
            self._checked[path] = (_identity(facts), now)
            with suppress(OSError):
                os.utime(file, ns=(now, facts.st_mtime_ns))

    async def remove(self, location: Location) -> None:
        """Remove a blob; a missing one is no error. May raise ``OSError``."""
        path = entry_path(location)
        self._kept.drop(location)
        self._checked.pop(path, None)
        try:
            facts = os.stat(path, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return
        await self._threads.run(lambda: self._remove(path, facts))

    def close(self) -> None:
        """Let go of the files that are kept open; repeats are harmless."""
        self._kept.close()

    def _remove(self, path: str, facts: os.stat_result) -> None:
        # Another process may have removed it first, and given back its bytes.
        with suppress(FileNotFoundError):
            self._room.release(facts.st_size, lambda: os.unlink(path, dir_fd=self._root))


def _identity(facts: os.stat_result) -> _Identity:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_good(file: int, name: str, facts: os.stat_result) -> bool:
    if not stat.S_ISREG(facts.st_mode):
        return False
    sha256 = hashlib.sha256()
    start = 0
    try:
        while data := os.pread(file, _READ_BYTES, start):
            sha256.update(data)
            start += len(data)
    except OSError:
        return False
    return start == facts.st_size and sha256.hexdigest() == name
