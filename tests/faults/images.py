"""Filesystems in files, whose power can be cut: a loop device each, and the ioctl that shuts it down."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.faults.mounting import program

Kind = Literal["ext4", "xfs"]

_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number
_NO_LOG_FLUSH = struct.pack("I", 2)
_MIB = 1 << 20
_SIZES: dict[Kind, int] = {"ext4": 64 * _MIB, "xfs": 320 * _MIB}  # XFS has no smaller ones
# ext4 would else write its journal by itself every 5 s, and hide what was not synced
_OPTIONS: dict[Kind, str] = {"ext4": "loop,commit=300", "xfs": "loop"}


class Image:
    """One filesystem, mounted in a folder. What was written to it and not synced is lost in a cut."""

    def __init__(self, kind: Kind, file: Path, folder: Path) -> None:
        self._kind = kind
        self._file = file
        self._folder = folder
        self._is_mounted = False

    def make(self) -> None:
        """Make it anew, empty; it must not be mounted."""
        self._file.unlink(missing_ok=True)
        with self._file.open("wb") as file:
            file.truncate(_SIZES[self._kind])
        _run(f"mkfs.{self._kind}", "-q", str(self._file))

    def mount(self) -> None:
        """Mount it; after a cut this replays its journal."""
        _run("mount", "-t", self._kind, "-o", _OPTIONS[self._kind], str(self._file), str(self._folder))
        self._is_mounted = True

    def cut(self) -> None:
        """Stop it at once: nothing more reaches the image, its journal in memory neither."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, _SHUT_DOWN, _NO_LOG_FLUSH)
        finally:
            os.close(folder)

    def unmount(self) -> None:
        """Unmount it, which also frees its loop device; harmless if it is not mounted."""
        if self._is_mounted:
            _run("umount", str(self._folder))
            self._is_mounted = False

    def give_up(self) -> None:
        """Unmount it as soon as nobody uses it any more."""
        if self._is_mounted:
            _run("umount", "--lazy", str(self._folder))
            self._is_mounted = False


@contextmanager
def images(kind: Kind, kept_in: Path, *folders: Path) -> Iterator[list[Image]]:
    """Yield an image for each of the folders, still to be made and mounted; at the end all is unmounted."""
    made = []
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        made.append(Image(kind, kept_in / f"{number}.{kind}", folder))
    try:
        yield made
    finally:
        for image in made:
            image.give_up()


def _run(name: str, *arguments: str) -> None:
    found = program(name)
    assert found is not None, name
    # in a session of its own: Ctrl-C must not keep it from tidying up
    done = subprocess.run([found, *arguments], capture_output=True, text=True, start_new_session=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)}: {done.stderr}")
