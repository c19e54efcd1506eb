"""Fetching a blob into the cache once, for all in this process and in the others who want it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from storage.base import BlobError, BlobStore, BlobUnavailable, Location, Reader
from storage.cache_counts import CacheCounts
from storage.cache_room import Room
from storage.cache_shelf import Shelf
from storage.cache_slot import FillSlot
from storage.cache_threads import CacheThreads

_PIECE_BYTES = 1 << 20
# How often a fill of another process is looked at.
_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class CacheParts:
    """What a fill works with. ``root``: the open folder; ``most``: bytes of the largest blob that is admitted."""

    blobs: BlobStore
    root: int
    most: int
    room: Room
    shelf: Shelf
    threads: CacheThreads
    counts: CacheCounts


class Fill:
    """One blob on its way into the cache, whether this process fetches it or another.

    It goes on when nobody waits for it any more, and no reader of it can hold it up. ``done`` is the
    number of bytes that can be read from ``file``; ``is_over`` is set when no more will come.
    """

    def __init__(self, parts: CacheParts, location: Location, ended: Callable[[], None]) -> None:
        """Begin. ``ended`` is called once, when nothing more will come."""
        self.done = 0
        self.source = parts.blobs.kind
        self.is_over = False
        self._error: BlobError | None = None
        self._failed_elsewhere = False
        self._size: int | None = None
        self._parts = parts
        self._location = location
        self._slot: FillSlot | None = None
        self._holders = 0
        self._spare: Reader | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(ended))

    async def size(self) -> int | None:
        """Return the size of the blob in bytes; None if it does not come this way.

        Then it may be in the cache, or not fit there. Raises what the backend behind raised.
        """
        while self._size is None and not self.is_over:
            await self._changed.wait()
        if self._error is not None and self._size is None:
            raise self._error
        return self._size

    async def past(self, start: int) -> bool:
        """Wait for the byte at ``start``; False if it will not come. Raises what the backend behind raised."""
        while self.done <= start and not self.is_over:
            await self._changed.wait()
        if self.done > start:
            return True
        if self._error is not None:
            raise self._error
        if self._failed_elsewhere:
            raise BlobUnavailable(f"fetching {self._location} failed in another process")
        return False

    def hold(self) -> None:
        """Keep the file open until ``let_go``."""
        self._holders += 1

    def let_go(self) -> None:
        """End a ``hold``."""
        self._holders -= 1
        self._close_if_unused()

    def file(self) -> int:
        """Return a new file descriptor of the bytes, for the caller to close; the fill must be held."""
        assert self._slot is not None
        return self._slot.bytes_file()

    def take_spare(self) -> Reader | None:
        """Return the reader of the whole blob behind that was opened in vain, to the first who asks."""
        spare, self._spare = self._spare, None
        return spare

    async def stop(self) -> None:
        """Give it up, unless all bytes are there."""
        if self._size is None or self.done < self._size:
            self._task.cancel()
        await asyncio.wait([self._task])
        self.is_over = True
        self._tell()

    async def _run(self, ended: Callable[[], None]) -> None:
        try:
            await self._come()
        except BlobError as error:
            self._error = error
        except OSError:
            self._parts.counts.add("cache_errors")
        finally:
            self.is_over = True
            ended()
            self._tell()
            self._close_if_unused()

    async def _come(self) -> None:
        threads = self._parts.threads
        slot = self._slot = await threads.run(lambda: FillSlot(self._parts.root, self._location))
        while not slot.take():
            self._follow(slot)
            await asyncio.sleep(_LOOK_S)
        self._follow(slot)
        if slot.is_over():
            return
        if await threads.run(lambda: self._parts.shelf.holds(self._location)):
            # It came between the look for it and the lock.
            await threads.run(lambda: self._parts.room.settle(slot.drop))
            return
        self._failed_elsewhere = False
        await self._fetch(slot)

    def _follow(self, slot: FillSlot) -> None:
        """See how far another process has come."""
        progress = slot.progress()
        if progress is None:
            return
        if progress.failed:
            self._failed_elsewhere = True
        elif self._size is None:
            if not slot.go_on():
                return
            self._size = progress.size
        self.done = max(self.done, progress.done)
        self._tell()

    async def _fetch(self, slot: FillSlot) -> None:
        threads, room = self._parts.threads, self._parts.room
        before = slot.progress()
        taken = 0 if before is None else before.size
        reader: Reader | None = None
        try:
            reader = await self._parts.blobs.open(self._location)
            if before is not None and (before.size != reader.size or not slot.go_on()):
                return
            size = reader.size

            def begin() -> None:
                nonlocal taken
                slot.begin(size)
                taken = size

            if before is None and (size > self._parts.most or not await threads.run(lambda: room.reserve(size, begin))):
                self._spare, reader = reader, None
                return
            self._size = size
            self._tell()
            if await self._copy(slot, reader, size):
                facts = await threads.run(lambda: room.settle(slot.admit))
                taken = 0
                self._parts.shelf.remember(self._location, facts)
                self._parts.counts.add("cache_fills")
        except BlobError:
            await threads.run(slot.fail)
            raise
        finally:
            if reader is not None:
                reader.close()
            if not slot.is_over():
                await threads.run(lambda: room.release(taken, slot.drop))

    async def _copy(self, slot: FillSlot, reader: Reader, size: int) -> bool:
        """Fetch all bytes; return whether they are what the blob's name says."""
        sha256 = hashlib.sha256()
        at = 0

        def keep(data: bytes) -> None:
            slot.write(data, at)
            sha256.update(data)

        while data := await reader.read(_PIECE_BYTES):
            await self._parts.threads.run(partial(keep, data))
            at += len(data)
            self.source = reader.source
            self.done = max(self.done, at)
            self._tell()
        # protection: cache-keeps-right-blobs-only
        return at == size and sha256.hexdigest() == self._location.name

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _close_if_unused(self) -> None:
        if not self.is_over or self._holders:
            return
        if self._slot is not None:
            self._slot.close()
        if (spare := self.take_spare()) is not None:
            spare.close()
