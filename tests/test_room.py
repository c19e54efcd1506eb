"""Room is promised as bytes come, and an announced length keeps nobody out."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stat7store.errors import NoSpace, Unavailable
from stat7store.room import Pledges, Room

MIB = 1024**2


def test_an_announced_length_holds_nothing(tmp_path: Path) -> None:
    """While it is looked whether it fits, and afterwards, others find as much room as before."""
    seen: list[int] = []
    pledges = Pledges()

    def stored_bytes() -> int:
        seen.append(pledges.unstored)
        return 0

    room = Room([tmp_path], min_free=0, max_store_bytes=8 * MIB, stored_bytes=stored_bytes, pledges=pledges)
    room.check(8 * MIB)
    with pytest.raises(NoSpace):
        room.check(8 * MIB + 1)
    with room.promise(8 * MIB):
        seen.append(pledges.unstored)
    assert seen == [0, 0, 0, 0]


def test_what_fits_is_taken_though_not_as_much_again(tmp_path: Path) -> None:
    """A body of unknown length goes on as long as what came of it fits."""
    pledges = Pledges()
    room = Room([tmp_path], min_free=0, max_store_bytes=4 * MIB, stored_bytes=lambda: 0, pledges=pledges)
    with room.promise() as promise:
        for _ in range(4):
            promise.take(MIB)
        with pytest.raises(NoSpace):
            promise.take(1)
    assert pledges.unstored == 0


def test_what_was_written_counts_before_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk is not looked at for each small piece: between two looks what was written is counted."""
    facts = os.statvfs(tmp_path)
    monkeypatch.setattr("stat7store.room.os.statvfs", lambda _: facts)
    free = facts.f_bavail * facts.f_frsize
    room = Room([tmp_path], min_free=free - MIB // 2, clock=lambda: 0.0)
    pieces = 0
    with pytest.raises(NoSpace), room.promise() as promise:
        while pieces < 100:
            promise.take(MIB // 16)
            promise.wrote(MIB // 16)
            pieces += 1
    assert pieces == 8


def test_free_room_is_told_of_each_folder(tmp_path: Path) -> None:
    """Each on its own filesystem, which may be another than that of the folder above; also two on the same."""
    blobs, spools, catalog = tmp_path / "blobs", tmp_path / "spools", tmp_path / "catalog"
    blobs.mkdir()
    spools.mkdir()
    with TemporaryDirectory(dir="/dev/shm") as elsewhere:
        catalog.symlink_to(elsewhere)
        folders = (blobs, spools, catalog)
        before = [_free_bytes(folder) for folder in folders]
        free = Room(folders).free_bytes()
        after = [_free_bytes(folder) for folder in folders]
        for folder, *seen in zip(folders, before, after, strict=True):  # others write and delete meanwhile
            assert min(seen) * 0.99 <= free.pop(folder.name) <= max(seen) * 1.01
    assert not free


def _free_bytes(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def test_free_room_that_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    """A folder that is gone is no folder with room."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    room = Room([folder])
    folder.rmdir()
    with pytest.raises(Unavailable):
        room.free_bytes()
