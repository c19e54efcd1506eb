"""What a node does to keep itself in order: each kind is counted, and told in the log when it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from stat7store.server.log import Log


class Deed(NamedTuple):
    """A kind of housekeeping.

    ``name`` is its counter, ``meaning`` says what is counted, ``line`` is what the log says when it
    happens; without a line, whoever does it tells more than a number.
    """

    name: str
    meaning: str
    line: str = ""
    level: Literal["info", "warning"] = "info"


DEEDS = (
    Deed("garbage_deleted", "Blobs of deleted or replaced files that were deleted for good.", "garbage deleted"),
    Deed(
        "orphans_found",
        "Blobs that no file pointed at, left by uploads that did not end.",
        "orphans found, left by uploads that did not end",
        "warning",
    ),
    Deed(
        "intents_expired",
        "Announced uploads that did not end in time and may not end any more.",
        "uploads that had been announced did not end in time; they cannot end any more",
        "warning",
    ),
    Deed(
        "uploads_expired",
        "Unfinished uploads of dead processes that were removed: spools and multipart uploads.",
        "unfinished uploads of dead processes removed",
        "warning",
    ),
    Deed(
        "stale_readers",
        "Read transactions of dead processes that were cleared.",
        "read transactions of dead processes cleared",
        "warning",
    ),
    Deed("map_growths", "Times that the memory map of the catalog was made larger.", "the catalog's memory map grew"),
    Deed("write_lock_stalls", "Times that the catalog's write lock was held for longer than the writer timeout."),
    Deed("writers_killed", "Processes killed because they held the catalog's write lock for too long."),
    Deed("processes_replaced", "Workers and janitors that ended unexpectedly and were started again."),
    Deed("chore_failures", "Chores of the janitor that failed and are tried again."),
    Deed("scrubbed_files", "Files that scrubs have read again and compared."),
    Deed("scrubbed_bytes", "Bytes that scrubs have read again and compared."),
    Deed("scrub_damages", "Files that scrubs found damaged or missing."),
)
DEED_NAMES = frozenset(deed.name for deed in DEEDS)


def told(counts: Callable[[], Mapping[str, int]], log: Log) -> Callable[[], dict[str, int]]:
    """Return a function that returns what ``counts`` does, and logs what has grown since it was last called."""
    before: dict[str, int] = {}

    def tell() -> dict[str, int]:
        now = dict(counts())
        for deed in DEEDS:
            grown = now.get(deed.name, 0) - before.get(deed.name, 0)
            if deed.line and grown:
                getattr(log, deed.level)(deed.line, number=grown)
        before.update(now)
        return now

    return tell
