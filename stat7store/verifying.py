"""Scrubbing: every stored byte is read again and compared with its address, and what differs is marked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from stat7store.address import Address, Hasher
from stat7store.backends import Backends
from stat7store.catalog.base import Catalog, Surveyed
from stat7store.errors import NotFound, Stat7Error, Unavailable, first_of
from stat7store.pacing import Pace
from stat7store.record import Locator, Place
from stat7store.sweeper import Sweeper
from stat7store.translate import blob_errors
from storage.base import BlobDamaged, BlobMissing, BlobStore, BlobUnreadable, Claimable, Forgetful

BLOCK_BYTES = 1024**2
_PAGE = 64  # entries at a time: what is done again if the scrub is interrupted

Kind = Literal["bad", "missing", "unreadable", "record", "orphan", "sound"]


class Finding(NamedTuple):
    """Something that is not as it should be, or not as it was thought to be.

    ``bad``: the bytes are not those that were stored, or the disk cannot read them. ``missing``:
    there are none. Both are marked, so that they are never served and the next upload of the file
    heals them. ``unreadable``: the bytes could not be read now; nothing is concluded. ``record``: the
    catalog's own entry cannot be read. ``orphan``: bytes that belong to nothing; the janitor sweeps
    them. ``sound``: a file that was marked is whole again, and is served again.
    """

    kind: Kind
    name: str
    reason: str


class Tally(msgspec.Struct, kw_only=True):
    """How far a scrub is; sizes in bytes. ``reached``: all addresses up to this one were seen.

    ``skipped`` counts files that a sample left out, ``known`` those of the bad and missing ones that
    were marked before, ``sound`` those that were marked and are whole. ``finished_at`` is in
    milliseconds since 1970; None while it is not at its end.
    """

    reached: str | None = None
    files: int = 0
    bytes: int = 0
    skipped: int = 0
    bad: int = 0
    missing: int = 0
    known: int = 0
    sound: int = 0
    unreadable: int = 0
    records: int = 0
    orphans: int = 0
    seconds: float = 0.0
    finished_at: int | None = None

    @property
    def damaged(self) -> int:
        """Files that are not served: bad, missing, or without a record."""
        return self.bad + self.missing + self.records


def load_tally(path: Path) -> Tally | None:
    """Return how far the last scrub came; None if there was none. Raises ``Unavailable``."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tally)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{path} cannot be read ({error}); delete it to begin anew") from error


def save_tally(path: Path, tally: Tally) -> None:
    """Write down how far a scrub is; what is lost of it in a power cut is only read again."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(tally))
    new.rename(path)


class Verifier:
    """One scrub of a store, while it is in use or not. Made by ``Store.verifier``."""

    def __init__(
        self,
        catalog: Catalog,
        backends: Backends,
        tally: Tally,
        tell: Callable[[Finding], None],
        *,
        bytes_per_s: float,
        jobs: int,
    ) -> None:
        """``tally`` is where it goes on and what it counts in; ``bytes_per_s`` may be infinite."""
        self._catalog = catalog
        self._backends = backends
        self._tally = tally
        self._tell = tell
        self._pace = Pace(bytes_per_s)
        self._jobs = asyncio.Semaphore(jobs)

    async def run(self, sample: float = 1.0, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Read all files, or a random ``sample`` (0 to 1) of them, then look for orphans.

        ``checkpoint`` is called whenever the tally says where to go on. Raises ``Unavailable`` if
        the catalog cannot be read; cancel it to stop.
        """
        tally, chance = self._tally, random.Random()  # noqa: S311
        begun, before = time.monotonic(), tally.seconds
        try:
            while page := await self._catalog.survey(_PAGE, _address(tally.reached)):
                chosen = [row for row in page if chance.random() < sample]
                tally.skipped += len(page) - len(chosen)
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for row in chosen:
                            await self._jobs.acquire()
                            tasks.create_task(self._verify(row)).add_done_callback(lambda _: self._jobs.release())
                except BaseExceptionGroup as failures:
                    first = first_of(failures)
                    raise first from first.__cause__
                tally.reached = str(page[-1].address)
                tally.seconds = before + time.monotonic() - begun
                checkpoint()
            if sample >= 1.0:
                await self._find_orphans()
            tally.finished_at = time.time_ns() // 1_000_000
        finally:
            tally.seconds = before + time.monotonic() - begun

    async def _verify(self, row: Surveyed) -> None:
        if row.entry is None:
            if await self._still_there(row.address):
                self._tally.records += 1
                self._tell(Finding("record", str(row.address), row.problem))
            return
        locator = row.entry.locator
        try:
            problem = await self._problem(row.address, locator)
        except Stat7Error as error:
            self._tally.unreadable += 1
            self._tell(Finding("unreadable", str(row.address), str(error)))
            return
        self._tally.files += 1
        if problem is None:
            await self._is_sound(row.address, locator)
        elif await self._is_at(row.address, locator.place):
            kind, reason = problem
            self._tally.known += locator.damaged
            setattr(self._tally, kind, getattr(self._tally, kind) + 1)
            # protection: mark-damaged
            await self._catalog.mark_damaged(row.address, locator.place)
            self._tell(Finding(kind, str(row.address), reason))

    async def _is_sound(self, address: Address, locator: Locator) -> None:
        if locator.damaged and await self._catalog.mark_sound(address, locator.place):
            self._tally.sound += 1
            self._tell(Finding("sound", str(address), "the stored bytes are right again; the file is served again"))

    async def _problem(self, address: Address, locator: Locator) -> tuple[Literal["bad", "missing"], str] | None:
        blobs = await self._backends.behind(locator.backend)
        with blob_errors():
            try:
                if isinstance(blobs, Forgetful):
                    # protection: scrub-past-page-cache
                    await blobs.forget(locator.location)
                found, size = await self._read(blobs, locator)
            except BlobMissing:
                return "missing", "there are no bytes where they should be"
            except BlobDamaged as error:
                return "bad", str(error)
            except BlobUnreadable as error:
                # protection: failing-disk-marks-nothing
                await blobs.check()  # raises if the disk fails as a whole: that says nothing of this file
                return "bad", f"the disk cannot read it: {error}"
        if size != locator.size:
            return "bad", f"{size} bytes are stored instead of {locator.size}"
        if found != address:
            return "bad", f"the stored bytes hash to {found}"
        return None

    async def _read(self, blobs: BlobStore, locator: Locator) -> tuple[Address, int]:
        hasher = Hasher()
        reader = await blobs.open(locator.location)
        try:
            while data := await reader.read(BLOCK_BYTES):
                await asyncio.to_thread(hasher.update, data)
                self._tally.bytes += len(data)
                await self._pace.spend(len(data))
        finally:
            reader.close()
        return hasher.address(), hasher.size

    async def _still_there(self, address: Address) -> bool:
        return bool(await self._catalog.present([address]))

    async def _is_at(self, address: Address, place: Place) -> bool:
        """Tell whether the entry still points there: it may have been deleted, healed or moved since."""
        try:
            return (await self._catalog.lookup(address)).place == place
        except NotFound:
            return False

    async def _find_orphans(self) -> None:
        sweeper = Sweeper(self._catalog, self._backends)
        for number in self._backends.numbers():
            blobs = await self._backends.of(number)
            with blob_errors():
                async for places in sweeper.unreferenced(blobs, number):
                    if places:
                        await self._tell_orphans(blobs, places)

    async def _tell_orphans(self, blobs: BlobStore, places: Collection[Place]) -> None:
        spoken_for = await self._catalog.garbage_among(places)
        spoken_for |= {intent.place for intent in await self._catalog.intents(1 << 62)}
        for place in places:
            if place not in spoken_for and _is_unclaimed(blobs, place) and not await self._is_at_any(place):
                self._tally.orphans += 1
                self._tell(Finding("orphan", str(place.location), "nothing points at these bytes"))

    async def _is_at_any(self, place: Place) -> bool:
        return await self._is_at(Address.parse(place.location.name), place)  # it may have been added just now


def _is_unclaimed(blobs: BlobStore, place: Place) -> bool:
    if not isinstance(blobs, Claimable):
        return True
    with blobs.claim(place.location) as claimed:
        return claimed


def _address(text: str | None) -> Address | None:
    return None if text is None else Address.parse(text)
