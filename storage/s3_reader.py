"""Readers of the S3 backend: in order, with read-ahead, checked to the last byte."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import NamedTuple

from storage.base import BlobDamaged, Location, Span
from storage.byte_budget import ByteBudget
from storage.s3_requests import S3Requests
from storage.s3_stream import S3Stream

# The first hop to a thread brings so much, for the first byte is waited for; the later ones bring more.
SOON_BYTES = 256 << 10
_BLOCK_BYTES = 1 << 20
# The first request asks for this much, so that one is enough for most blobs; the later ones for less, ahead of time.
FIRST_BYTES = 8 << 20
_WINDOW_BYTES = 4 << 20
_WINDOWS = 4


class Check:
    """Compares a whole blob with the SHA-256 that its name is."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._hash = hashlib.sha256()

    def take(self, data: bytes, *, last: bool) -> None:
        """Take the next bytes. Raises ``BlobDamaged`` at the last ones if the blob is not what it should be."""
        self._hash.update(data)
        if last and self._hash.hexdigest() != self._location.name:
            raise BlobDamaged(self._location, f"its SHA-256 is {self._hash.hexdigest()}")


class _Window(NamedTuple):
    stream: S3Stream
    length: int
    fetching: asyncio.Task[bytes]


class S3Reader:
    """A ``Reader`` of a span of a blob on S3.

    Of a blob that is read whole, no last byte is given before all have been compared with its name.
    """

    __slots__ = (
        "_ahead",
        "_ahead_from",
        "_block",
        "_check",
        "_end",
        "_location",
        "_memory",
        "_next",
        "_requests",
        "_stream",
        "size",
    )

    source = "s3"

    def __init__(
        self,
        requests: S3Requests,
        location: Location,
        span: Span,
        *,
        size: int,
        stream: S3Stream,
        first: bytes,
        check: Check | None,
        memory: ByteBudget,
    ) -> None:
        """``stream``: opened at the span's start, its bytes ``first`` read, and taken by ``check``."""
        self.size = size
        self._requests = requests
        self._location = location
        self._stream = stream
        self._block = memoryview(first)
        self._next = span.start + len(first)
        self._end = span.end
        self._check = check
        self._memory = memory
        self._ahead: deque[_Window] = deque()
        self._ahead_from = self._next + stream.left

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span, 1 to ``limit`` of them; ``b""`` at its end only.

        Raises ``BlobDamaged`` if the blob is not what was put, ``BlobMissing`` if it was deleted since
        it was opened, or ``BlobUnavailable``.
        """
        if not self._block:
            if self._next >= self._end:
                return b""
            self._look_ahead()
            self._block = memoryview(await self._fetch())
        block, self._block = self._block, self._block[limit:]
        if not self._block and isinstance(block.obj, bytes) and len(block.obj) == len(block):
            return block.obj  # all of it, without a copy
        return bytes(block[:limit])

    async def _fetch(self) -> bytes:
        if self._stream.left:
            stream = self._stream
            data = await self._requests.run(lambda until: self._checked(stream.read(_BLOCK_BYTES, until)))
        elif self._ahead:
            data = await self._next_window()
        else:
            self._stream = self._stream_from(self._next, min(self._end - self._next, FIRST_BYTES))
            self._ahead_from = self._next + self._stream.left
            return await self._fetch()
        self._next += len(data)
        return data

    async def _next_window(self) -> bytes:
        window = self._ahead[0]
        fetched = await window.fetching
        self._ahead.popleft()
        self._memory.release(window.length)
        if self._check is None:
            return fetched
        return await self._requests.run(lambda until: self._checked(fetched))

    def _checked(self, data: bytes) -> bytes:
        if self._check is not None:
            self._check.take(data, last=self._next + len(data) >= self._end)
        return data

    def _look_ahead(self) -> None:
        """Begin to fetch what will be read later, as far as there is memory for it."""
        while len(self._ahead) < _WINDOWS and self._ahead_from < self._end:
            length = min(_WINDOW_BYTES, self._end - self._ahead_from)
            if not self._memory.try_hold(length):
                return
            stream = self._stream_from(self._ahead_from, length)
            fetching = asyncio.ensure_future(self._whole(stream, length))
            self._ahead.append(_Window(stream, length, fetching))
            self._ahead_from += length

    async def _whole(self, stream: S3Stream, length: int) -> bytes:
        return await self._requests.run(lambda until: stream.read(length, until))

    def _stream_from(self, start: int, length: int) -> S3Stream:
        return S3Stream(self._requests, self._location, Span(start, length), tag=self._stream.tag)

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        self._stream.close()
        self._block = memoryview(b"")
        self._next = self._end
        while self._ahead:
            window = self._ahead.popleft()
            window.stream.close()
            window.fetching.add_done_callback(_forget)
            window.fetching.cancel()
            self._memory.release(window.length)


def _forget(fetching: asyncio.Task[bytes]) -> None:
    if not fetching.cancelled():
        fetching.exception()
