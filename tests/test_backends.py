"""A store over several backends, and over one whose uploads need intents: nothing acknowledged is swept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.backends import Backends
from stat7store.catalog.base import Added, Intent
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, NotFound, Unavailable
from stat7store.record import Place
from stat7store.store import Store
from stat7store.timing import StageClock
from storage.base import BlobStore, Location, Spool
from storage.memory import MemoryBlobs, MemorySpool
from tests.media import distinct_jpeg, sample
from tests.planned import PlannedBlobs

HOUR_MS = 3_600_000


class Rig:
    """One catalog, two backends (0 in memory, 1 planned), and stores over them."""

    def __init__(self, catalog: LmdbCatalog) -> None:
        self.catalog = catalog
        self.local = MemoryBlobs()
        self.remote = PlannedBlobs()
        self.now = 1_700_000_000_000

    def store(self, primary: int, **others: BlobStore) -> Store:
        """Return a store that puts new files on one of them."""
        backends = Backends({0: self.local, 1: others.get("remote", self.remote)}, primary)
        return Store(self.catalog, backends, now=lambda: self.now, intent_timeout_s=3600, owner="a node")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Everything empty."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    yield Rig(catalog)
    await catalog.close()


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A real photograph."""
    return sample("rocket.jpg").read_bytes()


async def put(store: Store, data: bytes) -> Added:
    """Upload some bytes."""
    async with store.upload("photo.jpg") as upload:
        await upload.write(data)
        return await upload.commit()


async def get(store: Store, address: Address) -> bytes:
    """Fetch all bytes of a file."""
    clock = StageClock()
    entry = await store.find(address, clock)
    reader = await store.open(address, entry.locator, None, clock)
    data = b""
    while chunk := await reader.read(65536):
        data += chunk
    return data


async def test_an_upload_leaves_no_intent(rig: Rig, photo: bytes) -> None:
    """An acknowledged upload used up its intent; its file is on the primary backend, and read from there."""
    store = rig.store(1)
    added = await put(store, photo)
    assert added.created
    assert added.entry.locator.backend == 1
    assert list(rig.remote.blobs) == [added.entry.locator.location]
    assert await rig.catalog.intents(1 << 60) == []
    assert await get(store, Address.of(photo)) == photo
    assert (store.backend, store.backend_of(added.entry.locator)) == ("planned", "planned")
    assert store.counts()["planned_puts"] == 1


class LooksFirst(PlannedBlobs):
    """Notes whether there was an intent for each place when its bytes came."""

    def __init__(self, catalog: LmdbCatalog, *, fails: bool = False) -> None:
        super().__init__()
        self._catalog = catalog
        self._fails = fails
        self.intents: list[Intent] = []

    async def put_at(self, spool: Spool, location: Location) -> None:
        found = await self._catalog.intents(1 << 60)
        assert [intent.place for intent in found] == [Place(location, 1)]
        self.intents += found
        await super().put_at(spool, location)
        if self._fails:
            self.down = True
            raise self._error()

    def _error(self) -> Exception:
        try:
            self._refuse_if_down()
        except Exception as error:
            return error
        raise AssertionError


async def test_the_intent_is_durable_before_the_bytes_leave(rig: Rig, photo: bytes) -> None:
    """When a planned backend is given the bytes, the catalog has the intent, with its time and owner."""
    remote = LooksFirst(rig.catalog)
    await put(rig.store(1, remote=remote), photo)
    (intent,) = remote.intents
    assert (intent.since, intent.owner) == (rig.now, "a node")


async def test_a_failed_upload_withdraws_its_intent(rig: Rig, photo: bytes) -> None:
    """An upload that failed with its outcome unknown leaves garbage at once, which goes when the backend is back."""
    remote = LooksFirst(rig.catalog, fails=True)
    store = rig.store(1, remote=remote)
    with pytest.raises(Unavailable):
        await put(store, photo)
    assert await rig.catalog.intents(1 << 60) == []
    with pytest.raises(Unavailable):
        await store.sweep_garbage()
    remote.down = False
    assert await store.sweep_garbage() == 1
    assert remote.blobs == {}


async def abandoned(rig: Rig, data: bytes, since: int) -> Place:
    """Do what an upload does that crashes right before its last step; return the place."""
    place = Place(rig.remote.plan(str(Address.of(data))), 1)
    await rig.catalog.intend(Intent(place, since))
    spool = MemorySpool()
    spool.append(data)
    await rig.remote.put_at(spool, place.location)
    return place


async def test_stale_intents_are_swept_and_the_young_spared(rig: Rig, photo: bytes) -> None:
    """What a crash left behind goes once its intent is stale; a younger one may be an upload that lives."""
    store = rig.store(0)  # whichever backend is the primary one
    await abandoned(rig, photo, rig.now - HOUR_MS - 1)
    young = await abandoned(rig, distinct_jpeg(photo, 1), rig.now - HOUR_MS)
    assert await store.sweep_orphans() == 1
    assert await store.sweep_garbage() == 1
    assert list(rig.remote.blobs) == [young.location]
    rig.now += 1
    assert await store.sweep_orphans() == 1
    assert await store.sweep_garbage() == 1
    assert rig.remote.blobs == {}


async def test_what_no_intent_and_no_entry_knows_is_an_orphan(rig: Rig, photo: bytes) -> None:
    """A blob that arrived after its intent was withdrawn and its place swept is found by listing."""
    store = rig.store(1)
    kept = (await put(store, photo)).entry.locator.location
    late = rig.remote.plan(str(Address.of(photo)))
    rig.remote.blobs[late] = photo
    rig.remote.unfinished = 2
    assert await store.sweep_orphans() == 3
    assert await store.sweep_garbage() == 1
    assert list(rig.remote.blobs) == [kept]


class Slow(PlannedBlobs):
    """Waits for leave before it keeps anything."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.leave = asyncio.Event(), asyncio.Event()

    async def put_at(self, spool: Spool, location: Location) -> None:
        self.asked.set()
        await self.leave.wait()
        await super().put_at(spool, location)


async def test_an_upload_that_was_taken_for_dead_is_not_acknowledged(rig: Rig, photo: bytes) -> None:
    """However wrong the clock: an upload whose intent was withdrawn fails, and the next one succeeds."""
    remote = Slow()
    store = rig.store(1, remote=remote)
    uploading = asyncio.create_task(put(store, photo))
    await remote.asked.wait()
    rig.now += 365 * 24 * HOUR_MS
    assert await store.sweep_orphans() == 1
    assert await store.sweep_garbage() == 1
    remote.leave.set()
    with pytest.raises(Unavailable, match="upload the file again"):
        await uploading
    with pytest.raises(NotFound):
        await store.entry(Address.of(photo))
    added = await put(store, photo)
    assert await store.sweep_orphans() == 1  # what came late
    await store.sweep_garbage()
    assert list(remote.blobs) == [added.entry.locator.location]


async def test_both_backends_are_read_and_swept(rig: Rig, photo: bytes) -> None:
    """Files stay where they were put when the primary backend changes; all are read, deleted and swept there."""
    other = distinct_jpeg(photo, 1)
    await put(rig.store(0), photo)
    store = rig.store(1)
    await put(store, other)
    assert not (await put(store, photo)).created
    assert (await get(store, Address.of(photo)), await get(store, Address.of(other))) == (photo, other)
    for data in (photo, other):
        await store.delete(Address.of(data))
    assert await store.sweep_garbage() == 2
    assert rig.remote.blobs == {}
    assert [location async for location in rig.local.list()] == []


async def test_healing_works_across_backends(rig: Rig, photo: bytes) -> None:
    """A file that is lost on one backend is healed by an upload to the other."""
    locator = (await put(rig.store(0), photo)).entry.locator
    await rig.local.delete(locator.location)
    store = rig.store(1)
    with pytest.raises(Damaged):
        await get(store, Address.of(photo))
    healed = await put(store, photo)
    assert (healed.created, healed.entry.locator.backend) == (False, 1)
    assert await get(store, Address.of(photo)) == photo
    assert await store.sweep_garbage() == 1  # the lost one's place


async def test_a_backend_that_is_down_holds_up_no_other(rig: Rig, photo: bytes) -> None:
    """Garbage and orphans of one backend are swept while another is out of reach, and the failure is told."""
    await put(rig.store(0), photo)
    store = rig.store(1)
    for number in range(300):  # more than are deleted at a time
        await rig.catalog.discard(Place(rig.remote.plan(str(Address.of(bytes([number % 256, number // 256])))), 1))
    await store.delete(Address.of(photo))
    rig.remote.down = True
    with pytest.raises(Unavailable, match="down"):
        await store.sweep_garbage()
    assert [location async for location in rig.local.list()] == []
    spool = await rig.local.spool()
    await rig.local.put(spool, "0" * 64)
    spool.close()
    with pytest.raises(Unavailable, match="down"):
        await store.sweep_orphans()
    assert (await store.counters()).garbage == 301


async def test_a_file_on_a_backend_that_nobody_knows_cannot_be_reached(rig: Rig, photo: bytes) -> None:
    """It is unavailable, not missing: the catalog knows it, and it may come back."""
    await put(rig.store(1), photo)
    store = Store(rig.catalog, rig.local)
    with pytest.raises(Unavailable, match="backend 1"):
        await get(store, Address.of(photo))


async def test_uploads_deletes_and_hasty_sweeps_race_safely(rig: Rig, photo: bytes, soak: bool) -> None:
    """With a sweeper that takes every intent for stale, an upload that returns is there unless it was deleted;
    in the end no blob is left over or missing.
    """
    store = rig.store(1)
    files = [distinct_jpeg(photo, number) for number in range(3)]
    chance = random.Random(7)
    rounds = 2000 if soak else 100
    refused = 0

    async def uploads() -> None:
        nonlocal refused
        for _ in range(rounds):
            try:
                await put(store, chance.choice(files))
            except Unavailable:
                refused += 1

    async def deletes() -> None:
        for _ in range(rounds):
            try:
                await store.delete(Address.of(chance.choice(files)))
            except NotFound:
                await asyncio.sleep(0)

    async def reads() -> None:
        for _ in range(rounds):
            data = chance.choice(files)
            try:
                assert await get(store, Address.of(data)) == data
            except NotFound:
                await asyncio.sleep(0)

    async def sweeps() -> None:
        for _ in range(rounds // 3):
            rig.now += 2 * HOUR_MS
            await store.sweep_orphans()
            await store.sweep_garbage()

    await asyncio.gather(uploads(), uploads(), uploads(), deletes(), reads(), sweeps())
    assert refused < 3 * rounds
    for data in files:
        await put(store, data)
    await store.sweep_orphans()
    await store.sweep_garbage()
    assert {location.name for location in rig.remote.blobs} == {str(Address.of(data)) for data in files}
    assert len(rig.remote.blobs) == 3
    assert await rig.catalog.intents(1 << 60) == []
