"""The store: put, find, open, change, delete, list and sweep. The whole service, without HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from stat7store.address import Address
from stat7store.backends import Backends
from stat7store.bulk import Bulk
from stat7store.catalog.base import (
    BulkCatalog,
    Catalog,
    Counters,
    ImmediateCatalog,
    MappedCatalog,
    MapUse,
    Page,
    Query,
)
from stat7store.errors import Damaged, NotFound, Unavailable
from stat7store.keeping import Keeper
from stat7store.record import Entry, FileRecord, Locator
from stat7store.room import Promise, Room
from stat7store.small import SmallFiles
from stat7store.sweeper import Sweeper
from stat7store.timing import StageClock, now_ns
from stat7store.translate import blob_errors
from stat7store.upload import Upload
from stat7store.verifying import Finding, Tally, Verifier
from storage.base import BlobStore, BulkBlobs, Immediate, Presigned, Reader, Span

ACCEPTED = ("image/*", "video/*")
MAX_SIZE = 64 * 1024**3
INTENT_TIMEOUT_S = 6 * 3600.0
_MOST_MOVES = 3
_PAGE = 512


def unix_ms() -> int:
    """Return the wall clock in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


class Store:
    """Files by address: a catalog that knows them and blob backends that hold their bytes.

    ``blobs`` is one backend, or several. ``accepted`` are media types or families, ``max_size`` is
    in bytes, ``now`` is the wall clock in milliseconds. An intent older than ``intent_timeout_s`` is
    taken for one of a dead upload; ``owner`` is named in those of this process. ``small`` is the way in
    for small files, if they have one of their own, ``room`` what there is for new files. The store
    does not own the catalog and the backends; whoever opened them closes them.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore | Backends,
        *,
        accepted: Sequence[str] = ACCEPTED,
        max_size: int = MAX_SIZE,
        now: Callable[[], int] = unix_ms,
        intent_timeout_s: float = INTENT_TIMEOUT_S,
        owner: str = "",
        small: SmallFiles | None = None,
        room: Room | None = None,
    ) -> None:
        self._catalog = catalog
        self._backends = backends = blobs if isinstance(blobs, Backends) else Backends({0: blobs})
        self._keeper = Keeper(catalog, backends, now=now, owner=owner)
        self._sweeper = Sweeper(catalog, backends)
        self._intent_timeout_s = intent_timeout_s
        self._accepted = tuple(accepted)
        self._max_size = max_size
        self._now = now
        self._small = small
        self._room = room or Room()

    @property
    def backend(self) -> str:
        """Name of the blob backend for new files, as timings and statistics give it."""
        return self._backends.blobs.kind

    def backend_of(self, locator: Locator) -> str:
        """Return the name of the backend that a file is on; ``unknown`` if it was never reached."""
        blobs = self._backends.opened(locator.backend)
        return "unknown" if blobs is None else blobs.kind

    def counts(self) -> dict[str, int]:
        """Return what backends, catalog and sweeper have counted so far in this process."""
        catalog = self._catalog.counts() if isinstance(self._catalog, MappedCatalog) else {}
        return {**self._backends.counts(), **catalog, **self._sweeper.counts()}

    def map_use(self) -> MapUse | None:
        """Return how much room the catalog takes; None if it is not in a memory map. Raises ``Unavailable``."""
        return self._catalog.map_use() if isinstance(self._catalog, MappedCatalog) else None

    def free_bytes(self) -> dict[str, int]:
        """Return the room left on disk, by folder; see ``Room.free_bytes``."""
        return self._room.free_bytes()

    @property
    def immediate(self) -> tuple[ImmediateCatalog, Immediate, int] | None:
        """Catalog, backend for new files and its number, if both can answer without leaving the event loop."""
        blobs = self._backends.blobs
        if isinstance(self._catalog, ImmediateCatalog) and isinstance(blobs, Immediate):
            return self._catalog, blobs, self._backends.primary
        return None

    def promise(self, size: int) -> Promise:
        """Hold room for ``size`` bytes that are to come; see ``Room.promise``."""
        return self._room.promise(size)

    def upload(
        self, filename: str = "", expected: Address | None = None, promise: Promise | None = None
    ) -> AbstractAsyncContextManager[Upload]:
        """Take in one file: write its bytes to the ``Upload``, then commit it.

        Whatever is not committed when the context ends leaves nothing behind. ``expected`` is the
        address the bytes must have. ``promise`` is the room held for it, and maybe for others. Raises ``NoSpace``.
        """
        return Upload(
            self._catalog,
            self._backends,
            self._keeper,
            self._small,
            promise or self._room.promise(),
            shared=promise is not None,
            filename=filename,
            expected=expected,
            accepted=self._accepted,
            max_size=self._max_size,
            stored_at=self._now(),
        )

    def bulk(self) -> Bulk:
        """Return the way in for many files at once. Raises ``Unavailable`` where there is none."""
        primary = self._backends.primary
        backends: dict[int, BulkBlobs] = {}
        for number in self._backends.numbers():
            blobs = self._backends.opened(number)
            if blobs is not None and isinstance(blobs, BulkBlobs):
                backends[number] = blobs
        if not isinstance(self._catalog, BulkCatalog) or primary not in backends:
            raise Unavailable("this store takes files one by one only; send them to its server")
        return Bulk(
            self._catalog,
            backends,
            primary,
            self._room,
            accepted=self._accepted,
            max_size=self._max_size,
            now=self._now,
        )

    def verifier(self, tally: Tally, tell: Callable[[Finding], None], *, bytes_per_s: float, jobs: int) -> Verifier:
        """Return what re-reads all that is stored, and marks what is damaged; see ``Verifier``."""
        return Verifier(self._catalog, self._backends, tally, tell, bytes_per_s=bytes_per_s, jobs=jobs)

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
                raise _known_damaged()
            begun = now_ns()
            try:
                blobs = await self._backends.of(locator.backend)
                with blob_errors():
                    reader = await blobs.open(locator.location, span)
            except NotFound:
                # protection: follow-moved-file
                locator = await self._moved(address, locator)
                continue
            finally:
                clock.disk += now_ns() - begun
            # protection: compare-size-when-opened
            if reader.size != locator.size:
                reader.close()
                raise Damaged(f"{reader.size} bytes are stored instead of {locator.size}; uploading again heals them")
            return reader
        raise Damaged("the stored bytes kept moving while they were opened")

    async def link(
        self, locator: Locator, clock: StageClock, *, seconds: int, media_type: str, disposition: str
    ) -> str | None:
        """Return a URL at which the backend itself gives a file for so long; None if it cannot. Charges disk.

        Raises ``Damaged`` or ``Unavailable``.
        """
        if locator.damaged:
            raise _known_damaged()
        begun = now_ns()
        try:
            blobs = await self._backends.of(locator.backend)
            if not isinstance(blobs, Presigned):
                return None
            with blob_errors():
                return await blobs.url(
                    locator.location, seconds=seconds, media_type=media_type, disposition=disposition
                )
        finally:
            clock.disk += now_ns() - begun

    async def update(
        self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None = None
    ) -> Entry:
        """Change a record; see ``Catalog.update``."""
        return await self._catalog.update(address, change, revision)

    async def delete(self, address: Address) -> None:
        """Delete a file: gone for every later read on return. Raises ``NotFound``."""
        await self._catalog.lookup(address)  # who asks for nothing must not keep others from writing
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
        """Return if the catalog and the backend for new files can serve; raise ``Unavailable`` if not."""
        await self._catalog.check()
        with blob_errors():
            await self._backends.blobs.check()

    async def marked(self) -> AsyncIterator[Address]:
        """Yield the files that are marked as damaged. Raises ``Unavailable``."""
        after = None
        while page := await self._catalog.survey(_PAGE, after):
            for row in page:
                if row.entry is not None and row.entry.locator.damaged:
                    yield row.address
            after = page[-1].address

    async def sweep_garbage(self) -> int:
        """Delete the blobs that the catalog has queued as garbage; return how many.

        Idempotent at every crash point, because a location is never used twice. A blob that cannot
        be deleted now stays queued, and does not keep those on other backends from going: the first
        such failure is raised at the end.
        """
        return await self._sweeper.sweep_garbage()

    async def sweep_orphans(self) -> int:
        """Queue blobs as garbage that no entry points at and no living upload claims; return how many.

        They are what a crash leaves between ``put`` and the catalog.
        """
        before = self._now() - int(self._intent_timeout_s * 1000)
        return await self._sweeper.sweep_intents(before) + await self._sweeper.sweep_orphans(self._intent_timeout_s)

    async def maintain(self) -> None:
        """Housekeeping of the catalog that one process of a node does now and then."""
        await self._catalog.maintain()

    async def _moved(self, address: Address, locator: Locator) -> Locator:
        """Return where a file that was not at its location is now; ``NotFound`` if it was deleted."""
        current = await self._catalog.lookup(address)
        if current.place == locator.place:
            raise Damaged("the stored bytes are missing; uploading the file again heals it")
        return current


def _known_damaged() -> Damaged:
    return Damaged("the stored bytes are known to be damaged; uploading the file again heals them")
