"""A new catalog from the blobs, for when the old one is lost or cannot be trusted."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain, count
from pathlib import Path

import msgspec

from stat7store.address import Address, Hasher
from stat7store.catalog.base import NewFile
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import NotFound, Stat7Error, Unavailable, first_of
from stat7store.folder import CATALOG, has_catalog, read_facts, sync_folder
from stat7store.media.sniff import HEAD_BYTES, realm_of, sniff
from stat7store.opening import hold_catalog, open_backends, own
from stat7store.record import Entry, FileRecord, Place
from stat7store.settings import Settings
from stat7store.store import unix_ms
from stat7store.translate import blob_errors
from storage.base import BlobDamaged, BlobMissing, BlobStore, BlobUnreadable, LocalFile, Location
from storage.linux import exchange

OLD_CATALOG = "catalog.old"
_NEW_CATALOG = "catalog.new"
_BLOCK_BYTES = 1024**2
_BATCH = 1000


class Tally(msgspec.Struct, kw_only=True):
    """How far a rebuild is; sizes in bytes.

    ``salvaged`` files kept the record they had in the old catalog; of the others only what the bytes
    tell is known. ``bad`` blobs do not hash to their name: they stay where they are, unlisted.
    """

    files: int = 0
    bytes: int = 0
    salvaged: int = 0
    bad: int = 0
    seconds: float = 0.0


async def rebuild(
    settings: Settings, tally: Tally, tell: Callable[[str], None], *, jobs: int, salvage: bool
) -> Path | None:
    """Read all blobs of a store and make its catalog anew; return where the old one is kept, if it was there.

    With ``salvage`` what can still be read of the old catalog is taken over: records, and which blobs
    are garbage. Without it the old catalog is not even opened: LMDB cannot survive every damage.
    ``tell`` is called with a line for each blob that is bad. Until the very end nothing of the store
    is changed, and then both catalogs trade places at once, which is not interrupted. Raises
    ``Unavailable`` while a server runs on the store.
    """
    data = settings.data
    read_facts(data)
    held = own(data)
    try:
        alone = hold_catalog(data, fcntl.LOCK_EX)  # an import adds to it, a migration changes it
    except Unavailable:
        os.close(held)
        raise
    try:
        begun = time.monotonic()
        await asyncio.to_thread(shutil.rmtree, data / _NEW_CATALOG, ignore_errors=True)
        new = LmdbCatalog(data / _NEW_CATALOG)
        try:
            old = _opened(data / CATALOG) if salvage else None
            try:
                await _Rebuilding(new, old, tally, tell, jobs).run(settings)
            finally:
                if old is not None:
                    await old.close()
        finally:
            await new.close()
            tally.seconds = time.monotonic() - begun
        placing = asyncio.create_task(asyncio.to_thread(_put_in_place, data))
        while not placing.done():  # who interrupts from here on is told what has happened
            with suppress(asyncio.CancelledError):
                await asyncio.wait([placing])
        return placing.result()
    finally:
        os.close(alone)
        os.close(held)


class _Rebuilding:
    def __init__(
        self, new: LmdbCatalog, old: LmdbCatalog | None, tally: Tally, tell: Callable[[str], None], jobs: int
    ) -> None:
        self._new = new
        self._old = old
        self._tally = tally
        self._tell = tell
        self._jobs = asyncio.Semaphore(jobs)
        self._found: list[NewFile] = []
        self._linked: dict[Address, tuple[bytes, ...]] = {}

    async def run(self, settings: Settings) -> None:
        async with open_backends(settings) as backends:
            for number in backends.numbers():
                blobs = await backends.behind(number)
                try:
                    async with asyncio.TaskGroup() as tasks:
                        with blob_errors():
                            async for location in blobs.list():
                                if await self._is_garbage(Place(location, number)):
                                    continue
                                await self._jobs.acquire()
                                task = tasks.create_task(self._take(blobs, Place(location, number)))
                                task.add_done_callback(lambda _: self._jobs.release())
                except BaseExceptionGroup as failures:
                    first = first_of(failures)
                    raise first from first.__cause__
        await self._add()
        await self._link()

    async def _is_garbage(self, place: Place) -> bool:
        return self._old is not None and bool(await self._old.garbage_among([place]))

    async def _take(self, blobs: BlobStore, place: Place) -> None:
        try:
            with blob_errors():
                address, size, head, modified = await self._read(blobs, place.location)
        except Stat7Error as error:
            if isinstance(error, Unavailable):
                raise
            self._refuse(place, str(error))
            return
        if str(address) != place.location.name:
            self._refuse(place, f"the stored bytes hash to {address}")
            return
        entry = await self._salvaged(address)
        media_type = sniff(head) if entry is None else entry.locator.media_type
        if entry is None:
            record = FileRecord(address=address, stored_at=modified, filename="", realm=realm_of(media_type))
        else:
            record = entry.record
            self._tally.salvaged += 1
            if record.adjacency:
                self._linked[address] = record.adjacency
        self._found.append(NewFile(record, size, media_type, place.location, place.backend))
        if len(self._found) >= _BATCH:
            await self._add()

    async def _read(self, blobs: BlobStore, location: Location) -> tuple[Address, int, bytes, int]:
        """Return the address, the size, the first bytes, and when they were stored."""
        hasher, head, modified = Hasher(), b"", unix_ms()
        reader = await blobs.open(location)
        try:
            if isinstance(reader, LocalFile):
                modified = os.fstat(reader.fileno()).st_mtime_ns // 1_000_000
            while block := await reader.read(_BLOCK_BYTES):
                head = head or block[:HEAD_BYTES]
                await asyncio.to_thread(hasher.update, block)
                self._tally.bytes += len(block)
        except (BlobMissing, BlobDamaged) as error:
            raise NotFound(str(error)) from error
        except BlobUnreadable as error:
            await blobs.check()  # raises if the disk fails as a whole
            raise NotFound(f"the disk cannot read it: {error}") from error
        finally:
            reader.close()
        return hasher.address(), hasher.size, head, modified

    async def _salvaged(self, address: Address) -> Entry | None:
        if self._old is None:
            return None
        try:
            locator = await self._old.lookup(address)
            return Entry(locator, await self._old.record(address, locator))
        except Stat7Error:  # lost, or not to be trusted
            return None

    async def _add(self) -> None:
        files, self._found = sorted(self._found, key=lambda file: file.record.address), []
        added = await asyncio.to_thread(self._new.add_many, files)
        self._tally.files += sum(each.created for each in added)

    async def _link(self) -> None:
        """Name the neighbours again: those that came later were not known when a file was added."""
        for address, adjacency in self._linked.items():
            present = await self._new.present([Address(other) for other in adjacency])
            there = tuple(other for other in adjacency if other in present)
            await self._new.update(address, partial(_linked_to, there))

    def _refuse(self, place: Place, reason: str) -> None:
        self._tally.bad += 1
        self._tell(f"{place.location}: {reason}")


def _linked_to(adjacency: tuple[bytes, ...], record: FileRecord) -> FileRecord:
    return msgspec.structs.replace(record, adjacency=adjacency)


def _opened(path: Path) -> LmdbCatalog | None:
    if not (path / "data.mdb").exists():
        return None
    try:
        return LmdbCatalog(path)
    except Unavailable:
        return None


def _put_in_place(data: Path) -> Path | None:
    kept = has_catalog(data)
    # protection: keep-every-old-catalog
    old = _unused(data / OLD_CATALOG)
    sync_folder(data / _NEW_CATALOG)
    # Under the name that the old one is to have: wherever this is cut short, both are there, and the next
    # rebuild, which begins by removing a half-made one, removes neither.
    (data / _NEW_CATALOG).rename(old)
    exchange(str(old), str(data / CATALOG))  # at no moment is there none
    if not kept:
        shutil.rmtree(old)
    sync_folder(data)
    return old if kept else None


def _unused(path: Path) -> Path:
    """Return the path, or the first of path.2, path.3 and so on that is free: only the user removes old catalogs."""
    names = chain([path], (path.with_name(f"{path.name}.{number}") for number in count(2)))
    return next(name for name in names if not name.exists())
