"""A catalog made anew from the blobs holds every file that is whole, and what could be saved of the old one."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from stat7store.address import Address
from stat7store.catalog.tables import GARBAGE, GARBAGE_PLACES, RECORDS
from stat7store.cli import main
from stat7store.errors import NotFound, Unavailable
from stat7store.opening import check_catalog, hold_catalog, open_store, own, prepare
from stat7store.record import Entry
from stat7store.settings import Settings
from storage.linux import exchange
from tests.catalog.whole import assert_whole, raw
from tests.media import distinct_jpeg, sample

FILES = 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store with some photographs: tagged, and the last two neighbours of the first."""
    prepare(Settings(data=tmp_path / "store"))
    asyncio.run(fill(tmp_path / "store"))
    return tmp_path / "store"


async def fill(folder: Path) -> None:
    """Store some photographs."""
    async with open_store(Settings(data=folder)) as store:
        addresses = []
        for number in range(FILES):
            async with store.upload(f"{number}.jpg") as upload:
                await upload.write(photo(number))
                addresses.append((await upload.commit()).entry.address)
        await store.update(
            addresses[0],
            lambda record: msgspec.structs.replace(record, tags=("red",), adjacency=tuple(sorted(addresses[-2:]))),
        )


def photo(number: int) -> bytes:
    """One of the photographs."""
    return distinct_jpeg(sample("rocket.jpg").read_bytes(), number)


def blob_of(folder: Path, number: int) -> Path:
    """The file of a photograph's blob."""
    return next((folder / "blobs").glob(f"???/{Address.of(photo(number))}.*"))


def entries(folder: Path) -> dict[Address, Entry]:
    """All entries of a store, by address."""

    async def read() -> dict[Address, Entry]:
        async with open_store(Settings(data=folder)) as store:
            found = {}
            for number in range(FILES):
                address = Address.of(photo(number))
                try:
                    found[address] = await store.entry(address)
                except NotFound:
                    continue
            return found

    return asyncio.run(read())


def rebuild(folder: Path, *flags: str) -> int:
    """Run the command; return its exit code."""
    return main(["rebuild", f"--data={folder}", *flags])


def test_what_the_old_catalog_knew_is_kept(data: Path) -> None:
    """From a whole catalog every record is taken over, neighbours included, and the tables fit each other."""
    before = entries(data)
    assert rebuild(data) == 0
    after = entries(data)
    assert after.keys() == before.keys()
    for address, entry in after.items():
        expected = before[address]
        assert entry.locator.place == expected.locator.place
        assert entry.record.filename == expected.record.filename
        assert (entry.record.tags, entry.record.adjacency) == (expected.record.tags, expected.record.adjacency)
    assert (data / "catalog.old" / "data.mdb").exists()
    assert_whole(data / "catalog")


@pytest.mark.parametrize("flags", [["--no-salvage"], []])
def test_a_lost_catalog_is_made_from_the_bytes(data: Path, flags: list[str]) -> None:
    """Without an old catalog every file is there again, with type, size and realm."""
    before = entries(data)
    if not flags:
        shutil.rmtree(data / "catalog")
    assert rebuild(data, *flags) == 0
    after = entries(data)
    assert after.keys() == before.keys()
    for address, entry in after.items():
        assert entry.locator.size == before[address].locator.size
        assert entry.locator.media_type == "image/jpeg"
        assert (entry.record.realm, entry.record.filename) == ("image", "")
        assert abs(entry.record.stored_at - before[address].record.stored_at) < 60_000


def test_a_lost_catalog_is_not_taken_for_an_empty_store(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing opens blobs without a catalog: a sweeper would take them all for orphans, a backup for deleted."""
    moved = tmp_path / "moved"
    shutil.copytree(data / "blobs", moved / "blobs")
    (data / "catalog" / "data.mdb").write_bytes(b"")
    settings = Settings(data=data)
    for number in range(2):
        if number:
            shutil.rmtree(data / "catalog")
        with pytest.raises(Unavailable, match="stat7store rebuild"):
            asyncio.run(check_catalog(settings))
        for verb in (["verify"], ["backup", str(tmp_path / "backup")], ["import", str(tmp_path)]):
            assert main([*verb, f"--data={data}"]) == 1
            assert "stat7store rebuild" in capsys.readouterr().err
    prepare(Settings(data=moved))
    with pytest.raises(Unavailable, match="stat7store rebuild"):
        asyncio.run(check_catalog(Settings(data=moved)))
    assert rebuild(moved) == 0
    assert len(entries(moved)) == FILES
    asyncio.run(check_catalog(Settings(data=moved)))


def test_every_old_catalog_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a rebuild after the last, and wherever one is cut short at the end."""
    assert rebuild(data) == 0
    first = (data / "catalog.old" / "data.mdb").stat().st_ino

    def fail(*_: str) -> NoReturn:
        raise OSError(errno.EIO, "cut short")

    with monkeypatch.context() as broken:
        broken.setattr("stat7store.rebuilding.exchange", fail)
        assert rebuild(data) == 1
    second = (data / "catalog" / "data.mdb").stat().st_ino
    assert len(entries(data)) == FILES
    assert rebuild(data) == 0
    assert (data / "catalog.old" / "data.mdb").stat().st_ino == first
    assert second in {path.stat().st_ino for path in data.glob("catalog.old.*/data.mdb")}
    assert len(entries(data)) == FILES


def test_ctrl_c_at_the_end_says_what_happened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the catalogs trade places nothing is interrupted, and it is not told as if it were."""

    def interrupted(one: str, other: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        exchange(one, other)

    monkeypatch.setattr("stat7store.rebuilding.exchange", interrupted)
    assert rebuild(data) == 0
    assert (data / "catalog.old" / "data.mdb").exists()
    assert len(entries(data)) == FILES


def test_bad_blobs_are_left_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blobs that do not hash to their name are told, not listed, and not deleted."""
    bad = blob_of(data, 3)
    bad.write_bytes(bad.read_bytes()[:-1])
    assert rebuild(data, "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["bad"] == 1
    assert "hash to" in shown.err
    assert len(entries(data)) == FILES - 1
    assert bad.exists()


def test_deleted_files_stay_deleted(data: Path) -> None:
    """Blobs that the old catalog calls garbage do not come back as files."""

    async def delete() -> None:
        async with open_store(Settings(data=data)) as store:
            await store.delete(Address.of(photo(2)))

    asyncio.run(delete())
    assert blob_of(data, 2).exists()
    assert rebuild(data) == 0
    assert Address.of(photo(2)) not in entries(data)


def test_a_damaged_garbage_queue_stops_nothing(data: Path) -> None:
    """A row that cannot be read keeps neither a sweep from the others, nor a rebuild from what it salvages."""

    async def delete() -> None:
        async with open_store(Settings(data=data)) as store:
            for number in (1, 2, 3):
                await store.delete(Address.of(photo(number)))

    blobs = [blob_of(data, number) for number in (1, 2, 3)]
    asyncio.run(delete())
    for table, row in ((GARBAGE, 0), (GARBAGE_PLACES, 1)):
        with raw(data / "catalog", write=True) as behind:
            key, value = behind.rows(table)[row]
            cursor = behind.table(table)
            if table == GARBAGE:
                cursor.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
            else:
                assert cursor.set_key(key)
                cursor.delete()
                cursor.put(key[:-1] + bytes((key[-1] ^ 1,)), value)
    assert rebuild(data) == 0
    assert len(entries(data)) == FILES - 2  # the place that was altered is taken for no garbage
    shutil.rmtree(data / "catalog")
    (data / "catalog.old").rename(data / "catalog")

    async def sweep() -> int:
        async with open_store(Settings(data=data)) as store:
            return await store.sweep_garbage()

    assert asyncio.run(sweep()) == 2
    assert [path.exists() for path in blobs] == [True, False, False]


def test_a_damaged_record_costs_its_name_only(data: Path) -> None:
    """A file whose record rotted is there again, and served."""
    with raw(data / "catalog", write=True) as behind:
        key, value = behind.rows(RECORDS)[4]
        behind.table(RECORDS).put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    assert rebuild(data) == 0
    names = [entry.record.filename for entry in entries(data).values()]
    assert names.count("") == 1
    assert len(names) == FILES


def test_it_waits_for_nobody_who_changes_the_catalog(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an import or a migration changes meanwhile would be lost: it is refused, and they are during a rebuild."""

    async def meanwhile() -> int:
        async with open_store(Settings(data=data)):
            return await asyncio.to_thread(rebuild, data)

    assert asyncio.run(meanwhile()) == 1
    assert "another program uses the catalog" in capsys.readouterr().err
    held = hold_catalog(data, fcntl.LOCK_EX)
    assert main(["import", str(data / "blobs"), f"--data={data}"]) == 1
    assert "stat7store rebuild" in capsys.readouterr().err
    os.close(held)
    assert rebuild(data) == 0


def test_nothing_is_changed_while_a_server_runs(data: Path) -> None:
    """The folder of a running server is not touched."""
    held = own(data)
    assert held
    assert rebuild(data) == 1
    assert not (data / "catalog.new").exists()
