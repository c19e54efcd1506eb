"""The journal's file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.importer import journal as module
from stat7store.importer.files import Facts
from stat7store.importer.journal import Entry, Journal
from stat7store.importer.remembered import address_in, facts_in, size_in

FACTS = Facts(5, 7, 9)
ADDRESS = Address.of(b"bytes")


def test_what_is_recorded_is_known(tmp_path: Path) -> None:
    """An entry is found by its folder and name; the last one counts, also once the parts are joined."""
    changed = Facts(6, 7, 9)
    for number in range(2):  # the second opens what the first has left
        journal = Journal(tmp_path / "a #?% journal", "there")
        journal.record([Entry(b"/one", b"a\xff", FACTS, ADDRESS), Entry(b"/two", b"b", FACTS, ADDRESS)])
        journal.record([Entry(b"/one", b"a", FACTS, ADDRESS), Entry(b"/one", b"a\xff", changed, ADDRESS)])
        if number:
            journal.end()
        remembered = journal.of_folder(b"/one")
        row = remembered.get(b"a\xff")
        assert row is not None
        assert (facts_in(row), size_in(row), address_in(row)) == (changed, 6, ADDRESS)
        assert remembered.get(b"a") == FACTS.packed() + ADDRESS
        assert remembered.get(b"c") is None
        assert journal.of_folder(b"/two").get(b"a") is None
        assert journal.of_folder(b"/three").get(b"b") is None
        journal.close()
    assert Journal(tmp_path / "a #?% journal", "elsewhere").of_folder(b"/one").get(b"a") is None


def test_the_end_joins_the_parts(tmp_path: Path) -> None:
    """Once an import has ended each folder has one part, so that the next need not sort."""
    journal, other = (Journal(tmp_path / "journal", name) for name in ("there", "elsewhere"))
    for number in range(3):
        entries = [Entry(folder, b"%d" % number, FACTS, ADDRESS) for folder in (b"/one", b"/two")]
        journal.record(entries)
        other.record(entries)
    journal.end()
    with closing(sqlite3.connect(tmp_path / "journal")) as data:
        assert [count for (count,) in data.execute("SELECT count(*) FROM parts GROUP BY folder")] == [1, 1, 3, 3]
    for folder in (b"/one", b"/two"):
        assert all(one.of_folder(folder).get(b"%d" % number) for number in range(3) for one in (journal, other))


def test_too_much_of_one_folder_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a limit: of what is known of one folder the newest stays, and the rest is read again."""
    monkeypatch.setattr(module, "_MOST_BYTES", 2 * 60 * 3)
    journal = Journal(tmp_path / "journal", "there")
    for part in range(4):
        journal.record([Entry(b"/one", b"%d%d" % (part, number), FACTS, ADDRESS) for number in range(3)])
    for _ in range(2):
        known = [journal.of_folder(b"/one").get(b"%d2" % part) is not None for part in range(4)]
        assert known == [False, False, True, True]
        journal.end()


def test_an_import_that_did_not_end_is_remembered(tmp_path: Path) -> None:
    """``begin`` tells whether the one before came to its end."""
    journal = Journal(tmp_path / "journal", "there")
    assert not journal.begin()
    assert journal.begin()
    journal.end()
    assert not journal.begin()


def test_a_journal_of_an_older_version_is_begun_anew(tmp_path: Path) -> None:
    """What an older version wrote is forgotten, which costs only time; what a newer one wrote is refused."""
    path = tmp_path / "journal"
    journal = Journal(path, "there")
    journal.record([Entry(b"/one", b"a", FACTS, ADDRESS)])
    journal.close()
    for version, known in ((2, False), (4, True)):
        with closing(sqlite3.connect(path)) as data:
            data.execute(f"PRAGMA user_version = {version}")
        if known:
            with pytest.raises(Unavailable, match="newer version"):
                Journal(path, "there")
            return
        for read_only in (True, False):
            journal = Journal(path, "there", read_only=read_only)
            assert journal.of_folder(b"/one").get(b"a") is None
            journal.close()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """What cannot be used is told of with what to do, and a read-only journal makes no file."""
    (tmp_path / "photo").write_bytes(b"\xff\xd8" * 5000)
    with pytest.raises(Unavailable, match="costs only time"):
        Journal(tmp_path / "photo", "there")
    Journal(tmp_path / "none", "there", read_only=True).close()
    assert not (tmp_path / "none").exists()
