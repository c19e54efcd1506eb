"""Making a new store of a backup: every blob compared with its address on the way, the catalog last."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stat7store.address import Address, Hasher
from stat7store.backups.copying import BLOCK_BYTES, PAGE, Copier, Copies, Held, Unreadable
from stat7store.backups.depot import Depot, Note, opened_for_reading
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, NotFound, Stat7Error, Unavailable, first_of
from stat7store.folder import BLOBS, CATALOG, FILESYSTEM, RESTORING, SPOOLS, Site, begin_restore, finish_restore
from stat7store.opening import opened_blobs
from stat7store.pacing import Pace
from stat7store.record import Locator, Place
from stat7store.settings import Settings
from stat7store.translate import blob_errors
from storage.base import BlobDamaged, BlobMissing, BlobStore, Location, Ownable

_CATALOG_FILE = "data.mdb"

Tell = Callable[[Address, Stat7Error], None]


async def restore(
    settings: Settings, where: Path | Site, to: Site, copies: Copies, tell: Tell, *, jobs: int, bytes_per_s: float
) -> Note:
    """Make a store in ``settings.data``, a new or empty folder, of the backup at ``where``; return what that said.

    Its blobs go to the one site ``to``. Records, their numbers and revisions stay as they were. The store
    gets a name of its own: the old store may still be there, and two of one name would take each other's
    buckets for their own. ``tell`` is called for each file that the backup has lost: it is not in the store.
    Killed or cancelled at any point, there is no store yet, and the next run goes on.
    Raises ``NotFound`` if there is no backup, ``Damaged`` if its snapshot is, ``Unavailable`` or ``NoSpace``.
    """
    begun = time.monotonic()
    try:
        # nothing is spooled for what is only read; and where there is no backup, no folder of a store is begun
        with TemporaryDirectory(prefix="stat7-") as spools:
            return await _restore(settings, where, to, Path(spools), copies, tell, jobs, bytes_per_s)
    finally:
        copies.seconds = time.monotonic() - begun


async def _restore(
    settings: Settings,
    where: Path | Site,
    to: Site,
    spools: Path,
    copies: Copies,
    tell: Tell,
    jobs: int,
    bytes_per_s: float,
) -> Note:
    data = settings.data
    work = data / RESTORING
    async with opened_for_reading(where, settings, spools) as depot:
        facts = begin_restore(data, to, network_filesystem=settings.network_filesystem)
        with _held(work):
            await _fetch_snapshot(depot, work / CATALOG)
            async with opened_blobs(data / BLOBS if to.url == FILESYSTEM else to, settings, data / SPOOLS) as target:
                if isinstance(target, Ownable):
                    with blob_errors():
                        await target.own(facts.store)
                async with _catalog(work / CATALOG) as catalog:
                    pace = Pace(bytes_per_s)
                    await _Restore(depot.blobs, target, catalog, copies, tell, jobs, pace).run()
            await asyncio.to_thread(finish_restore, data)
        return depot.note


class _Restore:
    def __init__(
        self,
        source: BlobStore,
        target: BlobStore,
        catalog: LmdbCatalog,
        copies: Copies,
        tell: Tell,
        jobs: int,
        pace: Pace,
    ) -> None:
        self._source = source
        self._target = target
        self._catalog = catalog
        self._copies = copies
        self._tell = tell
        self._jobs = asyncio.Semaphore(jobs)
        self._copier = Copier(target, copies, pace)

    async def run(self) -> None:
        totals = await self._catalog.counters()
        self._copies.files, self._copies.bytes = totals.files, totals.bytes
        kept, there, after = Held(self._source), Held(self._target), None
        while page := await self._catalog.survey(PAGE, after):
            addresses = [row.address for row in page]
            sources, found = await kept.among(addresses), await there.among(addresses)
            places: dict[Address, Place] = {}
            lost: list[Address] = []
            try:
                async with asyncio.TaskGroup() as tasks:
                    for row in page:
                        if row.entry is None:
                            raise Damaged(f"the catalog in the backup cannot be read: {row.problem}")
                        locator = row.entry.locator
                        if row.address in found:  # by a run before this one
                            self._copies.held += 1
                            self._copies.held_bytes += locator.size
                            places[row.address] = Place(found[row.address])
                            continue
                        await self._jobs.acquire()
                        copying = self._copy(sources.get(row.address), row.address, locator, places, lost)
                        tasks.create_task(copying).add_done_callback(lambda _: self._jobs.release())
            except BaseExceptionGroup as failures:
                first = first_of(failures)
                raise first from first.__cause__
            await asyncio.to_thread(self._catalog.settle, places, lost)
            after = page[-1].address
        await asyncio.to_thread(self._catalog.forget_queues)

    async def _copy(
        self,
        location: Location | None,
        address: Address,
        locator: Locator,
        places: dict[Address, Place],
        lost: list[Address],
    ) -> None:
        try:
            if location is None:
                raise NotFound("the backup has lost the bytes")
            places[address] = Place(await self._copier.copy(self._source, location, address, locator.size))
        except Unreadable as error:  # the backup has the file: the restore goes on when it is run again
            raise Unavailable(str(error)) from error
        except (NotFound, Damaged) as error:
            self._copies.failed += 1
            lost.append(address)
            self._tell(address, error)
        else:
            self._copies.copied += 1
            self._copies.copied_bytes += locator.size


async def _fetch_snapshot(depot: Depot, folder: Path) -> None:
    """Write the backup's snapshot to a new folder, compared with its address."""
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    hasher, location = Hasher(), depot.note.location
    try:
        with blob_errors():
            reader = await depot.blobs.open(location)
            try:
                with (folder / _CATALOG_FILE).open("xb") as file:
                    while data := await reader.read(BLOCK_BYTES):
                        hasher.update(data)
                        file.write(data)
                    file.flush()
                    await asyncio.to_thread(os.fsync, file.fileno())
            finally:
                reader.close()
    except (NotFound, Damaged) as error:
        if isinstance(error.__cause__, BlobMissing | BlobDamaged):
            raise Damaged(f"the catalog in the backup cannot be read: {error.__cause__}") from error
        raise
    if str(hasher.address()) != location.name:
        raise Damaged("the catalog in the backup was altered: make the backup again")


@asynccontextmanager
async def _catalog(folder: Path) -> AsyncIterator[LmdbCatalog]:
    catalog = await asyncio.to_thread(LmdbCatalog, folder)
    try:
        yield catalog
    finally:
        await catalog.close()


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """Keep other restores out of the folder. Raises ``Unavailable`` while one is in it."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"another restore into {work.parent} is under way") from error
        yield
    finally:
        os.close(folder)
