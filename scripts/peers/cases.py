"""What is measured: each case with its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase

from scripts.peers.files import KIB, MIB, size_text


class Kind(Enum):
    """How a case asks."""

    GET = "get"
    COLD = "cold"
    RANGE = "range"
    HEAD = "head"
    NOT_MODIFIED = "not-modified"
    OPEN = "open"
    INSTALLED = "installed"
    PUT = "put"
    MIXED = "mixed"


SMALL, MEDIUM, LARGE, HUGE = 4 * KIB, 64 * KIB, MIB, 64 * MIB
FILES = {SMALL: 2000, MEDIUM: 2000, LARGE: 256, HUGE: 8}
"""How many files of each size are chosen from; the larger are fewer, so that all of them stay in memory."""
QUICK_FILES = {SMALL: 20, MEDIUM: 10, LARGE: 4, HUGE: 1}
CONNECTIONS = 16
_FOR_TWO_WORKERS = ("get-4KiB", "get-64KiB", "put-64KiB-64")


@dataclass(frozen=True)
class Case:
    """A kind of request, the size of the files it is about (for a range: of the range), how many connections.

    ``congestion`` is the TCP congestion control of those; "" is the kernel's own.
    """

    kind: Kind
    size: int
    connections: int = CONNECTIONS
    congestion: str = ""

    @property
    def name(self) -> str:
        """What it is called on the command line and in the tables."""
        base = f"{self.kind.value}-{size_text(self.size)}"
        if self.kind is Kind.PUT:
            base = f"{base}-{self.connections}"
        return f"{base}-{self.congestion}" if self.congestion else base

    @property
    def file_size(self) -> int:
        """Bytes of the files that are asked for."""
        return HUGE if self.kind is Kind.RANGE else self.size

    @property
    def writes(self) -> bool:
        """Whether it writes."""
        return self.kind in (Kind.PUT, Kind.MIXED)

    @property
    def with_access_log(self) -> bool:
        """Whether the server logs each request, as it does when it is installed and not tuned."""
        return self.kind is Kind.INSTALLED


def all_cases() -> list[Case]:
    """Return every case, in the order in which they are measured."""
    return [
        *(Case(Kind.GET, size) for size in (SMALL, MEDIUM, LARGE)),
        Case(Kind.GET, HUGE, 4),
        *(Case(Kind.RANGE, MEDIUM), Case(Kind.HEAD, SMALL), Case(Kind.NOT_MODIFIED, SMALL)),
        *(Case(Kind.OPEN, size) for size in (SMALL, MEDIUM)),
        *(Case(Kind.INSTALLED, size) for size in (SMALL, MEDIUM)),
        *(Case(Kind.COLD, size) for size in (MEDIUM, LARGE)),
        *(Case(Kind.PUT, size, count) for size in (SMALL, MEDIUM, LARGE) for count in (1, 16, 64)),
        Case(Kind.MIXED, MEDIUM),
    ]


def chosen(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases whose name fits one of the patterns (``get-*``)."""
    return [case for case in cases if any(fnmatchcase(case.name, pattern) for pattern in patterns)]


def under_each(cases: Iterable[Case], congestion: Sequence[str]) -> list[Case]:
    """Return the cases, those that only read once for each congestion control; all as they are if there is none."""
    return [replace(case, congestion=name) for case in cases for name in ([""] if case.writes else congestion or [""])]


def for_workers(cases: Sequence[Case], workers: int) -> list[Case]:
    """Return those that are measured with so many workers: beyond one, only those that tell how it scales."""
    return [case for case in cases if workers == 1 or case.name in _FOR_TWO_WORKERS]
