"""Spools of the filesystem backend: exclusive temporary files on the blob filesystem."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets

from storage.base import Buffer, PassedOn
from storage.linux import READ_ONLY, Linux, unavailable

# Writing starts this often while bytes arrive, so that the sync at the end has little left to do.
WRITE_EVERY = 8 << 20
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_PRIVATE = 0o600


class FileSpool:
    """A ``Spool`` in a file of its own, locked from its first moment until it is closed.

    The lock (``flock``) goes with the open file: it ends with the process, however that ends.
    """

    def __init__(self, file: int, name: str | None, linux: Linux, write_every: float) -> None:
        self._file = file
        self._name = name
        self._linux = linux
        self._write_every = write_every
        self._size = 0
        self._writing = 0
        self._sealed = False

    @classmethod
    def create(cls, folder: str, linux: Linux, *, write_every: float = WRITE_EVERY) -> FileSpool:
        """Return a new spool in this folder: nameless, or named where the filesystem has no such files.

        ``write_every``: bytes after which writing to disk begins; infinite for a file that will not be
        synced. Blocks. Raises ``BlobNoSpace`` or ``BlobUnavailable``.
        """
        try:
            return cls._nameless(folder, linux, write_every)
        except OSError as error:
            if error.errno not in _NO_NAMELESS_FILES:
                raise unavailable(error) from error
        try:
            return cls._named(folder, linux, write_every)
        except OSError as error:
            raise unavailable(error) from error

    @classmethod
    def _nameless(cls, folder: str, linux: Linux, write_every: float) -> FileSpool:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _PRIVATE)
        # protection: lock-spool
        _lock(file)
        return cls(file, None, linux, write_every)

    @classmethod
    def _named(cls, folder: str, linux: Linux, write_every: float) -> FileSpool:
        while True:
            name = f"{folder}/{secrets.token_hex(16)}"
            file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _PRIVATE)
            _lock(file)
            # Before it was locked it looked stale, and may have been removed as such.
            if os.fstat(file).st_nlink:
                return cls(file, name, linux, write_every)
            os.close(file)

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._size

    def append(self, data: Buffer) -> None:
        """Add bytes at the end. Raises ``BlobNoSpace`` or ``BlobUnavailable``; the spool is spoilt then."""
        if self._sealed:
            raise RuntimeError("a spool takes nothing more once it was put, spoilt or closed")
        rest = memoryview(data).cast("B")
        try:
            while rest:
                written = os.write(self._file, rest)
                self._size += written
                rest = rest[written:]
            if self._size - self._writing >= self._write_every:
                self._linux.start_writing(self._file, self._writing, self._size - self._writing)
                self._writing = self._size
        except OSError as error:
            self._sealed = True
            raise unavailable(error) from error

    def read(self, start: int, length: int) -> bytes:
        """Bytes already appended; fewer than ``length`` only at the end. Raises ``BlobUnavailable``."""
        try:
            return os.pread(self._file, max(0, min(length, self._size - start)), start)
        except OSError as error:
            raise unavailable(error) from error

    def pass_on(self) -> PassedOn:
        """Let go of the spool without closing it; see ``BulkBlobs``. The lock goes with its file."""
        self._refuse_if_sealed()
        passed = PassedOn(self._file, self._name or "", self._size)
        self._file, self._sealed = -1, True
        return passed

    @classmethod
    def take_over(cls, spool: PassedOn, linux: Linux) -> FileSpool:
        """Return a spool that was passed on, here or in another process."""
        taken = cls(spool.file, spool.name or None, linux, WRITE_EVERY)
        taken._size = taken._writing = spool.size
        return taken

    def hand_over(self) -> int:
        """Seal the spool and return a file descriptor of its file, for the caller to close.

        It shares the spool's lock, and outlives a spool that is closed too early. Raises
        ``RuntimeError`` if the spool was put, spoilt or closed before.
        """
        self._refuse_if_sealed()
        self._sealed = True
        try:
            return os.dup(self._file)
        except OSError as error:
            raise unavailable(error) from error

    def _refuse_if_sealed(self) -> None:
        if self._sealed:
            raise RuntimeError("a spool can be put once, and only while it is open and unspoilt")

    def close(self) -> None:
        """Let go of it; repeats are harmless. What was put stays, what was not is gone."""
        file, self._file, self._sealed = self._file, -1, True
        if file < 0:
            return
        if self._name is not None:
            with contextlib.suppress(OSError):  # what stays is removed at the next start
                os.unlink(self._name)
        os.close(file)


def remove_stale_spools(folder: str) -> int:
    """Remove the named spools that no living process holds; return how many.

    Blocks; raises ``OSError`` if there is no folder.
    """
    removed = 0
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):  # busy, gone, or foreign: none of them is ours to remove
            _remove_if_stale(f"{folder}/{name}")
            removed += 1
    return removed


def _remove_if_stale(path: str) -> None:
    file = os.open(path, READ_ONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(file)


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        os.close(file)
        raise
