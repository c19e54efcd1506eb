"""What a catalog is: the protocol, and the values it trades in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from stat7store.address import Address
from stat7store.errors import Stat7Error
from stat7store.record import Entry, FileRecord, Locator
from storage.base import Location

SORTS = ("stored_at", "size", "resonance", "velocity", "density")


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose bytes are durable at ``location``, to be added under ``record.address``.

    ``replaces`` is the location the caller saw in the catalog and found missing or damaged; the
    file then takes that one's place, so that an upload heals instead of deduplicating onto rot.
    """

    record: FileRecord
    size: int
    media_type: str
    location: Location
    backend: int = 0
    replaces: Location | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a ``NewFile``: the entry now in the catalog, and whether the address is new."""

    entry: Entry
    created: bool


@dataclass(frozen=True, slots=True)
class Query:
    """Which files to list, and in which order; None means any.

    Ranges include both ends. ``media_type`` is exact, or a family such as ``image/*``. ``name`` is
    a substring of the file name, letter case ignored. ``stored_after`` and ``stored_before`` are in
    milliseconds since 1970 and exclusive. ``sort`` is one of ``SORTS``; equal values follow in the
    order in which they were added, and ``descending`` turns the whole order round.
    """

    realm: str | None = None
    horizon: str | None = None
    lineage: int | None = None
    adjacency: Address | None = None
    resonance_min: float | None = None
    resonance_max: float | None = None
    velocity_min: float | None = None
    velocity_max: float | None = None
    density_min: float | None = None
    density_max: float | None = None
    media_type: str | None = None
    tag: str | None = None
    name: str | None = None
    stored_after: int | None = None
    stored_before: int | None = None
    sort: str = "stored_at"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a query: its entries, how many rows were scanned for them, and where to go on.

    ``cursor`` is None on the last page. A page may hold fewer entries than asked for, even none,
    and still have a cursor: scanning is bounded, so that one query cannot hold up the others.
    """

    entries: list[Entry]
    scanned: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals, kept in the same transactions as the entries; sizes in bytes."""

    files: int = 0
    bytes: int = 0
    garbage: int = 0
    by_realm: dict[str, tuple[int, int]] = field(default_factory=dict)  # realm → files, bytes


class Catalog(Protocol):
    """What is known of every address. Every change is one transaction, durable on return.

    Every method may raise ``Unavailable``. All processes of a node may use one catalog at once.
    """

    async def lookup(self, address: Address) -> Locator:
        """The *index* stage. Raises ``NotFound``."""

    async def record(self, address: Address, locator: Locator) -> FileRecord:
        """The *metadata* stage. Raises ``NotFound`` if it is gone since, ``Damaged`` if it rotted."""

    async def add(self, file: NewFile) -> Added:
        """Add a file; the last step of an upload. Concurrent calls share a transaction.

        Address unknown: the file is added. Known at ``file.replaces``: the entry is pointed at the
        new location (its damage mark goes), and the old location becomes garbage. Known at any
        other location: the entry stays and the new location becomes garbage. Added at the very
        same location, it stays as it is. Neighbours that are not in the catalog are left out of the
        adjacency. Raises ``Unavailable`` if the location is garbage already, and ``ValueError`` if
        its name is not the address.
        """

    async def update(
        self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None = None
    ) -> Entry:
        """Replace the record by ``change(record)``, under the next revision.

        ``change`` must be pure: it may run more than once. Raises ``NotFound``, ``Conflict`` if the
        record's revision is not ``revision`` (None: any), ``Malformed`` if the new adjacency names
        an address that is not in the catalog or the file itself, and whatever ``change`` raises.
        """

    async def remove(self, address: Address) -> None:
        """Remove index, record and secondary entries, make the location garbage, and take the
        address out of its neighbours' adjacency (their revision grows). Raises ``NotFound``.
        """

    async def mark_damaged(self, address: Address, location: Location) -> None:
        """Mark the entry as damaged if it still points there; otherwise do nothing."""

    async def present(self, addresses: Sequence[Address]) -> set[Address]:
        """Return those that are in the catalog."""

    async def query(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """Return the next page, of at most ``limit`` entries.

        Raises ``Malformed`` for a cursor of another query, a limit below 1, an unknown sort or NaN.
        """

    async def counters(self) -> Counters:
        """Return the totals."""

    async def garbage(self, limit: int) -> list[Location]:
        """Return up to ``limit`` locations whose blobs are to be deleted, oldest first."""

    async def forget_garbage(self, locations: Sequence[Location]) -> None:
        """Take locations out of the garbage queue, their blobs being deleted for good."""

    async def discard(self, location: Location) -> bool:
        """Make a location garbage unless an entry points at it, in one transaction; say whether."""

    async def maintain(self) -> None:
        """Housekeeping that some process must do now and then (such as clearing dead readers)."""

    async def check(self) -> None:
        """Return if the catalog can serve; raise ``Unavailable`` if not."""

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""


@runtime_checkable
class BulkCatalog(Protocol):
    """A catalog that takes and finds many files in one go. Every method blocks, and may be called from any thread."""

    def lookup_many(self, addresses: Iterable[Address]) -> dict[Address, Locator]:
        """Return the locators of those addresses that are in the catalog. Raises ``Damaged``, ``Unavailable``."""

    def add_many(self, files: Sequence[NewFile]) -> list[Added]:
        """Add files as ``Catalog.add`` does, in one transaction: all of them or none."""

    def add_each(self, files: Sequence[NewFile]) -> list[Added | Stat7Error]:
        """Add files as as many calls of ``Catalog.add`` would, in one transaction; one outcome for each, in order."""


@runtime_checkable
class ImmediateCatalog(Protocol):
    """A catalog that answers without leaving the event loop."""

    def find_now(self, address: bytes) -> tuple[Entry, int] | None:
        """Return an entry as it is now, and when (by ``now_ns``) the index had answered and its record was asked for.

        It is the same object for as long as neither locator nor record change, so that what was made of
        it once can be used again. None means: ask ``lookup`` and ``record``, which also tell what is amiss.
        """
