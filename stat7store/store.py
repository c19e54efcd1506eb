"""The store: put, find, open, change, delete, list and sweep. The whole service, without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from stat7store.address import Address
from stat7store.bulk import Bulk
from stat7store.catalog.base import BulkCatalog, Catalog, Counters, ImmediateCatalog, Page, Query
from stat7store.errors import Damaged, NotFound, Unavailable
from stat7store.record import Entry, FileRecord, Locator
from stat7store.small import SmallFiles
from stat7store.timing import StageClock, now_ns
from stat7store.translate import blob_errors
from stat7store.upload import Upload
from storage.base import BlobStore, BulkBlobs, Claimable, Immediate, Location, Reader, Span

ACCEPTED = ("image/*", "video/*")
MAX_SIZE = 64 * 1024**3
_GARBAGE_BATCH = 256
_MOST_MOVES = 3


def unix_ms() -> int:
    """Return the wall clock in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


class Store:
    """Files by address: a catalog that knows them and a blob backend that holds their bytes.

    ``accepted`` are media types or families, ``max_size`` is in bytes, ``now`` is the wall clock in
    milliseconds, ``small`` is the way in for small files, if they have one of their own. The store does
    not own the catalog and the backend; whoever opened them closes them.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        *,
        accepted: Sequence[str] = ACCEPTED,
        max_size: int = MAX_SIZE,
        now: Callable[[], int] = unix_ms,
        small: SmallFiles | None = None,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._accepted = tuple(accepted)
        self._max_size = max_size
        self._now = now
        self._small = small

    @property
    def backend(self) -> str:
        """Name of the blob backend, as timings and statistics give it."""
        return self._blobs.kind

    @property
    def immediate(self) -> tuple[ImmediateCatalog, Immediate] | None:
        """Catalog and backend, if both can answer without leaving the event loop."""
        if isinstance(self._catalog, ImmediateCatalog) and isinstance(self._blobs, Immediate):
            return self._catalog, self._blobs
        return None

    @asynccontextmanager
    async def upload(self, filename: str = "", expected: Address | None = None) -> AsyncIterator[Upload]:
        """Take in one file: write its bytes to the ``Upload``, then commit it.

        Whatever is not committed when the context ends leaves nothing behind. ``expected`` is the
        address the bytes must have.
        """
        upload = Upload(
            self._catalog,
            self._blobs,
            self._small,
            filename=filename,
            expected=expected,
            accepted=self._accepted,
            max_size=self._max_size,
            stored_at=self._now(),
        )
        try:
            yield upload
        finally:
            await upload.close()

    def bulk(self) -> Bulk:
        """Return the way in for many files at once. Raises ``Unavailable`` where there is none."""
        if not isinstance(self._catalog, BulkCatalog) or not isinstance(self._blobs, BulkBlobs):
            raise Unavailable("this store takes files one by one only; send them to its server")
        return Bulk(self._catalog, self._blobs, accepted=self._accepted, max_size=self._max_size, now=self._now)

    async def find(self, address: Address, clock: StageClock) -> Entry:
        """Return what is known of a file; raise ``NotFound``. Charges index and metadata."""
        begun = now_ns()
        try:
            locator = await self._catalog.lookup(address)
        finally:
            looked_up = now_ns()
            clock.index += looked_up - begun
        try:
            record = await self._catalog.record(address, locator)
        finally:
            clock.metadata += now_ns() - looked_up
        return Entry(locator, record)

    async def entry(self, address: Address) -> Entry:
        """Return what is known of a file, untimed; raise ``NotFound``."""
        return await self.find(address, StageClock())

    async def open(self, address: Address, locator: Locator, span: Span | None, clock: StageClock) -> Reader:
        """Return a reader of a span of a file that was found, or of all of it. Charges disk.

        Raises ``NotFound`` if it was deleted since, ``Damaged`` if its bytes are not what they were.
        """
        for _ in range(_MOST_MOVES):
            if locator.damaged:
                raise Damaged("the stored bytes are known to be damaged; uploading the file again heals them")
            begun = now_ns()
            try:
                with blob_errors():
                    reader = await self._blobs.open(locator.location, span)
            except NotFound:
                locator = await self._moved(address, locator)
                continue
            finally:
                clock.disk += now_ns() - begun
            if reader.size != locator.size:
                reader.close()
                raise Damaged(f"{reader.size} bytes are stored instead of {locator.size}; uploading again heals them")
            return reader
        raise Damaged("the stored bytes kept moving while they were opened")

    async def update(
        self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None = None
    ) -> Entry:
        """Change a record; see ``Catalog.update``."""
        return await self._catalog.update(address, change, revision)

    async def delete(self, address: Address) -> None:
        """Delete a file: gone for every later read on return. Raises ``NotFound``."""
        await self._catalog.remove(address)

    async def present(self, addresses: Sequence[Address]) -> set[Address]:
        """Return those addresses under which a file is stored."""
        return await self._catalog.present(addresses)

    async def query(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """Return a page of files; see ``Catalog.query``."""
        return await self._catalog.query(query, limit, cursor)

    async def counters(self) -> Counters:
        """Return the totals."""
        return await self._catalog.counters()

    async def check(self) -> None:
        """Return if catalog and blobs can serve; raise ``Unavailable`` if not."""
        await self._catalog.check()
        with blob_errors():
            await self._blobs.check()

    async def sweep_garbage(self) -> int:
        """Delete the blobs that the catalog has queued as garbage; return how many.

        Idempotent at every crash point, because a location is never used twice. A blob that cannot
        be deleted now stays queued.
        """
        swept = 0
        while locations := await self._catalog.garbage(_GARBAGE_BATCH):
            results = await asyncio.gather(*map(self._blobs.delete, locations), return_exceptions=True)
            gone = [location for location, error in zip(locations, results, strict=True) if error is None]
            await self._catalog.forget_garbage(gone)
            swept += len(gone)
            if len(gone) < len(locations):
                break
        return swept

    async def sweep_orphans(self) -> int:
        """Queue blobs as garbage that no entry points at and no living upload claims; return how many.

        They are what a crash leaves between ``put`` and the catalog. No clock is trusted.
        """
        if not isinstance(self._blobs, Claimable):
            return 0
        swept = 0
        unreferenced: list[Location] = []
        async for location in self._blobs.list():
            if not await self._is_referenced(location):
                unreferenced.append(location)
            if len(unreferenced) == _GARBAGE_BATCH:
                swept += sum(await asyncio.gather(*(self._discard(self._blobs, orphan) for orphan in unreferenced)))
                unreferenced.clear()
        return swept + sum(await asyncio.gather(*(self._discard(self._blobs, orphan) for orphan in unreferenced)))

    async def maintain(self) -> None:
        """Housekeeping of the catalog that one process of a node does now and then."""
        await self._catalog.maintain()

    async def _discard(self, blobs: Claimable, location: Location) -> bool:
        with blobs.claim(location) as claimed:
            return claimed and await self._catalog.discard(location)

    async def _moved(self, address: Address, locator: Locator) -> Locator:
        """Return where a file that was not at its location is now; ``NotFound`` if it was deleted."""
        current = await self._catalog.lookup(address)
        if current.location == locator.location:
            raise Damaged("the stored bytes are missing; uploading the file again heals it")
        return current

    async def _is_referenced(self, location: Location) -> bool:
        try:
            return (await self._catalog.lookup(Address.parse(location.name))).location == location
        except NotFound:
            return False
        except Damaged:  # an index entry that cannot be read may well point here
            return True
