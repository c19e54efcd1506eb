"""The tables of the embedded catalog, and what is read from them within one transaction.

Nothing here knows LMDB itself: a transaction is a function that opens a cursor on a table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Protocol, TypeVar

import msgspec

from stat7store.address import Address
from stat7store.catalog import codec
from stat7store.catalog.base import Counters, Elsewhere, Intent, Surveyed
from stat7store.errors import Damaged, NotFound, Stat7Error
from stat7store.record import Entry, FileRecord, Locator, Place
from storage.base import Buffer

AnyAddress = TypeVar("AnyAddress", bound=bytes)

META = "meta"  # the totals, and the format
INDEX = "index"  # address → locator
RECORDS = "records"  # record number → record
MEDIA_TYPES = "media types"  # code → text
GARBAGE = "garbage"  # sequence number → place
GARBAGE_PLACES = "garbage places"  # place → sequence number
INTENTS = "intents"  # place → since when, and whose
LATE = "late rows"  # record number → its keys in the secondary indexes, which lack them yet
PLAIN_TABLES = (META, INDEX, MEDIA_TYPES, GARBAGE_PLACES, INTENTS)
NUMBERED_TABLES = (RECORDS, GARBAGE, LATE)

STATE_KEY = b"state"


class Cursor(Protocol):
    """What is used of an LMDB cursor; a table's keys, and the values of one key, are in order."""

    def get(self, key: Buffer, /) -> bytes | None: ...
    def key(self) -> bytes: ...
    def item(self) -> tuple[bytes, bytes]: ...
    def count(self) -> int: ...
    def first(self) -> bool: ...
    def last(self) -> bool: ...
    def next(self) -> bool: ...
    def prev(self) -> bool: ...
    def next_nodup(self) -> bool: ...
    def set_key(self, key: Buffer, /) -> bool: ...
    def set_range(self, key: Buffer, /) -> bool: ...
    def set_key_dup(self, key: Buffer, value: Buffer) -> bool: ...
    def set_range_dup(self, key: Buffer, value: Buffer) -> bool: ...
    def iternext(self) -> Iterator[tuple[bytes, bytes]]: ...
    def iterprev(self) -> Iterator[tuple[bytes, bytes]]: ...
    def iternext_dup(self) -> Iterator[bytes]: ...
    def delete(self) -> bool: ...
    def put(
        self, key: Buffer, value: Buffer, dupdata: bool = True, overwrite: bool = True, append: bool = False
    ) -> bool: ...
    def putmulti(
        self,
        items: Iterable[tuple[Buffer, Buffer]],
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
    ) -> tuple[int, int]: ...


class State(msgspec.Struct, array_like=True):
    """The totals, and the next numbers to give away; fields may only be appended, with defaults."""

    next_number: int = 1
    next_garbage: int = 1
    files: int = 0
    bytes: int = 0
    garbage: int = 0
    by_realm: dict[str, tuple[int, int]] = {}
    damaged: int = 0

    def count(self, entry: Entry, sign: int) -> None:
        """Add (1) or take away (−1) one file."""
        realm, size = entry.record.realm, entry.locator.size * sign
        self.files += sign
        self.bytes += size
        self.damaged += sign * entry.locator.damaged
        files, total = self.by_realm.get(realm, (0, 0))
        if files + sign:
            self.by_realm[realm] = (files + sign, total + size)
        else:
            del self.by_realm[realm]


class Tables:
    """One transaction's view of the catalog."""

    def __init__(self, open_cursor: Callable[[str], Cursor], media_types: dict[int, str]) -> None:
        """``media_types``: what is known so far of the codes; what is read is added to it."""
        self._open_cursor = open_cursor
        self._media_types = media_types
        self._cursors: dict[str, Cursor] = {}
        self._state: State | None = None

    def cursor(self, table: str) -> Cursor:
        """Return the transaction's one cursor on a table."""
        cursor = self._cursors.get(table)
        if cursor is None:
            cursor = self._cursors[table] = self._open_cursor(table)
        return cursor

    def new_cursor(self, table: str) -> Cursor:
        """Return a cursor that nobody else moves."""
        return self._open_cursor(table)

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values of a table, in order."""
        cursor = self.cursor(table)
        return cursor.iternext() if cursor.first() else iter(())

    @property
    def state(self) -> State:
        """The totals as this transaction sees them. Raises ``Damaged``."""
        if self._state is None:
            value = self.cursor(META).get(STATE_KEY)
            self._state = State()
            if value is not None:
                body = codec.unseal(STATE_KEY, value, "the total")
                self._state = msgspec.msgpack.decode(body, type=State)
        return self._state

    def counters(self) -> Counters:
        """Return the totals."""
        state = self.state
        return Counters(state.files, state.bytes, state.garbage, state.by_realm, state.damaged)

    def knows(self, address: bytes) -> bool:
        """Tell whether an address is in the catalog."""
        return self.cursor(INDEX).set_key(address)

    def known(self, addresses: Iterable[AnyAddress]) -> set[AnyAddress]:
        """Return those of the addresses that are in the catalog."""
        return set(filter(self.cursor(INDEX).set_key, addresses))

    def locator(self, address: bytes) -> Locator:
        """Return the locator. Raises ``NotFound`` or ``Damaged``."""
        value = self.cursor(INDEX).get(address)
        if value is None:
            raise not_found(address)
        try:
            return codec.decode_locator(address, value, self._media_types)
        except codec.UnknownMediaTypeError:
            self.read_media_types()
        try:
            return codec.decode_locator(address, value, self._media_types)
        except codec.UnknownMediaTypeError as error:
            raise Damaged("the catalog lacks the media type of a file", address=address.hex()) from error

    def read_media_types(self) -> None:
        """Learn all media types that are in use, or were. Raises ``Damaged``."""
        for key, value in self.rows(MEDIA_TYPES):
            self._media_types[codec.unpack_code(key)] = codec.unseal(key, value, "a media type").decode()

    def entry(self, address: bytes) -> Entry:
        """Return the entry of an address. Raises ``NotFound`` or ``Damaged``."""
        locator = self.locator(address)
        record = self.record(locator.number)
        if record.address != address:
            raise _disagreement(address)
        return Entry(locator, record)

    def numbered(self, number: int) -> Entry:
        """Return the entry that a secondary index names. Raises ``Damaged`` if there is none."""
        return self.completed(number, self.record(number))

    def completed(self, number: int, record: FileRecord) -> Entry:
        """Return the entry of a record. Raises ``Damaged`` if the index does not name the record."""
        try:
            locator = self.locator(record.address)
        except NotFound as error:
            raise _disagreement(record.address) from error
        if locator.number != number:
            raise _disagreement(record.address)
        return Entry(locator, record)

    def record(self, number: int) -> FileRecord:
        """Return the record of a number that is in use. Raises ``Damaged``."""
        value = self.cursor(RECORDS).get(codec.pack_number(number))
        if value is None:
            raise Damaged(f"record {number} is missing in the catalog")
        return codec.decode_record(number, value)

    def elsewhere(self, backend: int, limit: int, after: Address | None, scan_limit: int) -> Elsewhere:
        """See ``Catalog.elsewhere``; looks at ``scan_limit`` entries at most. Raises ``Damaged``."""
        cursor = self.cursor(INDEX)
        there = cursor.first() if after is None else cursor.set_range(after + b"\0")
        found: list[tuple[Address, Locator]] = []
        for number, (key, _) in enumerate(cursor.iternext() if there else (), start=1):
            address = Address(key)
            locator = self.locator(address)  # leaves the cursor on this very row
            if locator.backend != backend:
                found.append((address, locator))
            if len(found) == limit or number == scan_limit:
                return Elsewhere(found, address)
        return Elsewhere(found, None)

    def survey(self, limit: int, after: Address | None) -> list[Surveyed]:
        """See ``Catalog.survey``."""
        cursor = self.cursor(INDEX)
        there = cursor.first() if after is None else cursor.set_range(after + b"\0")
        # the keys first: reading an entry moves the cursor
        keys = [key for key, _ in islice(cursor.iternext() if there else (), limit)]
        return [self._surveyed(key) for key in keys]

    def _surveyed(self, key: bytes) -> Surveyed:
        address = Address(key)
        try:
            return Surveyed(address, self.entry(address))
        except Stat7Error as error:
            return Surveyed(address, None, str(error))

    def intents(self, before: int) -> list[Intent]:
        """See ``Catalog.intents``."""
        found = []
        for key, value in self.rows(INTENTS):
            with suppress(Damaged):
                found.append(codec.decode_intent(key, value))
        return sorted((intent for intent in found if intent.since < before), key=lambda intent: intent.since)

    def garbage(self, limit: int, leaving: Collection[int] = ()) -> list[Place]:
        """See ``Catalog.garbage``."""
        queue = (place for _, place in self.queue() if place.backend not in leaving)
        return list(islice(queue, limit))

    def garbage_among(self, places: Collection[Place]) -> set[Place]:
        """See ``Catalog.garbage_among``."""
        cursor = self.cursor(GARBAGE_PLACES)
        return {place for place in places if cursor.set_key(codec.encode_place(place))}

    def queue(self) -> Iterator[tuple[bytes, Place]]:
        """Yield the rows of the garbage queue that can be read, oldest first."""
        for sequence, value in self.rows(GARBAGE):
            # protection: pass-over-damaged-garbage
            with suppress(Damaged):  # its blob stays, and a scrub tells of it
                yield sequence, codec.decode_place(codec.unseal(sequence, value, "the garbage queue"))


def not_found(address: bytes) -> NotFound:
    """Return the error for an address that is not in the catalog."""
    return NotFound(f"nothing is stored under {address.hex()}", address=address.hex())


def _disagreement(address: bytes) -> Damaged:
    return Damaged("the index and the records of the catalog disagree", address=address.hex())
