"""Many files at once into a store: all or none, each once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.bulk import Bulk, Incoming
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Malformed, NotAccepted, TooLarge, Unavailable
from stat7store.store import Store
from storage.base import BlobUnavailable
from storage.file_commit import FileCommit
from storage.filesystem import FilesystemBlobs
from storage.memory import MemoryBlobs


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store in files."""
    FilesystemBlobs.create(tmp_path / "blobs")
    blobs, catalog = FilesystemBlobs(tmp_path / "blobs"), LmdbCatalog(tmp_path / "catalog")
    yield Store(catalog, blobs, max_size=1000)
    await catalog.close()
    await blobs.close()


def incoming(bulk: Bulk, data: bytes) -> Incoming:
    """A spooled file."""
    spool = bulk.spool()
    spool.append(data)
    return Incoming(spool, Address.of(data), "image/png", f"{len(data)}.png", ("tag",))


def blobs_in(folder: Path) -> list[Path]:
    """All blobs."""
    return list((folder / "blobs").glob("???/*"))


async def test_equal_files_are_kept_once(store: Store, tmp_path: Path) -> None:
    """Of equal files only the first is new, within one call and over several; one blob is kept."""
    bulk = store.bulk()
    assert bulk.keep([incoming(bulk, data) for data in (b"a", b"bb", b"a")]) == [True, True, False]
    assert bulk.keep([incoming(bulk, data) for data in (b"bb", b"ccc")]) == [False, True]
    assert bulk.keep([]) == []
    assert len(blobs_in(tmp_path)) == 3
    assert (await store.counters()).garbage == 0
    entry = await store.entry(Address.of(b"bb"))
    assert (entry.record.filename, entry.record.tags, entry.locator.size) == ("2.png", ("tag",), 2)
    assert bulk.held([Address.of(b"a")])
    assert not bulk.held([Address.of(b"d")])


async def test_what_is_lost_is_healed(store: Store, tmp_path: Path) -> None:
    """An address whose blob is gone is not held, and is kept again at a new location."""
    bulk = store.bulk()
    bulk.keep([incoming(bulk, b"a")])
    blobs_in(tmp_path)[0].unlink()
    assert not bulk.held([Address.of(b"a")])
    assert bulk.keep([incoming(bulk, b"a")]) == [False]
    assert bulk.held([Address.of(b"a")])


async def test_a_failed_sync_keeps_none(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the bytes cannot be made durable, the catalog learns of none of them."""
    bulk = store.bulk()
    monkeypatch.setattr(FileCommit, "put", lambda self, batch: [BlobUnavailable("no") for _ in batch])
    with pytest.raises(Unavailable):
        bulk.keep([incoming(bulk, b"a"), incoming(bulk, b"b")])
    assert await store.present([Address.of(b"a"), Address.of(b"b")]) == set()


async def test_what_is_refused(store: Store) -> None:
    """Empty files, those too large and those of other types are refused by their beginning and size."""
    bulk = store.bulk()
    for head, size, kind in ((b"", 0, Malformed), (b"GIF89a", 1001, TooLarge), (b"text", 4, NotAccepted)):
        with pytest.raises(kind):
            bulk.judge(head, size)


async def test_a_store_that_takes_files_one_by_one(tmp_path: Path) -> None:
    """A backend without the capability is told of, rather than used some other way."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    with pytest.raises(Unavailable, match="one by one"):
        Store(catalog, MemoryBlobs()).bulk()
    await catalog.close()
