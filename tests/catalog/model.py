"""What every catalog must be like, in the plainest form: a dict, and a search through all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from stat7store.address import Address
from stat7store.catalog.base import Added, Counters, Intent, NewFile, Query
from stat7store.errors import Conflict, Malformed, NotFound, Unavailable
from stat7store.record import Entry, FileRecord, Locator, Place


class Model:
    """A catalog without concurrency, durability, or an index."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.queue: list[Place] = []
        self.intents: dict[Place, Intent] = {}
        self._next = 1

    def entry(self, address: bytes) -> Entry:
        if address not in self.entries:
            raise NotFound(address.hex())
        return self.entries[address]

    def add(self, file: NewFile) -> Added:
        address = file.record.address
        standing = self.entries.get(address)
        if standing is not None and standing.locator.place == file.place:
            return Added(standing, created=False)
        needed = standing is None or standing.locator.place == file.replaces
        if needed and file.place in self.queue:
            raise Unavailable("swept")
        if file.intended and self.intents.pop(file.place, None) is None:
            raise Unavailable("withdrawn")
        if standing is None:
            adjacency = tuple(sorted({other for other in file.record.adjacency if other in self.entries}))
            locator = Locator(self._next, file.size, file.media_type, file.location, file.backend)
            self._next += 1
            self.entries[address] = Entry(locator, msgspec.structs.replace(file.record, adjacency=adjacency))
            return Added(self.entries[address], created=True)
        if needed:
            self._make_garbage(standing.locator.place)
            locator = Locator(standing.locator.number, file.size, file.media_type, file.location, file.backend)
            self.entries[address] = Entry(locator, standing.record)
        else:
            self._make_garbage(file.place)
        return Added(self.entries[address], created=False)

    def update(self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None) -> Entry:
        entry = self.entry(address)
        if revision not in (None, entry.record.revision):
            raise Conflict("revision")
        record = change(entry.record)
        adjacency = tuple(sorted(set(record.adjacency)))
        if address in adjacency or any(other not in self.entries for other in adjacency):
            raise Malformed("adjacency")
        record = msgspec.structs.replace(record, adjacency=adjacency, revision=entry.record.revision + 1)
        self.entries[address] = Entry(entry.locator, record)
        return self.entries[address]

    def remove(self, address: Address) -> None:
        self._make_garbage(self.entry(address).locator.place)
        del self.entries[address]
        for other, entry in self.entries.items():
            record = entry.record
            if address in record.adjacency:
                left = tuple(neighbour for neighbour in record.adjacency if neighbour != address)
                record = msgspec.structs.replace(record, adjacency=left, revision=record.revision + 1)
                self.entries[other] = Entry(entry.locator, record)

    def relocate(self, address: Address, old: Place, new: Place, *, intended: bool) -> bool:
        entry = self.entries.get(address)
        if entry is not None and entry.locator.place == new:
            return True
        moves = entry is not None and entry.locator.place == old
        if moves and new in self.queue:
            raise Unavailable("swept")
        if intended and self.intents.pop(new, None) is None:
            raise Unavailable("withdrawn")
        if entry is None or not moves:
            self._make_garbage(new)
            return False
        was = entry.locator
        locator = Locator(was.number, was.size, was.media_type, new.location, new.backend)
        self.entries[address] = Entry(locator, entry.record)
        self._make_garbage(old)
        return True

    def mark(self, address: Address, place: Place, *, damaged: bool) -> bool:
        entry = self.entries.get(address)
        if entry is None or entry.locator.place != place or entry.locator.damaged == damaged:
            return False
        was = entry.locator
        locator = Locator(was.number, was.size, was.media_type, was.location, was.backend, damaged=damaged)
        self.entries[address] = Entry(locator, entry.record)
        return True

    def discard(self, place: Place) -> bool:
        if place in self.intents or any(entry.locator.place == place for entry in self.entries.values()):
            return False
        fresh = place not in self.queue
        self._make_garbage(place)
        return fresh

    def intend(self, intent: Intent) -> None:
        self.intents[intent.place] = intent

    def withdraw_intent(self, place: Place) -> bool:
        if self.intents.pop(place, None) is None:
            return False
        self._make_garbage(place)
        return True

    def forget_garbage(self, places: list[Place]) -> None:
        self.queue = [place for place in self.queue if place not in places]

    def counters(self) -> Counters:
        by_realm: dict[str, tuple[int, int]] = {}
        for entry in self.entries.values():
            files, size = by_realm.get(entry.record.realm, (0, 0))
            by_realm[entry.record.realm] = (files + 1, size + entry.locator.size)
        total = sum(entry.locator.size for entry in self.entries.values())
        damaged = sum(entry.locator.damaged for entry in self.entries.values())
        return Counters(len(self.entries), total, len(self.queue), by_realm, damaged)

    def query(self, query: Query) -> list[Entry]:
        return brute_force(self.entries.values(), query)

    def _make_garbage(self, place: Place) -> None:
        if place not in self.queue:
            self.queue.append(place)


def brute_force(entries: Iterable[Entry], query: Query) -> list[Entry]:
    """Return all entries that pass, in the order that the query asks for."""
    found = [entry for entry in entries if _passes(entry, query)]
    return sorted(found, key=lambda entry: _order(entry, query.sort), reverse=query.descending)


def _order(entry: Entry, sort: str) -> tuple[float, int]:
    value = entry.locator.size if sort == "size" else getattr(entry.record, sort)
    return value, entry.locator.number


def _passes(entry: Entry, query: Query) -> bool:
    record, media_type = entry.record, entry.locator.media_type
    tests = [
        query.realm is None or record.realm == query.realm,
        query.horizon is None or record.horizon == query.horizon,
        query.lineage is None or record.lineage == query.lineage,
        query.adjacency is None or query.adjacency in record.adjacency,
        query.tag is None or query.tag in record.tags,
        query.name is None or query.name.casefold() in record.filename.casefold(),
        query.stored_after is None or record.stored_at > query.stored_after,
        query.stored_before is None or record.stored_at < query.stored_before,
    ]
    for name in ("resonance", "velocity", "density"):
        value, least, greatest = getattr(record, name), getattr(query, f"{name}_min"), getattr(query, f"{name}_max")
        tests += [least is None or value >= least, greatest is None or value <= greatest]
    if query.media_type is not None:
        family, _, kind = query.media_type.partition("/")
        tests.append(media_type.partition("/")[0] == family if kind == "*" else media_type == query.media_type)
    return all(tests)
