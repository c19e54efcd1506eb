"""Small files are kept many at a time, with the promises of a file that is kept alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.catalog.base import Added, NewFile
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import NoSpace, Stat7Error, Unavailable
from stat7store.small import SMALL_BYTES, SmallFiles
from stat7store.store import Store
from stat7store.timing import StageClock
from storage.base import BlobNoSpace, BlobUnavailable, Location, Spool
from storage.filesystem import FilesystemBlobs


class WatchedBlobs(FilesystemBlobs):
    """A backend in files that counts, and can be told to fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.spooled_alone = 0
        self.batches: list[int] = []
        self.full_at = -1
        self.broken = False

    async def spool(self) -> Spool:
        self.spooled_alone += 1
        return await super().spool()

    def spool_now(self) -> Spool:
        self.full_at -= 1
        if self.full_at == 0:
            raise BlobNoSpace("no room for one more")
        return super().spool_now()

    def put_all(self, blobs: Sequence[tuple[Spool, str]]) -> list[Location]:
        if self.broken:
            raise BlobUnavailable("the disk is gone")
        self.batches.append(len(blobs))
        return super().put_all(blobs)


class WatchedCatalog(LmdbCatalog):
    """A catalog that notes which blobs could be taken for orphans while it commits them."""

    blobs: FilesystemBlobs
    unclaimed: list[Location]

    def add_each(self, files: Sequence[NewFile]) -> list[Added | Stat7Error]:
        for file in files:
            assert self.blobs.holds(file.location, file.size), "the bytes must be there before the catalog knows"
            with self.blobs.claim(file.location) as claimed:
                if claimed:
                    self.unclaimed.append(file.location)
        return super().add_each(files)


class Opened:
    """A store that takes small files together, and its parts."""

    def __init__(self, catalog: Path, blobs: Path) -> None:
        self.blobs = WatchedBlobs(blobs)
        self.catalog = WatchedCatalog(catalog)
        self.catalog.blobs, self.catalog.unclaimed = self.blobs, []
        self.small = SmallFiles(self.catalog, self.blobs, 0)
        self.store = Store(self.catalog, self.blobs, small=self.small)

    async def put(self, data: bytes) -> Added:
        """Upload some bytes."""
        async with self.store.upload("small.jpg") as upload:
            for start in range(0, len(data), 50_000):
                await upload.write(data[start : start + 50_000])
            return await upload.commit()

    async def get(self, address: Address) -> bytes:
        """Fetch all bytes of a file."""
        entry = await self.store.entry(address)
        reader = await self.store.open(address, entry.locator, None, StageClock())
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


@pytest.fixture(scope="module")
def blob_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root for blobs, made once: its 4096 folders take a moment."""
    root = tmp_path_factory.mktemp("small") / "blobs"
    FilesystemBlobs.create(root)
    return root


@pytest.fixture
async def opened(tmp_path: Path, blob_root: Path) -> AsyncIterator[Opened]:
    """A store over files, empty."""
    opened = Opened(tmp_path / "catalog", blob_root)
    yield opened
    await opened.small.close()
    await asyncio.gather(*map(opened.blobs.delete, await opened.locations()))
    await opened.blobs.close()
    await opened.catalog.close()


def photo(number: int, size: int = 1000) -> bytes:
    """Bytes that begin as a JPEG does."""
    return b"\xff\xd8\xff\xe0" + number.to_bytes(8, "big") + bytes(size - 12)


async def test_those_that_wait_share_a_sync_and_a_commit(opened: Opened) -> None:
    """Many small files at once are all found, whole, after fewer syncs than files and without a spool each."""
    files = [photo(number) for number in range(64)]
    added = await asyncio.gather(*map(opened.put, files))
    assert all(each.created for each in added)
    assert [each.entry.address for each in added] == [Address.of(data) for data in files]
    assert [await opened.get(Address.of(data)) for data in files] == files
    assert sum(opened.blobs.batches) == 64
    assert len(opened.blobs.batches) < 32
    assert opened.blobs.spooled_alone == 0


async def test_what_was_put_is_claimed_until_it_is_known(opened: Opened) -> None:
    """No sweep may take a blob between its put and its commit; afterwards nothing holds it."""
    added = await asyncio.gather(*(opened.put(photo(number)) for number in range(20)))
    assert opened.catalog.unclaimed == []
    with opened.blobs.claim(added[0].entry.locator.location) as claimed:
        assert claimed


@pytest.mark.parametrize(("size", "alone"), [(SMALL_BYTES, 0), (SMALL_BYTES + 1, 1)])
async def test_larger_files_are_spooled(opened: Opened, size: int, alone: int) -> None:
    """Up to 64 KiB stay in memory until they are kept; one byte more goes to a spool as it comes."""
    data = photo(1, size)
    await opened.put(data)
    assert opened.blobs.spooled_alone == alone
    assert await opened.get(Address.of(data)) == data


async def test_a_file_that_is_finished_first_waits_on_disk(opened: Opened) -> None:
    """The files of a form are finished before any is committed: they wait in spools, not in memory."""
    async with opened.store.upload() as upload:
        await upload.write(photo(1))
        assert await upload.finish() == Address.of(photo(1))
        assert opened.blobs.spooled_alone == 1
        assert (await upload.commit()).created
    assert await opened.get(Address.of(photo(1))) == photo(1)


async def test_equal_files_at_once_are_stored_once(opened: Opened) -> None:
    """Of many small uploads of the same bytes at once exactly one creates the entry, and one blob stays."""
    added = await asyncio.gather(*(opened.put(photo(1)) for _ in range(50)))
    assert sum(each.created for each in added) == 1
    await opened.store.sweep_garbage()
    assert len(await opened.locations()) == 1
    assert await opened.get(Address.of(photo(1))) == photo(1)


async def test_one_that_finds_no_room_fails_alone(opened: Opened) -> None:
    """If one file of a batch cannot be written, its uploader is told so, and the others are kept."""
    opened.blobs.full_at = 10
    outcomes = await asyncio.gather(*(opened.put(photo(number)) for number in range(30)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(NoSpace) == 1
    assert [type(outcome) for outcome in outcomes].count(Added) == 29
    assert len(await opened.locations()) == 29


async def test_a_batch_that_is_not_durable_is_refused(opened: Opened) -> None:
    """If the bytes cannot be made durable nothing is added, and the same files are taken once they can."""
    opened.blobs.broken = True
    outcomes = await asyncio.gather(*(opened.put(photo(number)) for number in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10
    assert (await opened.store.counters()).files == 0
    opened.blobs.broken = False
    assert all(each.created for each in await asyncio.gather(*(opened.put(photo(number)) for number in range(10))))


async def test_lost_bytes_are_healed(opened: Opened) -> None:
    """A small upload of bytes whose blob is gone puts them at a new location, and they are served again."""
    first = await opened.put(photo(1))
    await opened.blobs.delete(first.entry.locator.location)
    second = await opened.put(photo(1))
    assert not second.created
    assert second.entry.locator.location != first.entry.locator.location
    assert await opened.get(Address.of(photo(1))) == photo(1)
