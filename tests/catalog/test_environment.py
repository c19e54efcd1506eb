"""What can be wrong with the folder, the disk and the map of an embedded catalog."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Never

import lmdb
import pytest

from stat7store.address import Address
from stat7store.catalog.base import Added, NewFile, Query
from stat7store.catalog.late import MOST_LATE
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.tables import LATE, META
from stat7store.errors import Malformed, NotFound, Unavailable
from stat7store.record import Entry
from tests.catalog.making import address_of, listed, new_file, read_entry
from tests.catalog.whole import assert_whole, raw

ROOT = Path(__file__).parent.parent.parent


def test_another_format_is_refused(tmp_path: Path) -> None:
    """A catalog of another format is not opened, and the message names both formats."""
    asyncio.run(LmdbCatalog(tmp_path).close())
    with raw(tmp_path, write=True) as behind:
        behind.table(META).put(b"format", b"4")
    with pytest.raises(Unavailable, match="format 4; this version reads format 3"):
        LmdbCatalog(tmp_path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    """A folder whose data is no LMDB file is refused with its name, and left alone."""
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(Unavailable, match=str(tmp_path)):
        LmdbCatalog(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == b"something else" * 1000


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A path below a file cannot hold a catalog."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot be opened"):
        LmdbCatalog(tmp_path / "file" / "catalog")


async def test_a_closed_catalog_is_unavailable(tmp_path: Path) -> None:
    """Reads after the end say Unavailable, and check does."""
    catalog = LmdbCatalog(tmp_path)
    await catalog.close()
    with pytest.raises(Unavailable):
        await catalog.lookup(address_of(1))
    with pytest.raises(Unavailable):
        await catalog.check()


async def test_reads_meet_moves_of_the_map(tmp_path: Path) -> None:
    """While another thread moves the map without pause, every lookup succeeds; what is told at once is right."""
    catalog = LmdbCatalog(tmp_path)
    files = [new_file(number) for number in range(10)]
    catalog.add_many(files)
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            catalog._follow()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(500):
            for file in files:
                address = file.record.address
                entry = await read_entry(catalog, Address(address))
                found = catalog.find_now(address)
                assert entry.record == file.record
                assert found is None or found[0] == entry
    finally:
        stop.set()
        mover.join()
        sys.setswitchinterval(interval)
    await catalog.close()


CHANGE = """
import asyncio, sys
from pathlib import Path
import msgspec
from stat7store.catalog.lmdb import LmdbCatalog
from tests.catalog.making import address_of, new_file

async def main(folder, verb):
    catalog = LmdbCatalog(Path(folder))
    if verb == "add":
        await catalog.add(new_file(2))
    elif verb == "update":
        await catalog.update(address_of(1), lambda record: msgspec.structs.replace(record, tags=("new",)))
    else:
        await catalog.remove(address_of(1))
    await catalog.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_another_process_changes_shows_at_once(tmp_path: Path) -> None:
    """An entry that is known is looked up again once any process has changed anything."""
    catalog = LmdbCatalog(tmp_path)
    file = new_file(1)
    address = file.record.address
    await catalog.add(file)
    entry = await read_entry(catalog, Address(address))

    def after(verb: str) -> Entry | None:
        subprocess.run([sys.executable, "-c", CHANGE, str(tmp_path), verb], cwd=ROOT, check=True)
        for _ in range(2):  # the second time it is known
            found = catalog.find_now(address)
        return None if found is None else found[0]

    assert after("add") == entry
    changed = after("update")
    assert changed is not None
    assert changed.record.tags == ("new",)
    assert after("remove") is None
    await catalog.close()


async def test_what_is_refused_at_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that LMDB refuses without the lock takes the lock; so does the record's."""
    catalog = LmdbCatalog(tmp_path)
    file = new_file(1)
    catalog.add_many([file])
    monkeypatch.setattr(catalog, "_begin", _refuses)
    assert (await read_entry(catalog, Address(file.record.address))).record == file.record
    assert catalog.find_now(file.record.address) is None
    with pytest.raises(NotFound):
        await catalog.lookup(address_of(2))
    await catalog.close()


def _refuses(*_: object) -> Never:
    raise lmdb.Error("mdb_txn_begin: Invalid argument")


async def test_many_are_added_together(tmp_path: Path) -> None:
    """A batch is one transaction, like as many single adds; it makes the map grow as it needs."""
    catalog = LmdbCatalog(tmp_path, map_size=1 << 18)
    files = [new_file(number, tags=(f"tag {number % 7}",) * 2) for number in range(3000)]
    added = catalog.add_many([*files, new_file(5)])
    assert [each.created for each in added] == [True] * 3000 + [False]
    assert [each.entry.record for each in added[:3000]] == [file.record for file in files]
    assert len(await listed(catalog, Query(tag="tag 3"))) == len(range(3, 3000, 7))
    assert (await catalog.counters()).files == 3000
    await catalog.close()
    assert_whole(tmp_path)


async def test_each_of_a_batch_fares_by_itself(tmp_path: Path) -> None:
    """Files added each for itself share a transaction, yet one that is refused keeps no other out."""
    catalog = LmdbCatalog(tmp_path)
    misplaced = NewFile(new_file(7).record, 1, "image/png", new_file(8).location)
    files = [new_file(1), misplaced, new_file(2, velocity=float("nan")), new_file(3), new_file(1)]
    outcomes = catalog.add_each(files)
    assert [outcome.created if isinstance(outcome, Added) else type(outcome) for outcome in outcomes] == [
        True,
        ValueError,
        Malformed,
        True,
        False,
    ]
    assert (await catalog.counters()).files == 2
    assert catalog.add_each([]) == []
    await catalog.close()
    assert_whole(tmp_path)


async def test_of_a_refused_batch_nothing_is_added(tmp_path: Path) -> None:
    """If one file of a batch is refused, none is added, and its error is raised."""
    catalog = LmdbCatalog(tmp_path)
    wrong = new_file(7)
    wrong = NewFile(wrong.record, 1, "image/png", new_file(8).location)
    with pytest.raises(ValueError, match="not a location"):
        catalog.add_many([new_file(1), wrong])
    with pytest.raises(Malformed):
        catalog.add_many([new_file(1), new_file(2, velocity=float("nan")), new_file(3)])
    assert (await catalog.counters()).files == 0
    assert (await catalog.add(new_file(1))).entry.locator.media_type == "image/png"
    await catalog.close()
    assert_whole(tmp_path)


async def test_one_call_looks_at_so_many_entries_only(tmp_path: Path) -> None:
    """However long the search, one page scans no more than the limit, and the next goes on from there."""
    catalog = LmdbCatalog(tmp_path, scan_limit=10)
    catalog.add_many([new_file(number, filename="odd" if number == 33 else "even") for number in range(35)])
    scanned: list[int] = []
    found, cursor = 0, None
    while not scanned or cursor is not None:
        page = await catalog.query(Query(name="odd", descending=False), 5, cursor)
        cursor = page.cursor
        scanned.append(page.scanned)
        found += len(page.entries)
    assert scanned == [10, 10, 10, 5]
    assert found == 1
    await catalog.close()


async def test_so_many_rows_wait_at_most(tmp_path: Path) -> None:
    """Whether files come one by one or many at a time, few wait for the secondary indexes."""
    waiting = []
    for begin, count in ((0, MOST_LATE), (MOST_LATE, 1), (MOST_LATE + 1, 2 * MOST_LATE)):
        catalog = LmdbCatalog(tmp_path)
        catalog.add_each([new_file(number) for number in range(begin, begin + count)])
        await catalog.close()
        with raw(tmp_path) as behind:
            waiting.append(len(behind.rows(LATE)))
        assert_whole(tmp_path)
    assert waiting == [MOST_LATE, 0, 0]


async def test_few_candidates_are_gathered(tmp_path: Path) -> None:
    """A filter that few pass is answered by looking at those few, whatever the order asked for."""
    catalog = LmdbCatalog(tmp_path)
    catalog.add_many([new_file(number, tags=("rare",) if number % 500 == 0 else ()) for number in range(5000)])
    page = await catalog.query(Query(tag="rare", realm="image", sort="size"), 20)
    assert (len(page.entries), page.scanned, page.cursor) == (10, 10, None)
    page = await catalog.query(Query(realm="image", sort="size"), 20)
    assert (len(page.entries), page.scanned) == (20, 21)
    await catalog.close()


async def test_a_new_media_type_is_learnt_from_others(tmp_path: Path) -> None:
    """A media type that another process was the first to use is known at once."""
    catalog = LmdbCatalog(tmp_path)
    await catalog.add(new_file(1))
    assert (await catalog.lookup(address_of(1))).media_type == "image/png"
    add = (
        "import sys, pathlib, asyncio\n"
        "from stat7store.catalog.lmdb import LmdbCatalog\n"
        "from tests.catalog.making import new_file\n"
        "catalog = LmdbCatalog(pathlib.Path(sys.argv[1]))\n"
        "catalog.add_many([new_file(2, media_type='video/webm')])\n"
        "asyncio.run(catalog.close())\n"
    )
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", add, str(tmp_path), cwd=ROOT)
    assert await other.wait() == 0
    assert (await catalog.lookup(address_of(2))).media_type == "video/webm"
    await catalog.close()


def test_a_write_that_fails_is_not_acknowledged(tmp_path: Path) -> None:
    """When the disk takes no more, the file is refused, reads go on, and later writes succeed."""
    subprocess.run([sys.executable, "-m", "tests.catalog.full", str(tmp_path / "catalog")], check=True, cwd=ROOT)
    assert_whole(tmp_path / "catalog")
