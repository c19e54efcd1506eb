"""Readers of the filesystem backend: inline from the page cache, in a thread from disk."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from storage.base import BlobDamaged, Location, Span
from storage.linux import Linux, unreadable

Result = TypeVar("Result")

# One read copies at most this much, so that a hot one does not hold up the event loop for long.
_READ_BYTES = 1 << 20
# One look at the page cache walks at most this much of it on the event loop.
_LOOK_BYTES = 16 << 20
_WARM_BYTES = 4 << 20


class FileReader:
    """A ``Reader`` and ``LocalFile`` over an open file, which it owns.

    ``size`` is the blob's size in bytes; ``source`` is ``page cache`` until something had to wait
    for a thread, then ``disk``, unless it was told other words for them.
    """

    __slots__ = ("_end", "_file", "_linux", "_location", "_next", "_slower", "_threads", "_work", "size", "source")

    def __init__(
        self,
        location: Location,
        file: int,
        size: int,
        span: Span,
        *,
        source: str,
        slower: str = "disk",
        threads: ThreadPoolExecutor,
        linux: Linux,
    ) -> None:
        """``source`` is where opening had to look; it becomes ``slower`` when something waits for a thread."""
        self.size = size
        self.source = source
        self._location = location
        self._file = file
        self._slower = slower
        self._next = span.start
        self._end = span.end
        self._threads = threads
        self._linux = linux
        self._work: Future[None] | None = None

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span: ``limit`` of them, or all up to the end, or 1 MiB.

        Raises ``BlobDamaged`` if the blob ends before the span does, ``BlobUnreadable`` if the disk
        cannot read it, ``BlobUnavailable`` if something else fails.
        """
        start = self._next
        length = min(limit, self._end - start, _READ_BYTES)
        if length <= 0:
            return b""
        buffer = bytearray(length)
        done = 0
        # The look comes first: a read that does not wait begins to fetch what is missing, and from a
        # quick disk it may be there at once, read as if it had been in memory all along.
        if not self._linux.is_missing(self._file, start, length):
            try:
                done = os.preadv(self._file, [buffer], start, os.RWF_NOWAIT)
            except OSError as error:
                # EOPNOTSUPP: this filesystem cannot promise not to wait, so nothing is read inline.
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise unreadable(error) from error
        if done < length:
            # Even 0 need not be the end of the file (Linux 5.9 and 5.10): an ordinary read will tell.
            await self._in_thread(lambda: self._fill(memoryview(buffer)[done:], start + done))
        self._next = start + length
        return bytes(buffer)

    def _fill(self, rest: memoryview, start: int) -> None:
        while rest:
            done = os.preadv(self._file, [rest], start)
            if not done:
                # protection: no-early-end-of-file
                raise self._ended(start)
            rest = rest[done:]
            start += done

    def fileno(self) -> int:
        """Return the file descriptor; it belongs to the reader."""
        return self._file

    async def warm(self, start: int, length: int) -> None:
        """Bring these bytes of the blob into memory, so that sending them does not wait for disk.

        Raises as ``read`` does. A file that is cut off afterwards shows itself in a send that moves no bytes.
        """
        if length <= _LOOK_BYTES and self._linux.is_resident(self._file, start, length):
            # The page that holds the end of the file is resident even where the bytes are not.
            if os.fstat(self._file).st_size < start + length:
                raise self._ended(start)
            return
        await self._in_thread(lambda: self._load(start, start + length))

    def _load(self, start: int, end: int) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while start < end:
                length = min(end - start, _WARM_BYTES)
                try:
                    done = os.sendfile(nowhere, self._file, start, length)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOSYS):
                        raise
                    done = len(os.pread(self._file, length, start))
                if not done:
                    raise self._ended(start)
                start += done
        finally:
            os.close(nowhere)

    def _ended(self, start: int) -> BlobDamaged:
        return BlobDamaged(self._location, f"it ends before byte {start}, {self.size} were there when it was opened")

    async def _in_thread(self, work: Callable[[], None]) -> None:
        self.source = self._slower
        self._work = self._threads.submit(work)
        try:
            await asyncio.wrap_future(self._work)
        except OSError as error:
            raise unreadable(error) from error

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        file, self._file = self._file, -1
        if file < 0:
            return
        if self._work is None or self._work.done():
            os.close(file)
        else:
            # A cancelled read may still be at work, and the number must not become another file's.
            self._work.add_done_callback(lambda _: os.close(file))
