"""The store without HTTP: what is put is found, heals, is deleted for good, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.catalog.base import Added
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, DigestMismatch, Malformed, NotAccepted, NotFound, TooLarge, Unavailable
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.upload import BLOCK_BYTES
from storage.base import BlobStore, BlobUnavailable, BlobUnreadable, Buffer, Location
from storage.file_spool import FileSpool
from storage.filesystem import FilesystemBlobs
from storage.memory import MemoryBlobs
from tests.holder import holder
from tests.media import distinct_jpeg, sample


class Opened:
    """A store and its parts."""

    def __init__(self, catalog: LmdbCatalog, blobs: BlobStore, root: Path) -> None:
        self.catalog = catalog
        self.blobs = blobs
        self.root = root
        self.store = Store(catalog, blobs, now=lambda: 1_700_000_000_000)

    async def put(self, data: bytes, expected: Address | None = None) -> Added:
        """Upload some bytes."""
        async with self.store.upload("photo.jpg", expected) as upload:
            for start in range(0, len(data), 50_000):
                await upload.write(data[start : start + 50_000])
            return await upload.commit()

    async def get(self, address: Address) -> bytes:
        """Fetch all bytes of a file."""
        clock = StageClock()
        entry = await self.store.find(address, clock)
        reader = await self.store.open(address, entry.locator, None, clock)
        try:
            data = b""
            while chunk := await reader.read(65536):
                data += chunk
            return data
        finally:
            reader.close()

    async def locations(self) -> list[Location]:
        """All blobs there are."""
        return [location async for location in self.blobs.list()]


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A real photograph."""
    return sample("rocket.jpg").read_bytes()


@pytest.fixture(scope="module")
def blob_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root for blobs, made once: its 4096 folders take a moment."""
    root = tmp_path_factory.mktemp("store") / "blobs"
    FilesystemBlobs.create(root)
    return root


@pytest.fixture(params=["filesystem", "memory"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path, blob_root: Path) -> AsyncIterator[Opened]:
    """A store over each backend, empty."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    blobs: BlobStore = FilesystemBlobs(blob_root) if request.param == "filesystem" else MemoryBlobs()
    opened = Opened(catalog, blobs, blob_root)
    yield opened
    for location in await opened.locations():
        await blobs.delete(location)
    await blobs.close()
    await catalog.close()


async def test_what_is_put_is_found(opened: Opened, photo: bytes) -> None:
    """An upload's bytes are found under their SHA-256, with the record of an original."""
    added = await opened.put(photo)
    assert added.created
    assert added.entry.address == Address.of(photo)
    assert (added.entry.locator.size, added.entry.locator.media_type) == (len(photo), "image/jpeg")
    record = added.entry.record
    assert (record.realm, record.lineage, record.horizon, record.filename) == ("image", 1, "genesis", "photo.jpg")
    assert record.stored_at == 1_700_000_000_000
    assert await opened.get(Address.of(photo)) == photo


async def test_nothing_is_kept_of_an_upload_without_commit(opened: Opened, photo: bytes) -> None:
    """An upload that is left, by a return or by an error, leaves neither entry nor blob."""
    async with opened.store.upload() as upload:
        await upload.write(photo)
    with pytest.raises(ZeroDivisionError):
        async with opened.store.upload() as upload:
            await upload.write(photo)
            _ = 1 / 0
    assert await opened.locations() == []
    assert (await opened.store.counters()).files == 0


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", Malformed), (b"Dear Anna,\nhere they are.\n" * 400, NotAccepted), (b"Dear Anna\n", NotAccepted)],
)
async def test_bad_files_are_refused(opened: Opened, data: bytes, error: type[Exception]) -> None:
    """An empty file and one of another kind are refused; nothing is kept."""
    with pytest.raises(error):
        await opened.put(data)
    assert await opened.locations() == []


async def test_a_wrong_digest_is_refused(opened: Opened, photo: bytes) -> None:
    """Bytes with another address than declared are refused; nothing is kept."""
    with pytest.raises(DigestMismatch):
        await opened.put(photo, expected=Address.of(b"other"))
    assert await opened.locations() == []
    assert (await opened.put(photo, expected=Address.of(photo))).created


async def test_the_largest_size_is_allowed_and_no_more(opened: Opened, photo: bytes) -> None:
    """A file of exactly the limit is stored; one byte less of limit refuses it while it streams."""
    for limit, allowed in ((len(photo), True), (len(photo) - 1, False)):
        opened.store = Store(opened.catalog, opened.blobs, max_size=limit)
        if allowed:
            await opened.put(photo)
        else:
            with pytest.raises(TooLarge):
                await opened.put(photo)


async def test_a_missing_blob_is_an_alarm_and_heals(opened: Opened, photo: bytes) -> None:
    """A blob that vanished behind the store's back is Damaged, never NotFound; uploading again heals it."""
    added = await opened.put(photo)
    await opened.blobs.delete(added.entry.locator.location)
    with pytest.raises(Damaged, match="missing"):
        await opened.get(Address.of(photo))
    healed = await opened.put(photo)
    assert not healed.created
    assert healed.entry.record == added.entry.record
    assert await opened.get(Address.of(photo)) == photo
    assert len(await opened.locations()) == 1


@pytest.mark.parametrize("opened", ["filesystem"], indirect=True)
async def test_a_cut_blob_is_damaged_and_heals(opened: Opened, photo: bytes) -> None:
    """A blob of the wrong size is never served; uploading again heals it, and the bad blob is swept."""
    added = await opened.put(photo)
    os.truncate(opened.root / str(added.entry.locator.location), 1000)
    with pytest.raises(Damaged, match="1000 bytes"):
        await opened.get(Address.of(photo))
    assert not (await opened.put(photo)).created
    assert await opened.get(Address.of(photo)) == photo
    assert await opened.store.sweep_garbage() == 1
    assert len(await opened.locations()) == 1


async def test_a_marked_entry_is_not_served_and_heals(opened: Opened, photo: bytes) -> None:
    """What is marked as damaged is refused, and the next upload of the same bytes takes its place."""
    added = await opened.put(photo)
    await opened.catalog.mark_damaged(Address.of(photo), added.entry.locator.place)
    with pytest.raises(Damaged):
        await opened.get(Address.of(photo))
    healed = await opened.put(photo)
    assert healed.entry.locator.location != added.entry.locator.location
    assert await opened.get(Address.of(photo)) == photo


async def test_what_the_disk_cannot_even_open_heals(
    opened: Opened, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload takes the place of a blob whose inode cannot be read; any other failure says nothing of it."""
    first = (await opened.put(photo)).entry.locator

    async def fail(location: Location) -> int:
        raise BlobUnreadable("Structure needs cleaning") if broken else BlobUnavailable("Too many open files")

    monkeypatch.setattr(opened.store._backends.blobs, "stat", fail)
    broken = False
    with pytest.raises(Unavailable):
        await opened.put(photo)
    broken = True
    assert (await opened.put(photo)).entry.locator.location != first.location
    assert await opened.get(Address.of(photo)) == photo


async def test_a_delete_is_final(opened: Opened, photo: bytes) -> None:
    """A deleted file is gone for every later read, its blob is swept, and it may come again under a new location."""
    first = await opened.put(photo)
    await opened.store.delete(Address.of(photo))
    with pytest.raises(NotFound):
        await opened.get(Address.of(photo))
    with pytest.raises(NotFound):
        await opened.store.delete(Address.of(photo))
    second = await opened.put(photo)
    assert second.created
    assert second.entry.locator.location != first.entry.locator.location
    assert await opened.store.sweep_garbage() == 1
    assert await opened.locations() == [second.entry.locator.location]
    assert await opened.get(Address.of(photo)) == photo


async def test_a_delete_of_nothing_waits_for_no_writer(opened: Opened, photo: bytes, tmp_path: Path) -> None:
    """That there is no such file is said while someone else holds the write lock."""
    with holder(tmp_path / "catalog"):
        async with asyncio.timeout(10):
            with pytest.raises(NotFound):
                await opened.store.delete(Address.of(photo))


async def test_a_reader_outlives_a_delete(opened: Opened, photo: bytes) -> None:
    """A download that has begun goes on to its end, though the file is deleted and swept meanwhile."""
    entry = (await opened.put(photo)).entry
    reader = await opened.store.open(entry.address, entry.locator, None, StageClock())
    head = await reader.read(1000)
    await opened.store.delete(entry.address)
    await opened.store.sweep_garbage()
    while chunk := await reader.read(65536):
        head += chunk
    reader.close()
    assert head == photo


async def test_a_file_that_moved_is_followed(opened: Opened, photo: bytes) -> None:
    """A reader whose locator is out of date finds the new location; of a deleted file it says NotFound."""
    old = (await opened.put(photo)).entry
    await opened.store.delete(old.address)
    await opened.store.sweep_garbage()
    with pytest.raises(NotFound):
        await opened.store.open(old.address, old.locator, None, StageClock())
    await opened.put(photo)
    reader = await opened.store.open(old.address, old.locator, None, StageClock())
    assert reader.size == len(photo)
    reader.close()


async def test_orphans_are_swept_and_the_living_spared(opened: Opened, photo: bytes) -> None:
    """A blob without an entry is swept unless its upload is still alive; a referenced blob never is."""
    kept = (await opened.put(photo)).entry.locator.location
    orphan = distinct_jpeg(photo, 1)
    spool = await opened.blobs.spool()
    spool.append(orphan)
    location = await opened.blobs.put(spool, str(Address.of(orphan)))
    assert await opened.store.sweep_orphans() == 0
    spool.close()
    assert await opened.store.sweep_orphans() == 1
    assert await opened.store.sweep_garbage() == 1
    assert await opened.locations() == [kept]
    assert location != kept


async def test_an_index_that_cannot_be_read_costs_no_blob(opened: Opened, photo: bytes) -> None:
    """A blob whose index entry is damaged is no orphan, and does not end the sweep: it may be all that is left."""
    address = (await opened.put(photo)).entry.address
    with opened.catalog._environment.begin(opened.catalog._index, write=True) as transaction:
        value = bytearray(transaction.get(address) or b"")
        value[0] ^= 1
        transaction.put(address, bytes(value))
    with pytest.raises(Damaged):
        await opened.get(address)
    assert await opened.store.sweep_orphans() == 0
    assert len(await opened.locations()) == 1


def test_a_loop_that_ends_closes_no_spool_under_its_thread(
    tmp_path: Path, blob_root: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that ends cancels what it has under way; all the same a spool is closed after its last append."""
    append = FileSpool.append
    begun = threading.Event()
    done: list[bool] = []

    def slowly(spool: FileSpool, data: Buffer) -> None:
        begun.set()
        time.sleep(0.3)  # in which the loop ends
        append(spool, data)  # fails if the spool is closed
        done.append(True)

    monkeypatch.setattr(FileSpool, "append", slowly)
    catalog, blobs = LmdbCatalog(tmp_path / "catalog"), FilesystemBlobs(blob_root)

    async def upload() -> None:
        async with Store(catalog, blobs).upload("photo.jpg") as upload:
            await upload.write(photo * (BLOCK_BYTES // len(photo) + 1))
            await asyncio.sleep(600)

    async def main() -> None:
        uploading = asyncio.create_task(upload())
        while not begun.is_set():
            assert not uploading.done()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert done == [True]
    asyncio.run(blobs.close())
    asyncio.run(catalog.close())


async def test_equal_uploads_at_once_are_stored_once(opened: Opened, photo: bytes) -> None:
    """Of many uploads of the same bytes at once exactly one creates the entry, and one blob stays."""
    results = await asyncio.gather(*(opened.put(photo) for _ in range(50)))
    assert sum(added.created for added in results) == 1
    assert len({added.entry.locator.location for added in results}) == 1
    await opened.store.sweep_garbage()
    assert len(await opened.locations()) == 1
    assert await opened.get(Address.of(photo)) == photo


async def test_uploads_deletes_and_sweeps_race_safely(opened: Opened, photo: bytes, soak: bool) -> None:
    """Uploads, deletes, reads and sweeps of the same three files at once: an upload's bytes are there when it
    returns unless a delete came after, nothing wrong is read, and in the end no blob is left over or missing.
    """
    files = [distinct_jpeg(photo, number) for number in range(3)]
    chance = random.Random(11)
    rounds = 3000 if soak else 150

    async def uploads() -> None:
        for _ in range(rounds):
            await opened.put(chance.choice(files))

    async def deletes() -> None:
        for _ in range(rounds):
            try:
                await opened.store.delete(Address.of(chance.choice(files)))
            except NotFound:
                await asyncio.sleep(0)

    async def reads() -> None:
        for _ in range(rounds):
            data = chance.choice(files)
            try:
                assert await opened.get(Address.of(data)) == data
            except NotFound:
                await asyncio.sleep(0)

    async def sweeps() -> None:
        for _ in range(rounds // 15):
            await opened.store.sweep_garbage()
            await opened.store.sweep_orphans()

    await asyncio.gather(uploads(), uploads(), uploads(), deletes(), reads(), sweeps())
    for data in files:
        await opened.put(data)
    await opened.store.sweep_orphans()
    await opened.store.sweep_garbage()
    assert {location.name for location in await opened.locations()} == {str(Address.of(data)) for data in files}
    assert len(await opened.locations()) == 3
    for data in files:
        assert await opened.get(Address.of(data)) == data
    counters = await opened.store.counters()
    assert (counters.files, counters.bytes, counters.garbage) == (3, sum(map(len, files)), 0)
