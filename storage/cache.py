"""A bounded read-through cache on local disk, in front of any blob backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from storage.base import (
    BlobDamaged,
    BlobError,
    BlobStore,
    BlobUnavailable,
    BulkBlobs,
    Claimable,
    Counted,
    ImmediateFile,
    Location,
    Planned,
    Presigned,
    Reader,
    Span,
    Spool,
    Unfinished,
)
from storage.cache_counts import CacheCounts
from storage.cache_fill import CacheParts, Fill
from storage.cache_folder import make_cache_folders, part_path
from storage.cache_reader import FillReader
from storage.cache_room import Room
from storage.cache_shelf import Shelf
from storage.cache_slot import FillSlot
from storage.cache_threads import CacheThreads
from storage.file_reader import FileReader
from storage.linux import FOLDER, Linux, unavailable

# A blob may take this part of the cache at most, so that a large one does not flush the rest.
_LARGEST_PART = 8
# A span of a blob larger than this is passed through, rather than that its reader waits for all before it.
_SMALL_BYTES = 16 << 20
_FILLS = 32
_COPY_BYTES = 1 << 20


class CachedBlobs:
    """A ``BlobStore`` that keeps blobs of a slower one in a folder; ``Counted``, ``Fronting`` and ``Immediate``.

    It is ``Planned``, ``Presigned``, ``Unfinished``, ``Claimable`` or ``BulkBlobs`` as well if the
    backend behind is. Its names must be the SHA-256 of the bytes; a blob that is not what its name
    says is passed through and never kept. A blob that is there is read by a ``LocalFile`` whose
    source is ``cache``. Any number of processes may use one folder at once, for one backend behind;
    each opens it after its fork. A folder that is full or cannot be written makes it slow, and fails
    nothing.
    """

    def __init__(self, blobs: BlobStore, folder: Path, size_limit_bytes: int, *, admit_on_write: bool = False) -> None:
        """Use a folder, made if it is missing, for at most so many bytes. Blocks.

        ``admit_on_write``: keep what is put as well. The backend behind then belongs to the cache,
        which closes it. Raises ``BlobUnavailable`` if the folder cannot be used.
        """
        self.kind = blobs.kind
        self._blobs = blobs
        self._admit_on_write = admit_on_write
        self._linux = Linux()
        self._counts = CacheCounts()
        self._fills: dict[Location, Fill] = {}
        self._closed = False
        try:
            make_cache_folders(folder)
            self._root = os.open(folder, FOLDER)
            try:
                self._room = Room(self._root, size_limit_bytes, self._counts)
            except BaseException:
                os.close(self._root)
                raise
        except OSError as error:
            raise unavailable(error) from error
        self._threads = CacheThreads()
        self._shelf = Shelf(self._root, self._room, self._threads, self._linux, self._counts)
        self._most = size_limit_bytes // _LARGEST_PART
        self._parts = CacheParts(blobs, self._root, self._most, self._room, self._shelf, self._threads, self._counts)
        self._lend(blobs)

    def _lend(self, blobs: BlobStore) -> None:
        """Offer what the backend behind can do beside the verbs.

        Bound to the object and not to the class, so that ``isinstance`` finds no more than there is.
        """
        if isinstance(blobs, Planned):
            self._put_behind = blobs.put_at
            self.plan = blobs.plan
            self.put_at = self._put_at
        if isinstance(blobs, Presigned):
            self.url = blobs.url
        if isinstance(blobs, Unfinished):
            self.abort_unfinished = blobs.abort_unfinished
        if isinstance(blobs, Claimable):
            self.claim = blobs.claim
        if isinstance(blobs, BulkBlobs):
            self.spool_now, self.put_all, self.holds = blobs.spool_now, blobs.put_all, blobs.holds
            self.pass_on, self.take_over = blobs.pass_on, blobs.take_over

    @property
    def behind(self) -> BlobStore:
        """See ``Fronting``."""
        return self._blobs

    async def spool(self) -> Spool:
        """Return a new, empty spool of the backend behind."""
        return await self._blobs.spool()

    async def put(self, spool: Spool, name: str) -> Location:
        """See ``BlobStore``."""
        location = await self._blobs.put(spool, name)
        await self._admit(spool, location)
        return location

    async def _put_at(self, spool: Spool, location: Location) -> None:
        await self._put_behind(spool, location)
        await self._admit(spool, location)

    async def _admit(self, spool: Spool, location: Location) -> None:
        if not self._admit_on_write or self._closed or spool.size > self._most:
            return
        try:
            await self._threads.run(lambda: self._copy(spool, location))
        except (OSError, BlobError):
            self._counts.add("cache_errors")

    def _copy(self, spool: Spool, location: Location) -> None:
        slot = FillSlot(self._root, location)
        try:
            if not slot.take() or slot.is_over() or slot.progress() is not None:
                return
            size, at, sha256 = spool.size, 0, hashlib.sha256()
            if not self._room.reserve(size, lambda: slot.begin(size)):
                self._room.settle(slot.drop)
                return
            try:
                while at < size and (data := spool.read(at, _COPY_BYTES)):
                    slot.write(data, at)
                    sha256.update(data)
                    at += len(data)
                if at == size and sha256.hexdigest() == location.name:
                    self._room.settle(slot.admit)
                    self._counts.add("cache_fills")
            finally:
                if not slot.is_over():
                    self._room.release(size, slot.drop)
        finally:
            slot.close()

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob: from the cache, or on its way into it.

        Raises what the backend behind raises, or ``BlobDamaged`` if the span does not lie within the blob.
        """
        self._refuse_if_closed()
        if (reader := await self._find(location, span)) is not None:
            return reader
        self._counts.add("cache_misses")
        fill = await self._fill(location, span)
        if fill is None:
            return await self._blobs.open(location, span)
        return await self._follow(fill, location, span)

    def open_now(self, location: Location) -> ImmediateFile | None:
        """See ``Immediate``: blobs that are here, and were compared with their names."""
        return None if self._closed else self._shelf.find_now(location)

    async def _find(self, location: Location, span: Span | None) -> FileReader | None:
        """Return a reader of a blob that is in the cache."""
        try:
            found = await self._shelf.find(location)
        except OSError:
            self._counts.add("cache_errors")
            return None
        if found is None:
            return None
        file, size = found
        try:
            span = _within(location, span, size)
        except BlobDamaged:
            os.close(file)
            raise
        self._counts.hit(span.length)
        pool = self._threads.pool
        return FileReader(location, file, size, span, source="cache", slower="cache", threads=pool, linux=self._linux)

    async def _fill(self, location: Location, span: Span | None) -> Fill | None:
        """Return the fill to read from; None if the backend behind shall be asked."""
        fill = self._fills.get(location)
        if fill is not None:
            return None if span is not None and span.start > fill.done + _SMALL_BYTES else fill
        if span is not None and not await self._is_filled_for(location, span):
            return None
        fill = self._fills.get(location)
        if fill is None and len(self._fills) < _FILLS and not self._closed:
            fill = self._fills[location] = Fill(self._parts, location, lambda: self._forget(location))
        return fill

    def _forget(self, location: Location) -> None:
        del self._fills[location]

    async def _is_filled_for(self, location: Location, span: Span) -> bool:
        if span.end > _SMALL_BYTES:
            return span.start == 0
        return await self._blobs.stat(location) <= _SMALL_BYTES

    async def _follow(self, fill: Fill, location: Location, span: Span | None) -> Reader:
        fill.hold()
        try:
            size = await fill.size()
            if size is not None:
                within = _within(location, span, size)
                return FillReader(fill, self._blobs, location, size, within, threads=self._threads, linux=self._linux)
            if span is None and (spare := fill.take_spare()) is not None:
                return spare
        finally:
            fill.let_go()
        return await self._find(location, span) or await self._blobs.open(location, span)

    async def stat(self, location: Location) -> int:
        """Return the size in bytes, as the backend behind tells it. Raises ``BlobMissing``."""
        return await self._blobs.stat(location)

    async def delete(self, location: Location) -> None:
        """Remove the blob for good, here and behind. Durable on return; a missing one is no error."""
        await self._blobs.delete(location)
        try:
            with suppress(FileNotFoundError):
                # A fill under way then finds nothing to admit.
                os.unlink(part_path(location), dir_fd=self._root)
            await self._shelf.remove(location)
        except OSError:
            self._counts.add("cache_errors")

    def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """See ``BlobStore``."""
        return self._blobs.list(after)

    def counts(self) -> dict[str, int]:
        """Return what was counted here, and what the backend behind counted."""
        behind = self._blobs.counts() if isinstance(self._blobs, Counted) else {}
        return {**behind, **self._counts.now()}

    async def check(self) -> None:
        """Return if the backend behind can serve; raise ``BlobUnavailable`` if not."""
        self._refuse_if_closed()
        await self._blobs.check()

    async def close(self) -> None:
        """Give up the fills, close the backend behind, and let go of everything; repeats are harmless."""
        if self._closed:
            return
        self._closed = True
        self._shelf.close()
        await asyncio.gather(*(fill.stop() for fill in list(self._fills.values())))
        await self._blobs.close()
        await self._threads.close()
        self._room.close()
        root, self._root = self._root, -1
        os.close(root)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BlobUnavailable("the blob store is closed")


def _within(location: Location, span: Span | None, size: int) -> Span:
    if span is None:
        return Span(0, size)
    if span.start < 0 or span.length < 0 or span.end > size:
        raise BlobDamaged(location, f"bytes {span.start} to {span.end} were asked for, it has {size}")
    return span
