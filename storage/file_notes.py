"""Small files that are replaced in one step, durably."""

from __future__ import annotations

import os
from pathlib import Path

from storage.linux import FOLDER, unavailable


def read_note(folder: Path, name: str) -> bytes | None:
    """Return what a note says; None if there is none. Blocks. Raises ``BlobUnavailable``."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable(error) from error


def write_note(folder: Path, name: str, data: bytes) -> None:
    """Write a note. Durable on return. Blocks. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
    new = folder / f"{name}.new"
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / name)
        holding = os.open(folder, FOLDER)
        try:
            os.fsync(holding)  # a rename alone may not survive power loss
        finally:
            os.close(holding)
    except OSError as error:
        raise unavailable(error) from error
