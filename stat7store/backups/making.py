"""Making a backup of a store while it serves: the catalog's snapshot first taken, then its blobs copied, then named.

The order is the whole point. What the note names is complete and durable before the note is; what it
does not name any more is removed after it. Blobs are known by their address, so what was copied once
is never copied again, whatever became of the run that did it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from stat7store.address import Address, Hasher
from stat7store.backends import Backends
from stat7store.backups.copying import BLOCK_BYTES, PAGE, Copier, Copies, Held
from stat7store.backups.depot import Depot, Note, opened_for_writing
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, NotFound, Stat7Error, Unavailable, first_of
from stat7store.folder import SPOOLS, Site, read_facts
from stat7store.opening import opened, uncached
from stat7store.pacing import Pace, to_the_end
from stat7store.record import Locator
from stat7store.settings import Settings
from stat7store.store import unix_ms
from stat7store.translate import blob_errors
from storage.base import Location, Unfinished

_CATALOG_FILE = "data.mdb"
_MOST_MOVES = 3
_STALE_S = 86_400.0

Tell = Callable[[Address, Stat7Error], None]


async def back_up(
    settings: Settings, where: Path | Site, copies: Copies, tell: Tell, *, jobs: int, bytes_per_s: float
) -> Note:
    """Bring the backup at ``where`` up to date with the store in ``settings.data``, and return its note.

    ``tell`` is called for each file that cannot be read as it was stored: unless the backup has it
    from before, it is not in it. Nothing is removed if entries of the catalog cannot be read.
    Any number of processes may use the store. Killed or cancelled at any point, the backup is what it
    was, and the next run goes on. Raises ``Unavailable`` or ``NoSpace``.
    """
    begun = time.monotonic()
    store = read_facts(settings.data).store
    with _work_folder(settings.data, where) as work:
        try:
            async with (
                opened_for_writing(where, settings, work / SPOOLS, store) as depot,
                opened(uncached(settings)) as (live, source),
                _snapshot(live, work) as snapshot,
            ):
                backup = _Backup(live, source, snapshot, depot, copies, tell, jobs, Pace(bytes_per_s))
                await backup.run(work / _CATALOG_FILE)
                return depot.note
        finally:
            copies.seconds = time.monotonic() - begun


class _Backup:
    def __init__(
        self,
        live: LmdbCatalog,
        source: Backends,
        snapshot: LmdbCatalog,
        depot: Depot,
        copies: Copies,
        tell: Tell,
        jobs: int,
        pace: Pace,
    ) -> None:
        self._live = live
        self._source = source
        self._snapshot = snapshot
        self._depot = depot
        self._copies = copies
        self._tell = tell
        self._jobs = asyncio.Semaphore(jobs)
        self._copier = Copier(depot.blobs, copies, pace)
        self._lost: list[Address] = []
        self._unreadable = False
        self._purged = False

    async def run(self, file: Path) -> None:
        at = unix_ms()
        await self._count()
        await self._copy_all()
        await asyncio.to_thread(self._drop_lost)
        totals = await self._snapshot.counters()
        location = await self._keep(file)
        store = self._depot.note.store
        await self._depot.change(Note(store, str(location), totals.files, totals.bytes, at))  # from here on it counts
        if not self._purged:  # what the catalog lost may be there from before, and be wanted again
            await self._remove_unnamed(location)

    async def _count(self) -> None:
        try:
            totals = await self._snapshot.counters()
        except Damaged:
            await asyncio.to_thread(self._purge)
            totals = await self._snapshot.counters()
        self._copies.files, self._copies.bytes = totals.files, totals.bytes

    async def _copy_all(self) -> None:
        held, after = Held(self._depot.blobs), None
        while page := await self._snapshot.survey(PAGE, after):
            there = await held.among([row.address for row in page])
            try:
                async with asyncio.TaskGroup() as tasks:
                    for row in page:
                        if row.entry is None:
                            self._unreadable = True
                        elif row.address in there:
                            self._copies.held += 1
                            self._copies.held_bytes += row.entry.locator.size
                        else:
                            await self._jobs.acquire()
                            task = tasks.create_task(self._copy(row.address, row.entry.locator))
                            task.add_done_callback(lambda _: self._jobs.release())
            except BaseExceptionGroup as failures:
                first = first_of(failures)
                raise first from first.__cause__
            after = page[-1].address

    async def _copy(self, address: Address, locator: Locator) -> None:
        try:
            await self._follow(address, locator)
        except NotFound:
            self._copies.gone += 1
            self._lost.append(address)
        except Damaged as error:
            self._copies.failed += 1
            self._lost.append(address)
            self._tell(address, error)
        else:
            self._copies.copied += 1
            self._copies.copied_bytes += locator.size

    async def _follow(self, address: Address, locator: Locator) -> None:
        """Copy a file from wherever it is by now. Raises ``NotFound`` if it was deleted meanwhile."""
        for _ in range(_MOST_MOVES):
            try:
                if locator.damaged:
                    raise Damaged("the stored bytes are known to be damaged; uploading the file again heals them")
                blobs = await self._source.behind(locator.backend)
                await self._copier.copy(blobs, locator.location, address, locator.size)
            except NotFound as error:  # the blob; what of the file?
                problem = Damaged(f"{error}; uploading the file again heals it")
            except Damaged as error:
                problem = error
            else:
                return
            current = await self._live.lookup(address)
            if current.place == locator.place:
                raise problem
            locator = current
        raise Unavailable("the stored bytes kept moving while they were copied")

    def _drop_lost(self) -> None:
        """Take out of the snapshot what is not in the backup, so that what is restored from it is whole."""
        if self._unreadable:
            self._purge()
        if self._lost:
            self._snapshot.settle({}, self._lost)

    def _purge(self) -> None:
        self._purged = True
        for address in self._snapshot.purge():
            self._copies.failed += 1
            self._tell(address, Damaged("its entry in the catalog cannot be read; stat7store rebuild makes it anew"))

    async def _keep(self, file: Path) -> Location:
        """Put the snapshot among the blobs."""
        with blob_errors():
            spool = await self._depot.blobs.spool()
            try:
                hasher = Hasher()

                def absorb(data: bytes) -> None:
                    hasher.update(data)
                    spool.append(data)

                with file.open("rb") as written:
                    while data := written.read(BLOCK_BYTES):
                        await to_the_end(absorb, data)
                return await self._depot.blobs.put(spool, str(hasher.address()))
            finally:
                spool.close()

    async def _remove_unnamed(self, snapshot: Location) -> None:
        blobs = self._depot.blobs
        with blob_errors():
            async for some in _batches(blobs.list()):
                named = await self._snapshot.present([Address.parse(location.name) for location in some])
                seen = set[str]()
                unnamed = []
                for location in some:
                    twice = location.name in seen
                    seen.add(location.name)
                    if location != snapshot and (twice or Address.parse(location.name) not in named):
                        unnamed.append(location)
                await asyncio.gather(*map(blobs.delete, unnamed))
                self._copies.removed += len(unnamed)
            if isinstance(blobs, Unfinished):
                await blobs.abort_unfinished(_STALE_S)


async def _batches(locations: AsyncIterator[Location]) -> AsyncIterator[list[Location]]:
    """Yield locations some at a time, all of one name together."""
    some: list[Location] = []
    async for location in locations:
        if len(some) >= PAGE and some[-1].name != location.name:
            yield some
            some = []
        some.append(location)
    yield some


@asynccontextmanager
async def _snapshot(live: LmdbCatalog, work: Path) -> AsyncIterator[LmdbCatalog]:
    await asyncio.to_thread(live.copy, work)
    snapshot = await asyncio.to_thread(LmdbCatalog, work)
    try:
        yield snapshot
    finally:
        await snapshot.close()


@contextmanager
def _work_folder(data: Path, where: Path | Site) -> Iterator[Path]:
    """Yield a new folder beside the store's catalog, for this one backup; one run at a time may have it.

    Raises ``Unavailable`` while another run has it.
    """
    named = str(where.resolve() if isinstance(where, Path) else where)
    work = data / f"backup-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Unavailable(f"{work} cannot be made: {error}") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(held).st_nlink == 0:
                raise BlockingIOError  # whoever had it has just removed it
        except BlockingIOError as error:
            raise Unavailable(f"another backup to {where} is under way") from error
        try:
            for left in work.iterdir():  # by a run that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(held)
