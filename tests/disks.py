"""What tests must know of the disk that they run on."""

from __future__ import annotations

from pathlib import Path

from storage.linux import filesystem_number

_IN_MEMORY = (0x01021994, 0x858458F6)  # tmpfs and ramfs (linux/magic.h)


def is_on_disk(path: Path) -> bool:
    """Whether the page cache can give back what it has of a file: on a tmpfs nothing else has it."""
    return filesystem_number(str(path)) not in _IN_MEMORY
