"""Filesystems of a few megabytes, to be filled up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.mounting import program, require_mounts

_MIB = 1 << 20


@contextmanager
def small_disk(kind: str, folder: Path, size: int) -> Iterator[Path]:
    """Mount a new filesystem (``tmpfs`` or ``ext4``) of so many bytes for the length of the context."""
    require_mounts(kind)
    folder.mkdir(parents=True)
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    else:
        image = folder.with_name(f"{folder.name}.image")
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([program(f"mkfs.{kind}") or kind, "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    """Write a file until nothing more fits on its filesystem."""
    for size in (_MIB, 1):
        with path.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def free(folder: Path) -> int:
    """Return the free bytes of a filesystem."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize
