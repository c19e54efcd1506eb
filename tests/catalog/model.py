"""What every catalog must be like, in the plainest form: a dict, and a search through all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from stat7store.address import Address
from stat7store.catalog.base import Added, Counters, NewFile, Query
from stat7store.errors import Conflict, Malformed, NotFound, Unavailable
from stat7store.record import Entry, FileRecord, Locator
from storage.base import Location


class Model:
    """A catalog without concurrency, durability, or an index."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.queue: list[Location] = []
        self._next = 1

    def entry(self, address: bytes) -> Entry:
        if address not in self.entries:
            raise NotFound(address.hex())
        return self.entries[address]

    def add(self, file: NewFile) -> Added:
        address = file.record.address
        standing = self.entries.get(address)
        needed = standing is None or standing.locator.location == file.replaces
        if needed and file.location in self.queue:
            raise Unavailable("swept")
        if standing is None:
            adjacency = tuple(sorted({other for other in file.record.adjacency if other in self.entries}))
            locator = Locator(self._next, file.size, file.media_type, file.location, file.backend)
            self._next += 1
            self.entries[address] = Entry(locator, msgspec.structs.replace(file.record, adjacency=adjacency))
            return Added(self.entries[address], created=True)
        if standing.locator.location == file.location:
            return Added(standing, created=False)
        if standing.locator.location == file.replaces:
            self._make_garbage(standing.locator.location)
            locator = Locator(standing.locator.number, file.size, file.media_type, file.location, file.backend)
            self.entries[address] = Entry(locator, standing.record)
        else:
            self._make_garbage(file.location)
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
        self._make_garbage(self.entry(address).locator.location)
        del self.entries[address]
        for other, entry in self.entries.items():
            record = entry.record
            if address in record.adjacency:
                left = tuple(neighbour for neighbour in record.adjacency if neighbour != address)
                record = msgspec.structs.replace(record, adjacency=left, revision=record.revision + 1)
                self.entries[other] = Entry(entry.locator, record)

    def mark_damaged(self, address: Address, location: Location) -> None:
        entry = self.entries.get(address)
        if entry is not None and entry.locator.location == location:
            was = entry.locator
            locator = Locator(was.number, was.size, was.media_type, location, was.backend, damaged=True)
            self.entries[address] = Entry(locator, entry.record)

    def discard(self, location: Location) -> bool:
        if any(entry.locator.location == location for entry in self.entries.values()):
            return False
        self._make_garbage(location)
        return True

    def forget_garbage(self, locations: list[Location]) -> None:
        self.queue = [location for location in self.queue if location not in locations]

    def counters(self) -> Counters:
        by_realm: dict[str, tuple[int, int]] = {}
        for entry in self.entries.values():
            files, size = by_realm.get(entry.record.realm, (0, 0))
            by_realm[entry.record.realm] = (files + 1, size + entry.locator.size)
        total = sum(entry.locator.size for entry in self.entries.values())
        return Counters(len(self.entries), total, len(self.queue), by_realm)

    def query(self, query: Query) -> list[Entry]:
        return brute_force(self.entries.values(), query)

    def _make_garbage(self, location: Location) -> None:
        if location not in self.queue:
            self.queue.append(location)


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
