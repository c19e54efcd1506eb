"""The folders of the cache: 256 for blobs, by the first two hex digits of a name, and one for fills."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from storage.base import Location
from storage.linux import FOLDER

FILLS = "fills"
ROOM = "room"
_PART = ".part"
_FOLDERS = tuple(f"{number:02x}" for number in range(256))


def make_cache_folders(root: Path) -> None:
    """Make the folders that are missing. May raise ``OSError``.

    Nothing is synced: what a crash takes from a cache is fetched again.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in {FILLS, *_FOLDERS}.difference(os.listdir(root)):
        (root / name).mkdir(mode=0o700, exist_ok=True)


def entry_path(location: Location) -> str:
    """Return the path of a blob that is whole."""
    return f"{location.name[:2]}/{_file_name(location)}"


def fill_path(location: Location) -> str:
    """Return the path of the file that says how far a fill is, and that its filler holds locked."""
    return f"{FILLS}/{_file_name(location)}"


def part_path(location: Location) -> str:
    """Return the path of the bytes of a fill."""
    return fill_path(location) + _PART


def _file_name(location: Location) -> str:
    return f"{location.name}.{location.token.hex()}"


def entries(root: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and the facts of every whole blob, in no order. May raise ``OSError``."""
    for name in _FOLDERS:
        yield from _files(root, name)


def fills(root: int) -> Iterator[str]:
    """Yield the paths of the files that say how far fills are, dead ones too. May raise ``OSError``."""
    return (path.removesuffix(_PART) for path, _ in _files(root, FILLS))


def part_of(fill: str) -> str:
    """Return the path of the bytes of the fill whose file has this path."""
    return fill + _PART


def _files(root: int, name: str) -> Iterator[tuple[str, os.stat_result]]:
    folder = os.open(name, FOLDER, dir_fd=root)
    try:
        with os.scandir(folder) as found:
            for file in found:
                try:
                    facts = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield f"{name}/{file.name}", facts
    finally:
        os.close(folder)
