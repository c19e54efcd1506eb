"""What became of each file, and the totals."""

from __future__ import annotations

import time
from typing import Literal, Protocol

import msgspec

from stat7store.address import Address
from stat7store.importer.files import Facts, Found

Kind = Literal["stored", "there", "refused", "failed"]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one file.

    ``stored``: its bytes were new. ``there``: they were stored already. ``refused``: they are not
    taken, such as those of another media type. ``failed``: they could not be read. ``facts`` are
    those of the file when its bytes were read.
    """

    found: Found
    kind: Kind
    address: Address | None = None
    reason: str = ""
    facts: Facts | None = None

    @property
    def path(self) -> bytes:
        """The whole path."""
        return self.found.path

    @property
    def failed(self) -> bool:
        """Whether it should have been stored, and is not."""
        return self.kind == "failed"


class Summary(msgspec.Struct, kw_only=True):
    """The totals of an import; sizes in bytes. ``files`` is the sum of the four outcomes.

    ``skipped`` counts what was passed over without being read: hidden, excluded, special, links.
    ``interrupted`` is set if it was stopped before its end, ``dry_run`` if nothing was changed.
    """

    files: int = 0
    bytes: int = 0
    stored: int = 0
    stored_bytes: int = 0
    there: int = 0
    refused: int = 0
    failed: int = 0
    skipped: int = 0
    deleted: int = 0
    seconds: float = 0.0
    dry_run: bool = False
    interrupted: bool = False


class Tally:
    """The totals as they grow, for any thread to read.

    ``expected`` is what there is to do, files and bytes, once that is known.
    """

    def __init__(self) -> None:
        self.summary = Summary()
        self.expected: tuple[int, int] | None = None
        self._begun = time.monotonic()

    def count(self, outcome: Outcome) -> None:
        """Count a file that is done with."""
        summary = self.summary
        size = outcome.found.facts.size if outcome.facts is None else outcome.facts.size
        summary.files += 1
        summary.bytes += size
        match outcome.kind:
            case "there":
                summary.there += 1
            case "stored":
                summary.stored += 1
                summary.stored_bytes += size
            case "refused":
                summary.refused += 1
            case "failed":
                summary.failed += 1

    def count_there(self, files: int, size: int) -> None:
        """Count files that were there already, all of them, and their bytes."""
        self.summary.files += files
        self.summary.bytes += size
        self.summary.there += files

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun


class Destination(Protocol):
    """Where files are brought."""

    @property
    def name(self) -> str:
        """What tells it from every other destination, for the journal."""

    async def present(self, addresses: list[Address]) -> set[Address]:
        """Return those that are stored there. Raises ``Unavailable``."""

    async def take(self, files: list[Found]) -> list[Outcome]:
        """Bring files there, durably on return; fewer outcomes than files if the import was stopped.

        Raises ``Unavailable`` if nothing can be brought there now; what was brought stays.
        """
