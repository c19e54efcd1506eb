"""Bytes of the embedded catalog that are altered behind its back are noticed, and never served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from stat7store.catalog import late
from stat7store.catalog.base import Intent, Query
from stat7store.catalog.indexes import INDEXES
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.tables import GARBAGE, INDEX, INTENTS, LATE, MEDIA_TYPES, META, RECORDS, STATE_KEY
from stat7store.errors import Damaged, Unavailable
from tests.catalog.making import address_of, listed, new_file, new_place, read_entry
from tests.catalog.whole import assert_whole, raw

Use = Callable[[LmdbCatalog], Awaitable[object]]
Result = TypeVar("Result")


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A closed catalog: four files, linked and tagged, two pieces of garbage, and two intents."""
    catalog = LmdbCatalog(tmp_path)
    for number in range(4):
        await catalog.add(new_file(number, tags=("red", f"tag {number}"), media_type=f"image/{number}"))
    await catalog.add(new_file(4, adjacency=(address_of(1), address_of(2))))
    await catalog.remove(address_of(0))
    await catalog.intend(Intent(new_place(address_of(5), 1), 1_000_000, "a node"))
    await catalog.add(new_file(6))
    await catalog.remove(address_of(6))
    await catalog.intend(Intent(new_place(address_of(7), 1), 2_000_000, "a node"))
    await catalog.close()
    return tmp_path


def alter(folder: Path, table: str, row: int, byte: int) -> None:
    """Turn over one bit of one value, as a failing disk would."""
    with raw(folder, write=True) as behind:
        key, value = behind.rows(table)[row]
        altered = bytearray(value)
        altered[byte] ^= 0x10
        assert behind.table(table).put(key, bytes(altered))


async def read(catalog: LmdbCatalog) -> object:
    """Read all that is known of each file."""
    return [await read_entry(catalog, address_of(number)) for number in range(1, 5)]


async def total(catalog: LmdbCatalog) -> object:
    """Read the totals, for which the number of the next record stands as well."""
    return await catalog.counters()


@pytest.mark.parametrize("byte", [0, 8, 16, 18, 19, 20, 35, 36, 39])
@pytest.mark.parametrize("use", [read, listed])
async def test_an_altered_locator_is_damage(folder: Path, use: Use, byte: int) -> None:
    """A locator with one bit wrong is neither looked up nor listed."""
    alter(folder, INDEX, 1, byte)
    await damaged(folder, use)


@pytest.mark.parametrize("byte", [0, 7, 8, 9, 20, 50, -1])
@pytest.mark.parametrize("use", [read, listed])
async def test_an_altered_record_is_damage(folder: Path, use: Use, byte: int) -> None:
    """A record with one bit wrong is neither read nor listed."""
    alter(folder, RECORDS, 2, byte)
    await damaged(folder, use)


async def test_swapped_records_are_damage(folder: Path) -> None:
    """Two whole records that changed places are not each other's."""
    with raw(folder, write=True) as behind:
        (first, one), (second, other), *_ = behind.rows(RECORDS)
        behind.table(RECORDS).put(first, other)
        behind.table(RECORDS).put(second, one)
    await damaged(folder, read)
    await damaged(folder, listed)


async def test_swapped_locators_are_damage(folder: Path) -> None:
    """Two whole locators that changed places are not each other's."""
    with raw(folder, write=True) as behind:
        (first, one), (second, other), *_ = behind.rows(INDEX)
        behind.table(INDEX).put(first, other)
        behind.table(INDEX).put(second, one)
    await damaged(folder, read)


@pytest.mark.parametrize("byte", [0, 8, -1])
async def test_an_altered_media_type_is_damage(folder: Path, byte: int) -> None:
    """A file is never served under a media type that was altered."""
    alter(folder, MEDIA_TYPES, 2, byte)
    await damaged(folder, read)


@pytest.mark.parametrize("byte", [0, 8, 12, 40, -1])
async def test_altered_garbage_is_passed_over(folder: Path, byte: int) -> None:
    """No other blob than the one that was queued is ever named for deletion; those queued whole are."""
    whole = await read_whole(folder, lambda catalog: catalog.garbage(10))
    alter(folder, GARBAGE, 0, byte)
    assert await read_whole(folder, lambda catalog: catalog.garbage(10)) == whole[1:]


@pytest.mark.parametrize("byte", [0, 8, 10, -1])
async def test_an_altered_intent_is_passed_over(folder: Path, byte: int) -> None:
    """An intent whose age was altered is not taken for a stale one, and keeps no other from being one."""
    whole = await read_whole(folder, lambda catalog: catalog.intents(1 << 62))
    alter(folder, INTENTS, 0, byte)
    left = await read_whole(folder, lambda catalog: catalog.intents(1 << 62))
    assert len(left) == len(whole) - 1
    assert all(intent in whole for intent in left)


@pytest.mark.parametrize("byte", [0, 8, 9, 10, -1])
async def test_altered_totals_are_damage_that_can_be_mended(folder: Path, byte: int) -> None:
    """Altered totals are not told, and no number is given away by them; a rebuild counts anew."""
    catalog = LmdbCatalog(folder)
    expected = await catalog.counters()
    await catalog.close()
    with raw(folder) as behind:
        row = [key for key, _ in behind.rows(META)].index(STATE_KEY)
    alter(folder, META, row, byte)
    await damaged(folder, total)
    await damaged(folder, lambda catalog: catalog.add(new_file(9)))
    catalog = LmdbCatalog(folder)
    with pytest.raises(Unavailable):
        await catalog.check()
    catalog.rebuild_indexes()
    assert await catalog.counters() == expected
    assert (await catalog.add(new_file(9))).created
    await catalog.close()
    assert_whole(folder)


async def test_a_missing_record_is_damage_to_a_query(folder: Path) -> None:
    """An index that names a record that is not there is not passed over in silence."""
    with raw(folder, write=True) as behind:
        (key, _), *_ = behind.rows(RECORDS)
        behind.transaction.delete(key, db=behind.database(RECORDS))
    await damaged(folder, listed)


async def test_indexes_can_be_rebuilt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was lost or invented in the secondary indexes, a rebuild restores from the records."""
    monkeypatch.setattr(late, "MOST_LATE", 0)
    catalog = LmdbCatalog(folder)
    catalog.rebuild_indexes()
    expected = [await listed(catalog, query) for query in QUERIES]
    await catalog.close()
    with raw(folder, write=True) as behind:
        for place, index in enumerate(INDEXES):
            rows = behind.rows(index.table)
            behind.transaction.drop(behind.database(index.table), delete=False)
            if place % 2:
                key, value = rows[0]
                behind.table(index.table).put(key, bytes(reversed(value)))
    catalog = LmdbCatalog(folder)
    catalog.rebuild_indexes()
    assert [await listed(catalog, query) for query in QUERIES] == expected
    await catalog.close()
    assert_whole(folder)


@pytest.mark.parametrize("byte", [0, 8, -1])
async def test_a_damaged_late_row_harms_nobody(folder: Path, byte: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the indexes is known from the record as well: it is found, and goes into the indexes."""
    alter(folder, LATE, 0, byte)
    catalog = LmdbCatalog(folder)
    assert len(await listed(catalog, Query(tag="tag 1"))) == 1
    monkeypatch.setattr(late, "MOST_LATE", 0)
    await catalog.add(new_file(8))
    assert len(await listed(catalog)) == 5
    await catalog.close()
    assert_whole(folder)


async def test_a_record_and_a_late_row_that_are_both_damaged_stop_no_add(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding goes on, and so do the rows of the other files into the indexes."""
    for table in (LATE, RECORDS):
        alter(folder, table, 0, -1)
    monkeypatch.setattr(late, "MOST_LATE", 0)
    catalog = LmdbCatalog(folder)
    await catalog.add(new_file(8, tags=("tag 8",)))
    for tag in ("tag 2", "tag 8"):
        assert len(await listed(catalog, Query(tag=tag))) == 1
    await catalog.close()


async def test_a_rebuild_from_damage_changes_nothing(folder: Path) -> None:
    """A rebuild that meets a damaged record is refused as a whole."""
    alter(folder, RECORDS, 2, -1)
    catalog = LmdbCatalog(folder)
    with pytest.raises(Damaged):
        catalog.rebuild_indexes()
    assert len(await listed(catalog, Query(tag="tag 1"))) == 1
    await catalog.close()


QUERIES = [Query(), Query(sort="size"), Query(tag="red"), Query(adjacency=address_of(1)), Query(media_type="image/*")]


async def read_whole(folder: Path, use: Callable[[LmdbCatalog], Awaitable[Result]]) -> Result:
    """Return what this use of the catalog gives, which meets no damage."""
    catalog = LmdbCatalog(folder)
    try:
        return await use(catalog)
    finally:
        await catalog.close()


async def damaged(folder: Path, use: Use) -> None:
    """Check that this use of the catalog meets damage."""
    catalog = LmdbCatalog(folder)
    with pytest.raises(Damaged):
        await use(catalog)
    await catalog.close()
