"""Trees that are walked: what cannot be followed, and how much is open at once."""

from __future__ import annotations

import os
from pathlib import Path

from stat7store.importer.choice import Choice
from stat7store.importer.remembered import Remembered, pack
from stat7store.importer.walk import MOST_FOLDERS, Batch, Walk
from tests.importer.test_scan import row_of


def test_a_link_to_itself_hides_no_folder(tmp_path: Path) -> None:
    """With links followed, one that cannot be followed is told of once, and all folders are walked, in any order."""
    for name in "abcdefghijklmnop":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(b"x")
        (tmp_path / f"loop-{name}").symlink_to(f"loop-{name}")
    batches = list(Walk([os.fsencode(tmp_path)], Choice(follow_symlinks=True)).batches())
    assert len([file for batch in batches for file in batch.files]) == 16
    passed = [os.path.basename(one.path) for batch in batches for one in batch.passed if one.failed]
    assert sorted(passed) == sorted(b"loop-" + bytes([letter]) for letter in b"abcdefghijklmnop")


def test_a_batch_holds_few_folders(tmp_path: Path) -> None:
    """Each folder of a batch is open until the batch is done with, so they are few, whatever is known of the files."""
    for number in range(3 * MOST_FOLDERS):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.jpg").write_bytes(b"x")

    def journal(path: bytes) -> Remembered:
        name = os.path.join(path, b"x.jpg")
        return Remembered(pack([(b"x.jpg", row_of(name))]) if os.path.exists(name) else b"")

    root = [os.fsencode(tmp_path)]
    for batches in (list(Walk(root).batches()), list(Walk(root, journal=journal).batches())):
        folders = [len(_folders(batch)) for batch in batches]
        assert sum(folders) == 3 * MOST_FOLDERS
        assert max(folders) == MOST_FOLDERS


def _folders(batch: Batch) -> set[bytes]:
    return {file.folder.path for file in batch.files} | {known.folder.path for known in batch.known}
