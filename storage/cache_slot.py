"""One fill of the cache: a file of bytes that grows, and a file that says how far it is."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from typing import NamedTuple

from storage.base import Buffer, Location
from storage.cache_folder import entry_path, fill_path, part_path

_PROGRESS = struct.Struct("<QQ")
# So many bytes are never there: the filler gave up.
_FAILED = (1 << 64) - 1


class Progress(NamedTuple):
    """How far a fill is: the bytes of the blob, those that are there, and whether its filler gave up."""

    size: int
    done: int
    failed: bool


class FillSlot:
    """A fill, as one process sees it. The process that holds the lock fills; the others read what is there.

    The lock goes with the filler, however that ends. Whoever gets it then writes the same bytes over
    those that are there, so that what others have seen stays true. Every method blocks, and may
    raise ``OSError``; they must not be called at the same time.
    """

    def __init__(self, root: int, location: Location) -> None:
        """Open the fill of a location, or begin one. ``root``: the open folder of the cache."""
        self._root = root
        self._location = location
        self._state = os.open(fill_path(location), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=root)
        self._part = -1

    def take(self) -> bool:
        """Become the filler, if there is none; True as well if this fill has ended, see ``is_over``."""
        try:
            fcntl.flock(self._state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_over(self) -> bool:
        """Whether the fill was finished or given up, so that nobody can go on with it."""
        return not os.fstat(self._state).st_nlink

    def progress(self) -> Progress | None:
        """Return how far the fill is; None if its size is not known yet."""
        data = os.pread(self._state, _PROGRESS.size, 0)
        if len(data) < _PROGRESS.size:
            return None
        size, done = _PROGRESS.unpack(data)
        return Progress(size, 0 if done == _FAILED else done, done == _FAILED)

    def begin(self, size: int) -> None:
        """Note the size, as the filler."""
        part = os.open(part_path(self._location), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        self._replace_part(part)
        os.pwrite(self._state, _PROGRESS.pack(size, 0), 0)

    def go_on(self) -> bool:
        """Open the bytes that are there; False if they are gone."""
        try:
            self._replace_part(os.open(part_path(self._location), os.O_RDWR | os.O_CLOEXEC, dir_fd=self._root))
        except FileNotFoundError:
            return False
        return True

    def _replace_part(self, part: int) -> None:
        old, self._part = self._part, part  # at once: whoever comes meanwhile must not close it again
        if old >= 0:
            os.close(old)

    def write(self, data: Buffer, start: int) -> None:
        """Add bytes, and note that they are there, as the filler."""
        rest, at = memoryview(data), start
        while rest:
            done = os.pwrite(self._part, rest, at)
            rest, at = rest[done:], at + done
        size, done = _PROGRESS.unpack(os.pread(self._state, _PROGRESS.size, 0))
        if at > done:
            os.pwrite(self._state, _PROGRESS.pack(size, at), 0)

    def fail(self) -> None:
        """Note that the blob cannot be had, as the filler."""
        size, _ = _PROGRESS.unpack(os.pread(self._state, _PROGRESS.size, 0).ljust(_PROGRESS.size, b"\0"))
        os.pwrite(self._state, _PROGRESS.pack(size, _FAILED), 0)

    def admit(self) -> os.stat_result:
        """Give the bytes their place in the cache, as the filler; return the facts of the file."""
        os.rename(part_path(self._location), entry_path(self._location), src_dir_fd=self._root, dst_dir_fd=self._root)
        self._unlink(fill_path(self._location))
        return os.fstat(self._part)

    def drop(self) -> None:
        """Remove both files, as the filler. Who has them open can read on."""
        self._unlink(part_path(self._location))
        self._unlink(fill_path(self._location))

    def _unlink(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._root)

    def bytes_file(self) -> int:
        """Return a new file descriptor of the bytes, for the caller to close."""
        return os.dup(self._part)

    def close(self) -> None:
        """Let go of it, and of the lock; repeats are harmless."""
        state, self._state = self._state, -1
        self._replace_part(-1)
        if state >= 0:
            os.close(state)


def fill_size(state: int) -> int:
    """Return the size that a fill will have, from its open file; 0 if that is not known yet."""
    data = os.pread(state, _PROGRESS.size, 0)
    size: int = _PROGRESS.unpack(data)[0] if len(data) == _PROGRESS.size else 0
    return size
