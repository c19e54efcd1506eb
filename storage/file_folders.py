"""The folders of the filesystem backend: 4096 by the first three hex digits of a name, and one for spools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from storage.base import Location
from storage.linux import FOLDER, Linux

SPOOL = "spool"
TOKEN_BYTES = 8
_COUNT = 4096


def folder_names(start: str = "000") -> Iterator[str]:
    """Yield the names of the blob folders in order, from one of them on."""
    return (f"{number:03x}" for number in range(int(start, 16), _COUNT))


def missing_folders(root: int | Path) -> set[str]:
    """Return the names of the folders that are not there. May raise ``OSError``."""
    return {SPOOL, *folder_names()}.difference(os.listdir(root))


def make_folders(root: Path) -> None:
    """Make the folders that are missing, and the root itself, durably. May raise ``OSError``."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = missing_folders(root)
    for name in missing:
        with suppress(FileExistsError):
            os.mkdir(f"{root}/{name}", 0o700)
    folder = os.open(root, FOLDER)
    try:
        if missing:
            # The root and its parents may be as new as the folders in it.
            Linux().sync_filesystem(folder)
        else:
            # Whoever made them may have been killed before the sync.
            os.fsync(folder)
    finally:
        os.close(folder)


def next_blobs(root: int, names: Iterator[str]) -> list[Location]:
    """Return the locations of the blobs in the next of these folders that holds any; none if none does.

    May raise ``OSError``.
    """
    return next(filter(None, (blobs_in(root, name) for name in names)), [])


def blobs_in(root: int, name: str) -> list[Location]:
    """Return the locations of the blobs in one folder, in order; foreign files are passed over.

    A folder that is missing holds none. May raise ``OSError``.
    """
    try:
        folder = os.open(name, FOLDER, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        with os.scandir(folder) as entries:
            files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    finally:
        os.close(folder)
    return sorted(_locations(name, files))


def _locations(folder: str, files: list[str]) -> Iterator[Location]:
    for file in files:
        try:
            location = Location.parse(f"{folder}/{file}")
        except ValueError:
            continue
        if len(location.token) == TOKEN_BYTES:
            yield location
