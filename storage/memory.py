"""The reference backend: blobs in this process's memory, for tests and demos. Nothing outlives the process."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from storage.base import BlobDamaged, BlobMissing, BlobUnavailable, Buffer, Location, Reader, Span, Spool

_NAME = re.compile(r"[0-9a-f]{64}")


class MemorySpool:
    """A ``Spool`` in memory."""

    def __init__(self) -> None:
        self.is_open = True
        self._bytes = bytearray()
        self._sealed = False

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return len(self._bytes)

    def append(self, data: Buffer) -> None:
        """Add bytes at the end."""
        if self._sealed:
            raise RuntimeError("a spool takes nothing more once it was put or closed")
        self._bytes += data

    def read(self, start: int, length: int) -> bytes:
        """Bytes already appended; fewer than ``length`` only at the end."""
        return bytes(self._bytes[start : start + length])

    def hand_over(self) -> bytes:
        """Seal the spool and return all bytes. Raises ``RuntimeError`` if it was put or closed before."""
        if self._sealed:
            raise RuntimeError("a spool can be put once, and only while it is open")
        self._sealed = True
        return bytes(self._bytes)

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        self._sealed = True
        self.is_open = False


class MemoryReader:
    """A ``Reader`` of bytes in memory."""

    source = "memory"

    def __init__(self, data: bytes, span: Span) -> None:
        self.size = len(data)
        self._rest = memoryview(data)[span.start : span.end]

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span, 1 to ``limit`` of them; ``b""`` at its end only."""
        data, self._rest = bytes(self._rest[:limit]), self._rest[limit:]
        return data

    def close(self) -> None:
        """Let go of it; repeats are harmless."""
        self._rest = memoryview(b"")


class MemoryBlobs:
    """A ``BlobStore``, and ``Claimable``, in memory. All its callers share one event loop, but for ``claim``."""

    kind = "memory"

    def __init__(self) -> None:
        self._blobs: dict[Location, bytes] = {}
        self._spools: dict[Location, MemorySpool] = {}
        self._held: set[Location] = set()
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._closed = False

    async def spool(self) -> Spool:
        """Return a new, empty spool."""
        self._refuse_if_closed()
        return MemorySpool()

    async def put(self, spool: Spool, name: str) -> Location:
        """Keep what was spooled under a new location.

        Raises ``ValueError`` for a malformed name or a spool of another store, ``RuntimeError`` for
        one that was put or closed before.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not 64 lowercase hex digits: {name!r}")
        if not isinstance(spool, MemorySpool):
            raise ValueError("the spool is of another kind of store")
        self._refuse_if_closed()
        data = spool.hand_over()
        with self._lock:
            location = Location(name, next(self._tokens).to_bytes(8, "big"))
            self._blobs[location] = data
            self._spools[location] = spool
        return location

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob. Raises ``BlobMissing``, and ``BlobDamaged``
        if the span does not lie within the blob.
        """
        data = self._found(location)
        if span is None:
            span = Span(0, len(data))
        elif span.start < 0 or span.length < 0 or span.end > len(data):
            raise BlobDamaged(location, f"bytes {span.start} to {span.end} were asked for, it has {len(data)}")
        return MemoryReader(data, span)

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises ``BlobMissing``."""
        return len(self._found(location))

    def _found(self, location: Location) -> bytes:
        self._refuse_if_closed()
        try:
            return self._blobs[location]
        except KeyError as error:
            raise BlobMissing(location) from error

    async def delete(self, location: Location) -> None:
        """Remove the blob for good; a missing one is no error."""
        self._refuse_if_closed()
        with self._lock:
            self._blobs.pop(location, None)
            self._spools.pop(location, None)

    async def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """Yield all locations in the order of their text form, those up to ``after`` left out."""
        self._refuse_if_closed()
        for location in sorted(self._blobs):
            if after is None or location > after:
                yield location

    @contextmanager
    def claim(self, location: Location) -> Iterator[bool]:
        """Hold the blob for the length of the context: see ``Claimable``."""
        with self._lock:
            free = location in self._blobs and location not in self._held and not self._spools[location].is_open
            if free:
                self._held.add(location)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._held.discard(location)

    async def check(self) -> None:
        """Return if the store is open; raise ``BlobUnavailable`` if not."""
        self._refuse_if_closed()

    async def close(self) -> None:
        """Let go of everything; repeats are harmless."""
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BlobUnavailable("the blob store is closed")
