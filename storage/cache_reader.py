"""Readers of blobs that are on their way into the cache."""

from __future__ import annotations

from storage.base import BlobError, BlobStore, Location, Reader, Span
from storage.cache_fill import Fill
from storage.cache_threads import CacheThreads
from storage.file_reader import FileReader
from storage.linux import Linux


class FillReader:
    """A ``Reader`` that follows a fill, at its own pace. Where the fill ends early, the backend behind goes on."""

    def __init__(
        self,
        fill: Fill,
        blobs: BlobStore,
        location: Location,
        size: int,
        span: Span,
        *,
        threads: CacheThreads,
        linux: Linux,
    ) -> None:
        """``blobs``: the backend behind. The fill must be held."""
        self.size = size
        self._fill = fill
        self._blobs = blobs
        self._location = location
        self._next = span.start
        self._end = span.end
        self._file: Reader = FileReader(
            location, fill.file(), size, span, source=fill.source, slower=fill.source, threads=threads.pool, linux=linux
        )
        self._behind: Reader | None = None
        self._closed = False

    @property
    def source(self) -> str:
        """What the backend behind says."""
        return self._fill.source if self._behind is None else self._behind.source

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span, 1 to ``limit`` of them; ``b""`` at its end only.

        Raises what the backend behind raises.
        """
        if self._closed or self._next >= self._end:
            return b""
        data = await self._from_fill(limit) if self._behind is None else b""
        if not data:
            if self._behind is None:
                self._behind = await self._blobs.open(self._location, Span(self._next, self._end - self._next))
            data = await self._behind.read(limit)
        self._next += len(data)
        return data

    async def _from_fill(self, limit: int) -> bytes:
        """Return the next bytes, none if the backend behind is to go on."""
        if not await self._fill.past(self._next):
            return b""
        try:
            return await self._file.read(min(limit, self._fill.done - self._next))
        except BlobError:
            return b""

    def close(self) -> None:
        """Let go of it; repeats are harmless. The fill goes on."""
        self._closed = True
        self._file.close()
        if self._behind is not None:
            self._behind.close()
