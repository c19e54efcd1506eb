"""Spools of the S3 backend: local files that nobody syncs, since it is S3 that keeps the bytes."""

from __future__ import annotations

import math
import os
import threading

from storage.base import Buffer
from storage.file_spool import FileSpool
from storage.linux import Linux, unavailable


class SpooledBytes:
    """What was spooled, sealed: ``size`` in bytes. Any thread may read it."""

    def __init__(self, file: int, size: int) -> None:
        """``file``: an open file descriptor, which belongs to this object from now on."""
        self.size = size
        self._file = file
        self._lock = threading.Lock()

    def read(self, start: int, length: int) -> bytes:
        """Return these bytes, all of them. Raises ``BlobUnavailable``, also once it is closed."""
        # An upload that was given up may still be at work in a thread, and the descriptor's number may be reused.
        with self._lock:
            try:
                data = os.pread(self._file, length, start)
                if len(data) != length:
                    raise OSError(f"the spool ends at {start + len(data)}, it had {self.size} bytes")
            except OSError as error:
                raise unavailable(error) from error
        return data

    def close(self) -> None:
        """Let go of the file; repeats are harmless."""
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class S3Spool:
    """A ``Spool`` in a local file, on its way to S3."""

    def __init__(self, file: FileSpool) -> None:
        self._file = file

    @classmethod
    def create(cls, folder: str, linux: Linux) -> S3Spool:
        """Return a new spool in this folder. Blocks. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
        return cls(FileSpool.create(folder, linux, write_every=math.inf))

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._file.size

    def append(self, data: Buffer) -> None:
        """Add bytes at the end. Raises ``BlobNoSpace`` or ``BlobUnavailable``; the spool is spoilt then."""
        self._file.append(data)

    def read(self, start: int, length: int) -> bytes:
        """Bytes already appended; fewer than ``length`` only at the end. Raises ``BlobUnavailable``."""
        return self._file.read(start, length)

    def hand_over(self) -> SpooledBytes:
        """Seal the spool and return its bytes. Raises ``RuntimeError`` if it was put, spoilt or closed before."""
        return SpooledBytes(self._file.hand_over(), self._file.size)

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        self._file.close()
