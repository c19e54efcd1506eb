"""What the fault plan found, in lines that scripts/reliability.py makes docs/reliability.md of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypedDict

import msgspec


class Row(msgspec.Struct, frozen=True, tag="fault"):
    """One fault, done to one kind of store."""

    fault: str  # "kill -9 at random under load"
    store: str  # "filesystem", "filesystem on XFS", "S3"
    how: str  # one line: what was done
    times: int  # how often
    checked: str  # what was compared afterwards, with its count
    lost: int  # acknowledged files that were not there, whole
    wrong: int  # bodies completed with other bytes than were stored
    recovery_s: float | None = None  # median seconds until all was served again
    worst_recovery_s: float | None = None
    left_out: str = ""  # what this machine could not do, and why


class Removal(msgspec.Struct, frozen=True, tag="removal"):
    """One protection taken out of the code, and whether its test then failed."""

    protection: str  # "the folder is synced after a link"
    taken_out: str  # what was changed: "storage/file_commit.py: no fsync of the folder"
    test: str  # the test that must fail
    caught: bool


class Reliability:
    """Collects the rows of a run; keeps them in a file if it was given one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, row: Row | Removal) -> None:
        """Keep a row. Several processes may do so at once."""
        if self._path is None:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, msgspec.json.encode(row) + b"\n")
        finally:
            os.close(file)


class Recovery(TypedDict):
    """The two recovery fields of a ``Row``."""

    recovery_s: float | None
    worst_recovery_s: float | None


def recovery(seconds: Sequence[float]) -> Recovery:
    """Return the two recovery fields of a ``Row``."""
    if not seconds:
        return Recovery(recovery_s=None, worst_recovery_s=None)
    return Recovery(recovery_s=round(median(seconds), 2), worst_recovery_s=round(max(seconds), 2))
