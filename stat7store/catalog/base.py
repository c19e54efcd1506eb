"""What a catalog is: the protocol, and the values it trades in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from stat7store.address import Address
from stat7store.errors import Stat7Error
from stat7store.record import Entry, FileRecord, Locator, Place
from storage.base import Location

SORTS = ("stored_at", "size", "resonance", "velocity", "density")


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose bytes are durable at ``location``, to be added under ``record.address``.

    ``replaces`` is the place the caller saw in the catalog and found missing or damaged; the
    file then takes that one's place, so that an upload heals instead of deduplicating onto rot.
    ``intended``: an intent was kept for the place, and is to become this entry.
    """

    record: FileRecord
    size: int
    media_type: str
    location: Location
    backend: int = 0
    replaces: Place | None = None
    intended: bool = False

    @property
    def place(self) -> Place:
        return Place(self.location, self.backend)


@dataclass(frozen=True, slots=True)
class Intent:
    """Says that someone is about to put a blob at a place, and then to add it.

    ``since`` is in milliseconds since 1970, by the clock of ``owner``, who is named for people.
    """

    place: Place
    since: int
    owner: str = ""


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
class Elsewhere:
    """Some files that are not on a backend, and the address up to which all were seen; None: the last.

    There may be fewer than were asked for, even none, and still more to come, as in a ``Page``.
    """

    files: list[tuple[Address, Locator]]
    reached: Address | None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One address of the index. Without an entry ``problem`` says why it cannot be read."""

    address: Address
    entry: Entry | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals, kept in the same transactions as the entries; sizes in bytes."""

    files: int = 0
    bytes: int = 0
    garbage: int = 0
    by_realm: dict[str, tuple[int, int]] = field(default_factory=dict)  # realm → files, bytes
    damaged: int = 0  # files known to be damaged, and so not served


@dataclass(frozen=True, slots=True)
class MapUse:
    """How much room a catalog in a memory map takes, in bytes: the map, and what of it was ever used."""

    map_bytes: int
    used_bytes: int


class Catalog(Protocol):
    """What is known of every address. Every change is one transaction, durable on return.

    Every method may raise ``Unavailable``. All processes of a node may use one catalog at once.
    """

    async def lookup(self, address: Address) -> Locator:
        """The *index* stage. Raises ``NotFound``."""

    async def record(self, address: Address, locator: Locator) -> FileRecord:
        """The *metadata* stage. Raises ``NotFound`` if it is gone since, ``Damaged`` if it rotted."""

    async def intend(self, intent: Intent) -> None:
        """Keep an intent; a step before the blob is put. Concurrent calls share a transaction.

        For backends that cannot tell a living upload from a dead one (see ``Planned``). The place
        must be new; ``discard`` leaves it alone while the intent lasts.
        """

    async def add(self, file: NewFile) -> Added:
        """Add a file; the last step of an upload. Concurrent calls share a transaction.

        Address unknown: the file is added. Known at ``file.replaces``: the entry is pointed at the
        new place (its damage mark goes), and the old place becomes garbage. Known at any other
        place: the entry stays and the new place becomes garbage. Added at the very same place, it
        stays as it is. An intended file uses up its intent. Neighbours that are not in the catalog
        are left out of the adjacency. Raises ``Unavailable`` if the place is garbage already or its
        intent was withdrawn, and ``ValueError`` if the location's name is not the address.
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

    async def relocate(self, address: Address, old: Place, new: Place, *, intended: bool = False) -> bool:
        """Point an entry at a copy of its bytes, if it still points at ``old``; say whether it did.

        The old place becomes garbage then; otherwise, or if the file is gone, the new one does. An
        intended place uses up its intent. Raises what ``add`` does.
        """

    async def mark_damaged(self, address: Address, place: Place) -> None:
        """Mark the entry as damaged if it still points there; otherwise do nothing."""

    async def mark_sound(self, address: Address, place: Place) -> bool:
        """Take the mark of damage from the entry if it points there and has one; say whether it had."""

    async def present(self, addresses: Sequence[Address]) -> set[Address]:
        """Return those that are in the catalog."""

    async def query(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """Return the next page, of at most ``limit`` entries.

        Raises ``Malformed`` for a cursor of another query, a limit below 1, an unknown sort or NaN.
        """

    async def counters(self) -> Counters:
        """Return the totals."""

    async def elsewhere(self, backend: int, limit: int, after: Address | None = None) -> Elsewhere:
        """Return up to ``limit`` files that are not on this backend, in the order of their addresses."""

    async def survey(self, limit: int, after: Address | None = None) -> list[Surveyed]:
        """Return the next addresses of the index, in order, also those whose entry cannot be read.

        Fewer than ``limit`` only at the end.
        """

    async def garbage(self, limit: int, leaving: Collection[int] = ()) -> list[Place]:
        """Return up to ``limit`` places whose blobs are to be deleted, oldest first.

        Those on the backends ``leaving`` are left out, and what cannot be read of the queue is passed over.
        """

    async def garbage_among(self, places: Collection[Place]) -> set[Place]:
        """Return those of the places whose blobs are to be deleted."""

    async def forget_garbage(self, places: Sequence[Place]) -> None:
        """Take places out of the garbage queue, their blobs being deleted for good."""

    async def discard(self, place: Place) -> bool:
        """Make a place garbage, in one transaction; say whether.

        It is left as it is if an entry or an intent names it, or if it is garbage already.
        """

    async def intents(self, before: int) -> list[Intent]:
        """Return the intents of before a moment (milliseconds since 1970), oldest first.

        What cannot be read of them is passed over.
        """

    async def withdraw_intent(self, place: Place) -> bool:
        """Drop an intent and make its place garbage, in one transaction; say whether there was one.

        From then on ``add`` refuses the place, so its blob may be deleted even if whoever intended
        it still lives: that one is told ``Unavailable``. A wrong clock can thus cost an upload
        another try, and never a file.
        """

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
class MappedCatalog(Protocol):
    """A catalog in a memory map, which all processes of a machine share."""

    def counts(self) -> dict[str, int]:
        """Return what was counted since it was opened.

        ``map_growths``: how often the map was too small and made larger; ``stale_readers``: read
        transactions of dead processes that were cleared.
        """

    def map_use(self) -> MapUse:
        """Return how much room it takes. Raises ``Unavailable``."""


@runtime_checkable
class ImmediateCatalog(Protocol):
    """A catalog that answers without leaving the event loop."""

    def find_now(self, address: bytes) -> tuple[Entry, int] | None:
        """Return an entry as it is now, and when (by ``now_ns``) the index had answered and its record was asked for.

        It is the same object for as long as neither locator nor record change, so that what was made of
        it once can be used again. None means: ask ``lookup`` and ``record``, which also tell what is amiss.
        """
