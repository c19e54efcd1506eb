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
        # protection: hash-body-from-s3
        if last and self._hash.hexdigest() != self._location.name:
            raise BlobDamaged(self._location, f"its SHA-256 is {self._hash.hexdigest()}")


class _Window(NamedTuple):
    stream: S3Stream
    length: int
    fetching: asyncio.Task[list[bytes]]


class S3Reader:
    """A ``Reader`` of a span of a blob on S3.

    Of a blob that is read whole, no last byte is given before all have been compared with its name.
    """

    __slots__ = (
        "_ahead",
        "_ahead_from",
        "_check",
        "_end",
        "_location",
        "_memory",
        "_next",
        "_pieces",
        "_requests",
        "_stream",
        "_stream_read",
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
        self._stream_read = asyncio.Event()  # what comes after it is checked after it
        self._pieces: deque[bytes | memoryview] = deque([first] if first else [])
        self._next = span.start + len(first)
        self._end = span.end
        self._check = check
        self._memory = memory
        self._ahead: deque[_Window] = deque()
        self._ahead_from = self._next + stream.left
        if not stream.left:
            self._stream_read.set()

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span, 1 to ``limit`` of them; ``b""`` at its end only.

        Raises ``BlobDamaged`` if the blob is not what was put, ``BlobMissing`` if it was deleted since
        it was opened, or ``BlobUnavailable``.
        """
        if not self._pieces:
            if self._next >= self._end:
                return b""
            self._look_ahead()
            self._pieces.extend(await self._fetch())
        piece = self._pieces.popleft()
        if len(piece) > limit:
            self._pieces.appendleft(memoryview(piece)[limit:])
            piece = memoryview(piece)[:limit]
        return bytes(piece)  # without a copy, if it is what came

    async def _fetch(self) -> list[bytes]:
        if self._stream.left:
            stream = self._stream
            pieces = await self._requests.run(lambda until: self._read(stream, self._next, _BLOCK_BYTES, until))
        elif self._ahead:
            window = self._ahead[0]
            pieces = await window.fetching
            self._ahead.popleft()
            self._memory.release(window.length)
        else:
            self._stream = self._stream_from(self._next, min(self._end - self._next, FIRST_BYTES))
            self._stream_read = asyncio.Event()
            self._ahead_from = self._next + self._stream.left
            return await self._fetch()
        self._next += sum(map(len, pieces))
        if not self._stream.left:
            self._stream_read.set()
        return pieces

    def _read(self, stream: S3Stream, start: int, length: int, until: float) -> list[bytes]:
        return self._checked(stream.read_pieces(length, until), start)

    def _checked(self, pieces: list[bytes], start: int) -> list[bytes]:
        if self._check is not None:
            for piece in pieces:
                start += len(piece)
                self._check.take(piece, last=start >= self._end)
        return pieces

    def _look_ahead(self) -> None:
        """Begin to fetch what will be read later, as far as there is memory for it."""
        while len(self._ahead) < _WINDOWS and self._ahead_from < self._end:
            length = min(_WINDOW_BYTES, self._end - self._ahead_from)
            if not self._memory.try_hold(length):
                return
            stream = self._stream_from(self._ahead_from, length)
            before = self._ahead[-1].fetching if self._ahead else None
            fetching = asyncio.ensure_future(self._window(stream, self._ahead_from, length, before, self._stream_read))
            self._ahead.append(_Window(stream, length, fetching))
            self._ahead_from += length

    async def _window(
        self, stream: S3Stream, start: int, length: int, before: asyncio.Task[list[bytes]] | None, read: asyncio.Event
    ) -> list[bytes]:
        """Fetch a window; check it after all that stands before it, and while that is being sent."""
        pieces = await self._requests.run(lambda until: stream.read_pieces(length, until))
        if self._check is not None:
            await read.wait()
            if before is not None:
                await asyncio.wait([before])
            await self._requests.run(lambda until: self._checked(pieces, start))
        return pieces

    def _stream_from(self, start: int, length: int) -> S3Stream:
        return S3Stream(self._requests, self._location, Span(start, length), tag=self._stream.tag)

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        self._stream.close()
        self._pieces.clear()
        self._next = self._end
        while self._ahead:
            window = self._ahead.popleft()
            window.stream.close()
            window.fetching.add_done_callback(_forget)
            window.fetching.cancel()
            self._memory.release(window.length)


def _forget(fetching: asyncio.Task[list[bytes]]) -> None:
    if not fetching.cancelled():
        fetching.exception()
