"""A file that was found, and its bytes: read once, in blocks, with an eye on whether it changes."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from stat7store.importer.gauge import Gauge

Block = TypeVar("Block", bytes, memoryview)

BLOCK_BYTES = 1024 * 1024
FACTS_BYTES = 24
_FACTS = struct.Struct("<qqQ")
pack_facts = _FACTS.pack
_UNSETTLED_NS = 50_000_000  # clocks of file systems tick up to every 10 ms; a later write may show no later time


class Stopped(Exception):
    """The import was told to stop, and this file was not finished."""


class Changed(Exception):
    """The file is not what it was when its reading began."""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What tells that a file is still the same: size in bytes, time of change in nanoseconds, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Facts:
        """Take them from what ``stat`` says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    def packed(self) -> bytes:
        """Write them so that they can be compared at once."""
        return pack_facts(self.size, self.mtime_ns, self.inode)

    @classmethod
    def unpacked(cls, data: bytes) -> Facts:
        """Read what ``packed`` wrote, at the beginning of ``data``."""
        return cls(*_FACTS.unpack_from(data))


class Folder:
    """An open folder; its descriptor is closed when the last file that was found in it is done with.

    ``path`` is for people and the journal. Paths may be longer than the system takes, so files are
    opened by name, relative to the descriptor.
    """

    __slots__ = ("file", "path")

    path: bytes

    def __init__(self, name: bytes, parent: Folder | None = None, *, follow: bool = False) -> None:
        """Open a folder by its path, or by its name in ``parent``. Raises ``OSError``."""
        self.file = -1
        self.path = name if parent is None else os.path.join(parent.path, name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        self.file = os.open(name, flags, dir_fd=None if parent is None else parent.file)

    @classmethod
    def of(cls, file: int) -> Folder:
        """Return the folder of a descriptor, which is closed with it; its path is not known here."""
        folder = cls.__new__(cls)
        folder.file, folder.path = file, b""
        return folder

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


class Found(msgspec.Struct, frozen=True, gc=False):
    """A file that is to be imported."""

    folder: Folder
    name: bytes
    facts: Facts
    is_link: bool = False

    @property
    def path(self) -> bytes:
        """The whole path."""
        return os.path.join(self.folder.path, self.name)


class Source:
    """An open file on its way in. ``facts`` are those at its opening."""

    def __init__(self, found: Found, gauge: Gauge, *, counted: bool = True) -> None:
        """Open it; ``gauge`` says whether to stop, and is told what was read if that is to be ``counted``.

        Raises ``OSError``, also for what has become something else than a file.
        """
        # should it have become a pipe or a device since: do not wait for it, do not let it take the terminal
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if found.is_link else os.O_NOFOLLOW)
        self._file = os.open(found.name, flags, dir_fd=found.folder.file)
        self._gauge = gauge
        self._counts = counted
        self._taken = 0
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            self.__exit__(None, None, None)
            raise OSError(errno.EINVAL, "it is no regular file any more")
        self.facts = Facts.of(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def head(self) -> bytes:
        """Return the first block: all of it if the file is no longer than that."""
        return self._counted(os.read(self._file, min(self.facts.size + 1, BLOCK_BYTES)))

    def rest(self) -> Iterator[memoryview]:
        """Yield the blocks after the first; each is valid until the next is asked for. Raises ``Stopped``."""
        buffer = memoryview(bytearray(BLOCK_BYTES)) if self._taken < self.facts.size else memoryview(b"")
        while self._taken < self.facts.size:
            length = os.readv(self._file, [buffer])
            if not length:
                raise Changed
            yield self._counted(buffer[:length])

    def check(self) -> None:
        """Raise ``Changed`` unless all that was read is the file as it is now."""
        if self._taken != self.facts.size or Facts.of(os.fstat(self._file)) != self.facts:
            raise Changed

    def _counted(self, block: Block) -> Block:
        if self._gauge.stopped:
            raise Stopped
        self._taken += len(block)
        if self._counts:
            self._gauge.add_read(len(block))
        return block


def is_settled(facts: Facts, read_at_ns: int) -> bool:
    """Tell whether a change after ``read_at_ns`` (nanoseconds since 1970) would show in the facts."""
    return facts.mtime_ns < read_at_ns - _UNSETTLED_NS


def delete_source(found: Found, facts: Facts) -> None:
    """Delete a file that is durable elsewhere, if it is still what was read. Raises ``OSError``, ``Changed``."""
    if Facts.of(os.stat(found.name, dir_fd=found.folder.file, follow_symlinks=False)) != facts:
        raise Changed
    os.unlink(found.name, dir_fd=found.folder.file)
