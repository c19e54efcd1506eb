"""The journal's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.importer import journal as module
from stat7store.importer.files import Facts
from stat7store.importer.journal import Journal

FACTS = Facts(5, 7, 9)
ADDRESS = Address.of(b"bytes")


@pytest.mark.parametrize("held", [100_000, 1])
def test_what_is_recorded_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """An entry is found by its folder and name, in small folders and in those too large to hold in memory."""
    monkeypatch.setattr(module, "_AT_ONCE", held)
    for _ in range(2):  # the second opens what the first has left
        journal = Journal(tmp_path / "a #?% journal", "there")
        journal.record([(b"/one", b"a\xff", FACTS, ADDRESS), (b"/one", b"b", FACTS, ADDRESS)])
        lookup = journal.of_folder(b"/one")
        assert lookup(b"a\xff") == (b"a\xff", 5, 7, 9, ADDRESS)
        assert lookup(b"c") is None
        assert journal.of_folder(b"/two")(b"b") is None
        journal.close()
    assert Journal(tmp_path / "a #?% journal", "elsewhere").of_folder(b"/one")(b"b") is None


def test_an_import_that_did_not_end_is_remembered(tmp_path: Path) -> None:
    """``begin`` tells whether the one before came to its end."""
    journal = Journal(tmp_path / "journal", "there")
    assert not journal.begin()
    assert journal.begin()
    journal.end()
    assert not journal.begin()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """What cannot be used is told of with what to do, and a read-only journal makes no file."""
    (tmp_path / "photo").write_bytes(b"\xff\xd8" * 5000)
    with pytest.raises(Unavailable, match="costs only time"):
        Journal(tmp_path / "photo", "there")
    Journal(tmp_path / "none", "there", read_only=True).close()
    assert not (tmp_path / "none").exists()
