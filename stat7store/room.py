"""Room for what comes in: refused before the disk is full, and promised to the uploads that are under way."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from stat7store.errors import NoSpace, Unavailable

_MIB = 1024**2
_LEAST_KEPT_FREE, _MOST_KEPT_FREE = 4 * _MIB, 1024 * _MIB
_FEW_FILES = 64  # a blob is a file, and the catalog needs none
_LARGE = _MIB  # a request of this size pays for a look at the disk
_LOOK_EVERY_S = 0.05
_LONGEST_STEP = 16 * _MIB
_MOST_WAITING = 8 * _MIB
_WORD_BYTES = 8
_UNWRITTEN, _UNSTORED, _WORDS = 0, 1, 2


class Pledges:
    """What the uploads of one process still need, told to the other processes of its node.

    ``memory`` comes from ``allocate``; each process has its own place in it.
    """

    def __init__(self, memory: mmap.mmap | None = None, process: int = 0) -> None:
        """Take a process's place, from 0; its predecessor must be dead. Without memory it is alone."""
        self._words = memoryview(memory or self.allocate(1)).cast("q")
        self._own = process * _WORDS
        self._lock = threading.Lock()
        self._words[self._own + _UNWRITTEN] = self._words[self._own + _UNSTORED] = 0

    @staticmethod
    def allocate(processes: int) -> mmap.mmap:
        """Return memory for this many processes, to be made before they are forked."""
        return mmap.mmap(-1, processes * _WORDS * _WORD_BYTES)

    def add(self, unwritten: int, unstored: int) -> None:
        """Add bytes that are to be written, and bytes that the catalog does not count yet; either may be negative."""
        with self._lock:
            self._words[self._own + _UNWRITTEN] += unwritten
            self._words[self._own + _UNSTORED] += unstored

    @property
    def unwritten(self) -> int:
        """Bytes promised by all processes that are not on disk yet."""
        return sum(self._words[_UNWRITTEN::_WORDS])

    @property
    def unstored(self) -> int:
        """Bytes promised by all processes that the catalog does not count yet."""
        return sum(self._words[_UNSTORED::_WORDS])


class Room:
    """The room of one store, as one of its processes sees it. For any number of threads."""

    def __init__(
        self,
        folders: Sequence[Path] = (),
        *,
        min_free: int | None = None,
        max_store_bytes: int | None = None,
        stored_bytes: Callable[[], int] | None = None,
        pledges: Pledges | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``folders``: where uploads are written, then the catalog's; without any, no disk is looked at.

        ``min_free``: bytes that stay free on each of their filesystems; None: 1 % of it, at least 4 MiB and at most
        1 GiB. ``max_store_bytes``: most bytes of all files together, ``stored_bytes`` telling how many there are.
        """
        self._all_folders = list(folders)
        self._folders = _distinct(folders)
        self._min_free = min_free
        self._max_store_bytes = max_store_bytes
        self._stored_bytes = stored_bytes
        self._pledges = pledges or Pledges()
        self._clock = clock
        self._looked: tuple[float, list[_Disk]] = (float("-inf"), [])
        self._lock = threading.Lock()
        self._waiting = 0
        self._written = 0  # since the last look at the disk

    def free_bytes(self) -> dict[str, int]:
        """Return what is left now on the filesystem of each folder, by the folder's name. Raises ``Unavailable``."""
        return {
            folder.name: disk.free for folder, disk in zip(self._all_folders, _look(self._all_folders), strict=True)
        }

    def promise(self, size: int = 0) -> Promise:
        """Hold room for bytes as they come, until the promise is closed; ``size`` of them are announced.

        Raises ``NoSpace`` at once if so many do not fit.
        """
        promise = Promise(self)
        promise.announce(size)
        return promise

    def check(self, size: int) -> None:
        """Return if there is room for ``size`` bytes now, without promising it. Raises ``NoSpace``."""
        self._refuse(size, promised=0)

    def hold(self, size: int) -> None:
        """Promise ``size`` bytes more to an upload. Raises ``NoSpace``, and nothing is promised then."""
        # promised first and then looked at: of two that come at once neither overlooks the other
        self._pledges.add(size, size)
        try:
            self._refuse(size, promised=size)
        except BaseException:
            self._pledges.add(-size, -size)
            raise

    def release(self, unwritten: int, unstored: int) -> None:
        """Take back what was promised."""
        self._pledges.add(-unwritten, -unstored)

    def wrote(self, size: int) -> None:
        """Take back what was promised of bytes that are on disk now."""
        with self._lock:
            self._written += size
        self._pledges.add(-size, 0)

    def wait(self, size: int) -> None:
        """Count bytes that wait in memory; negative when they wait no more."""
        with self._lock:
            self._waiting += size

    @property
    def is_crowded(self) -> bool:
        """Whether so many bytes wait in memory that they should rather wait on disk."""
        return self._waiting > _MOST_WAITING

    def _refuse(self, size: int, promised: int) -> None:
        """Raise ``NoSpace`` if ``size`` bytes do not fit, so many of which are among the pledges."""
        self._refuse_if_stored_too_much(size, promised)
        self._refuse_if_disk_full(size, promised)

    def _refuse_if_stored_too_much(self, size: int, promised: int) -> None:
        most = self._max_store_bytes
        if most is None or self._stored_bytes is None:
            return
        left = most - self._stored_bytes() - self._pledges.unstored + promised
        if size > left:
            raise NoSpace(
                f"the store may hold {most} bytes (--max-store-bytes), and {max(left, 0)} of them are left; "
                f"this needs {size}; reading and deleting still work",
                setting="max_store_bytes",
                limit=most,
                free=max(left, 0),
                needed=size,
            )

    def _refuse_if_disk_full(self, size: int, promised: int) -> None:
        for number, disk in enumerate(self._disks(size)):
            kept = disk.kept if self._min_free is None else self._min_free
            taken = self._pledges.unwritten - promised + self._written if number == 0 else 0
            needed = size if number == 0 else 0
            free = disk.free - taken
            if free - needed < kept or disk.files < _FEW_FILES:
                what = "bytes" if disk.files >= _FEW_FILES else "files"
                raise NoSpace(
                    f"too little room is left on disk for {what}: {max(free, 0)} bytes are free, this needs {needed}, "
                    f"and {kept} are to stay free (--min-free); reading and deleting still work",
                    setting="min_free",
                    limit=kept,
                    free=max(free, 0),
                    needed=needed,
                )

    def _disks(self, size: int) -> list[_Disk]:
        now = self._clock()
        looked, disks = self._looked
        if size >= _LARGE or now - looked >= _LOOK_EVERY_S:
            with self._lock:
                self._written = 0  # what is written from here on may be seen or not, and then counts twice for a while
            disks = _look(self._folders)
            self._looked = now, disks
        return disks


class Promise:
    """The room that is held for one request: for twice what has come, so that an announced length is not enough
    to keep others out. A context that closes it. Made by ``Room.promise``."""

    __slots__ = ("_announced", "_promised", "_room", "_taken", "_unwritten")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._announced = 0
        self._promised = 0
        self._taken = 0
        self._unwritten = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def announce(self, size: int) -> None:
        """See whether ``size`` bytes will fit, which are to come. Raises ``NoSpace``."""
        self._room.check(size)
        self._announced = size

    def take(self, size: int) -> None:
        """Have room for so many bytes more, which have come. Raises ``NoSpace``."""
        self._taken += size
        lacking = self._taken - self._promised
        if lacking > 0:
            step = min(self._taken, _LONGEST_STEP)
            if self._announced:
                step = min(step, self._announced - self._promised)
            try:
                self._hold(max(lacking, step))
            except NoSpace:
                if step <= lacking:
                    raise
                self._hold(lacking)  # there is room for what has come, though not for as much again

    def wrote(self, size: int) -> None:
        """Tell that so many bytes are on disk, where they count by themselves."""
        written = min(size, self._unwritten)
        self._unwritten -= written
        self._room.wrote(written)

    def close(self) -> None:
        """Take back what is left; repeats are harmless."""
        self._room.release(self._unwritten, self._promised)
        self._unwritten = self._promised = 0

    def wait(self, size: int) -> None:
        """See ``Room``."""
        self._room.wait(size)

    @property
    def is_crowded(self) -> bool:
        """See ``Room``."""
        return self._room.is_crowded

    def _hold(self, size: int) -> None:
        self._room.hold(size)
        self._promised += size
        self._unwritten += size


class _Disk:
    __slots__ = ("files", "free", "kept")

    def __init__(self, facts: os.statvfs_result) -> None:
        self.free = facts.f_bavail * facts.f_frsize
        self.files = facts.f_favail if facts.f_files else _FEW_FILES  # some filesystems do not number their files
        self.kept = min(_MOST_KEPT_FREE, max(_LEAST_KEPT_FREE, facts.f_blocks * facts.f_frsize // 100))


def _look(folders: Sequence[Path]) -> list[_Disk]:
    try:
        return [_Disk(os.statvfs(folder)) for folder in folders]
    except OSError as error:
        raise Unavailable(f"the disk cannot be asked for its free room: {error}") from error


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """Return the first folder of each filesystem, in their order. Raises ``Unavailable``."""
    try:
        devices = [os.stat(folder).st_dev for folder in folders]
    except OSError as error:
        raise Unavailable(f"the store's folder cannot be looked at: {error}") from error
    return [folder for number, folder in enumerate(folders) if devices[number] not in devices[:number]]
