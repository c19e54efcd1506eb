"""What the embedded catalog changes within one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from stat7store.address import Address
from stat7store.catalog import codec
from stat7store.catalog.base import Added, Intent, NewFile
from stat7store.catalog.codec import pack_number, unpack_number
from stat7store.catalog.indexes import ADJACENCY, GATHERED, INDEXES, Index, Position, Row
from stat7store.catalog.late import keys_of, late_keys, late_row, may_wait, rows_of
from stat7store.catalog.tables import (
    GARBAGE,
    GARBAGE_PLACES,
    INDEX,
    INTENTS,
    LATE,
    MEDIA_TYPES,
    META,
    RECORDS,
    STATE_KEY,
    Cursor,
    State,
    Tables,
)
from stat7store.errors import Conflict, Damaged, Malformed, NotFound, Stat7Error, Unavailable
from stat7store.record import Entry, FileRecord, Locator, Place

_FLUSH_ENTRIES = 50_000


class Changes(Tables):
    """One write transaction. Call ``finish`` before it is committed, and nothing after that.

    An operation that raises has left no trace if ``count`` is what it was before; otherwise the
    transaction must be aborted.
    """

    def __init__(self, open_cursor: Callable[[str], Cursor], clear: Callable[[str], None]) -> None:
        """``clear`` empties a table."""
        # A dict of its own: what a transaction adds is not known to anyone before it is committed.
        super().__init__(open_cursor, media_types={})
        self.count = 0
        self._clear = clear
        self._codes: dict[str, int] | None = None
        self._appended: list[Entry] = []

    def intend(self, intent: Intent) -> None:
        """See ``Catalog.intend``."""
        key, value = codec.encode_intent(intent)
        self.count += 1
        self.cursor(INTENTS).put(key, value)

    def withdraw_intent(self, place: Place) -> bool:
        """See ``Catalog.withdraw_intent``."""
        if not self._take_intent(place):
            return False
        self._make_garbage(place)
        return True

    def add(self, file: NewFile) -> Added:
        """See ``Catalog.add``."""
        address = file.record.address
        codec.location_token(address, file.location)
        if not self.knows(address):
            self._refuse_swept(file.place, intended=file.intended)
            return Added(self._insert(file), created=True)
        standing = self.entry(address)
        locator = standing.locator
        if locator.place == file.place:  # the same call again: its blob is no garbage
            return Added(standing, created=False)
        if locator.place != file.replaces:
            self._refuse_withdrawn(file.place, intended=file.intended)
            self._make_garbage(file.place)
            return Added(standing, created=False)
        self._refuse_swept(file.place, intended=file.intended)
        healed = Entry(
            Locator(locator.number, file.size, file.media_type, file.location, file.backend), standing.record
        )
        self._change(standing, healed)
        self._make_garbage(locator.place)
        return Added(healed, created=False)

    def relocate(self, address: Address, old: Place, new: Place, *, intended: bool) -> bool:
        """See ``Catalog.relocate``."""
        codec.location_token(address, new.location)
        try:
            locator = self.locator(address)
        except NotFound:
            locator = None
        if locator is not None and locator.place == new:  # the same call again
            return True
        if locator is None or locator.place != old:
            self._refuse_withdrawn(new, intended=intended)
            self._make_garbage(new)
            return False
        self._refuse_swept(new, intended=intended)
        self.state.damaged -= locator.damaged
        self._put_locator(address, Locator(locator.number, locator.size, locator.media_type, new.location, new.backend))
        self._make_garbage(old)
        return True

    def update(self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None) -> Entry:
        """See ``Catalog.update``."""
        entry = self.entry(address)
        found = entry.record.revision
        if revision is not None and revision != found:
            raise Conflict("the record was changed in the meantime", expected=revision, actual=found)
        changed = change(entry.record)
        if changed.address != address:
            raise Malformed("a record cannot move to another address", expected=str(address))
        adjacency = _ordered(changed.adjacency)
        strangers = [other.hex() for other in adjacency if other == address or not self.knows(other)]
        if strangers:
            raise Malformed("adjacency names the file itself, or what is not in the store", actual=strangers)
        record = msgspec.structs.replace(changed, adjacency=adjacency, revision=found + 1)
        updated = Entry(entry.locator, record)
        self._change(entry, updated)
        return updated

    def remove(self, address: Address) -> None:
        """See ``Catalog.remove``."""
        entry = self.entry(address)
        self._flush()
        naming = self.cursor(ADJACENCY.table)
        numbers = [unpack_number(value) for value in naming.iternext_dup()] if naming.set_key(address) else []
        for neighbour in [self.numbered(number) for number in numbers]:
            record = neighbour.record
            left = tuple(other for other in record.adjacency if other != address)
            bereft = msgspec.structs.replace(record, adjacency=left, revision=record.revision + 1)
            self._change(neighbour, Entry(neighbour.locator, bereft))
        self._delete(entry)
        self._make_garbage(entry.locator.place)

    def mark(self, address: Address, place: Place, *, damaged: bool) -> bool:
        """See ``Catalog.mark_damaged`` and ``Catalog.mark_sound``; say whether that was news."""
        try:
            locator = self.locator(address)
        except NotFound:
            return False
        if locator.place != place or locator.damaged == damaged:
            return False
        self.state.damaged += damaged - locator.damaged
        self._put_locator(address, msgspec.structs.replace(locator, damaged=damaged))
        return True

    def forget_garbage(self, places: Sequence[Place]) -> None:
        """See ``Catalog.forget_garbage``."""
        sequences, queue = self.cursor(GARBAGE_PLACES), self.cursor(GARBAGE)
        for place, key in [(place, codec.encode_place(place)) for place in places]:
            sequence = sequences.get(key)
            if sequence is not None:
                sequences.delete()
            else:  # as it may be where a bit was flipped: a row that stayed would be swept for ever
                sequence = next((sequence for sequence, queued in self.queue() if queued == place), None)
            if sequence is not None:
                self.count += 1
                self.state.garbage -= 1
                if queue.set_key(sequence):
                    queue.delete()

    def discard(self, place: Place) -> bool:
        """See ``Catalog.discard``."""
        if self.cursor(INTENTS).set_key(codec.encode_place(place)):
            return False
        try:
            if self.locator(bytes.fromhex(place.location.name)).place == place:
                # protection: look-again-before-orphan
                return False
        except NotFound:
            pass
        return self._make_garbage(place)

    def rebuild(self) -> None:
        """Make the secondary indexes and the totals anew from the index and the records.

        Raises ``Damaged`` for the first value that cannot be trusted.
        """
        self.count += 1
        for table in (LATE, *(index.table for index in INDEXES)):
            self._clear(table)
        self._state = state = State()
        for key, _ in self.rows(RECORDS):
            number = unpack_number(key)
            entry = self.numbered(number)  # leaves the cursor on this very row
            self._append(entry)
            state.count(entry, 1)
            state.next_number = number + 1
        for key, _ in self.rows(GARBAGE):
            state.garbage += 1
            state.next_garbage = unpack_number(key) + 1

    def settle(self, places: Mapping[Address, Place], lost: Collection[Address]) -> None:
        """Say where files are in a copy of the store, and that it lacks others; see ``LmdbCatalog.settle``."""
        for address, place in places.items():
            locator = self.locator(address)
            self.state.damaged -= locator.damaged
            settled = msgspec.structs.replace(locator, location=place.location, backend=place.backend, damaged=False)
            self._put_locator(address, settled)
        for address in lost:
            self.remove(address)

    def forget_queues(self) -> None:
        """Forget all garbage and all intents."""
        self.count += 1
        for table in (GARBAGE, GARBAGE_PLACES, INTENTS):
            self._clear(table)
        self.state.garbage = 0

    def purge(self) -> list[Address]:
        """Drop every entry that cannot be read, and make the rest anew from it; return the addresses.

        Raises ``Damaged`` if nothing can be read, for want of the media types.
        """
        self.count += 1
        self.read_media_types()
        kept, lost = set[bytes](), list[Address]()
        for address in [Address(key) for key, _ in self.rows(INDEX)]:
            try:
                kept.add(pack_number(self.entry(address).locator.number))
            except Stat7Error:
                lost.append(address)
        for table, doomed in (
            (INDEX, list[bytes](lost)),
            (RECORDS, [key for key, _ in self.rows(RECORDS) if key not in kept]),
        ):
            cursor = self.cursor(table)
            for key in doomed:
                if cursor.set_key(key):
                    cursor.delete()
        self.rebuild()
        return lost

    def finish(self) -> None:
        """Write what was held back."""
        self._flush()
        if self.count:
            self.cursor(META).put(STATE_KEY, codec.seal(STATE_KEY, msgspec.msgpack.encode(self.state)))

    def _insert(self, file: NewFile) -> Entry:
        # a neighbour that was deleted while the file was on its way has left
        adjacency = tuple(other for other in _ordered(file.record.adjacency) if self.knows(other))
        record = file.record
        if adjacency != record.adjacency:
            record = msgspec.structs.replace(record, adjacency=adjacency)
        state = self.state
        number = state.next_number
        entry = Entry(Locator(number, file.size, file.media_type, file.location, file.backend), record)
        value = codec.encode_record(number, record)
        self._append(entry)
        state.next_number += 1
        state.count(entry, 1)
        self._put_locator(record.address, entry.locator)
        if not self.cursor(RECORDS).put(pack_number(number), value, append=True):
            raise _numbers_spent()
        return entry

    def _change(self, old: Entry, new: Entry) -> None:
        number = new.locator.number
        value = codec.encode_record(number, new.record)
        self._reindex(number, old, new)
        self.state.count(new, 1)
        self.state.count(old, -1)
        if new.locator != old.locator:
            self._put_locator(new.record.address, new.locator)
        if new.record != old.record:
            self.cursor(RECORDS).put(pack_number(number), value)

    def _delete(self, entry: Entry) -> None:
        number = entry.locator.number
        self._reindex(number, entry, None)
        self.state.count(entry, -1)
        for table, key in ((INDEX, entry.record.address), (RECORDS, pack_number(number))):
            cursor = self.cursor(table)
            if cursor.set_key(key):
                cursor.delete()

    def _append(self, entry: Entry) -> None:
        # The rows of new records are held back and written together, in order: so they cost less,
        # and fill their pages.
        self.count += 1
        self._appended.append(entry)
        if len(self._appended) >= _FLUSH_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        new = self._appended
        if not new:
            return
        self.count += 1
        if may_wait(self, new):
            late = self.cursor(LATE)
            for key, value in [late_row(entry.locator.number, keys_of(entry)) for entry in new]:
                if not late.put(key, value, append=True):
                    raise _numbers_spent()
        else:
            self._put_rows(new)
        self._put_new(ADJACENCY, ADJACENCY.rows((entry.locator.number, entry.record.adjacency) for entry in new))
        new.clear()

    def _put_rows(self, new: Sequence[Entry]) -> None:
        late = late_keys(self)
        for index in GATHERED:
            self._put_new(index, rows_of(index, late, new))
        self._clear(LATE)

    def _put_new(self, index: Index, rows: list[Row]) -> None:
        if not rows:
            return
        cursor = self.cursor(index.table)
        # new records have the greatest numbers, and so go to the end of their key
        append = not index.distinct or not cursor.last() or cursor.item() < rows[0]
        if cursor.putmulti(rows, append=append) != (len(rows), len(rows)):
            raise _numbers_spent()

    def _reindex(self, number: int, old: Entry, new: Entry | None) -> None:
        moves = [(index, set(index.keys(old)), set[bytes](index.keys(new) if new else ())) for index in INDEXES]
        self._flush()
        self.count += 1
        late = self.cursor(LATE)
        if late.set_key(pack_number(number)):
            late.delete()
            if new is not None:
                late.put(*late_row(number, keys_of(new)))
            moves = [move for move in moves if move[0] is ADJACENCY]
        for index, before, after in moves:
            if before == after:
                continue
            cursor = self.cursor(index.table)
            for key in before - after:
                if cursor.set_key_dup(*index.row(Position(key, number))):
                    cursor.delete()
            for key in after - before:
                cursor.put(*index.row(Position(key, number)))

    def _put_locator(self, address: bytes, locator: Locator) -> None:
        value = codec.encode_locator(address, locator, self._media_code(locator.media_type))
        self.count += 1
        self.cursor(INDEX).put(address, value)

    def _media_code(self, media_type: str) -> int:
        if self._codes is None:
            self.read_media_types()
            self._codes = {text: code for code, text in self._media_types.items()}
        code = self._codes.get(media_type)
        if code is None:
            code = len(self._codes)
            key = codec.pack_code(code)
            self.count += 1
            self.cursor(MEDIA_TYPES).put(key, codec.seal(key, media_type.encode()))
            self._codes[media_type] = code
            self._media_types[code] = media_type
        return code

    def _make_garbage(self, place: Place) -> bool:
        """Queue a place as garbage; return False if it is there already."""
        key = codec.encode_place(place)
        places, state = self.cursor(GARBAGE_PLACES), self.state
        if places.set_key(key):
            return False
        self.count += 1
        sequence = pack_number(state.next_garbage)
        state.next_garbage += 1
        state.garbage += 1
        places.put(key, sequence)
        if not self.cursor(GARBAGE).put(sequence, codec.seal(sequence, key), append=True):
            raise _numbers_spent()
        return True

    def _take_intent(self, place: Place) -> bool:
        intents = self.cursor(INTENTS)
        if not intents.set_key(codec.encode_place(place)):
            return False
        self.count += 1
        intents.delete()
        return True

    def _refuse_withdrawn(self, place: Place, *, intended: bool) -> None:
        # whoever withdrew the intent has deleted the blob, or is about to
        # protection: fence-withdrawn-intent
        if intended and not self._take_intent(place):
            raise _swept(place)

    def _refuse_swept(self, place: Place, *, intended: bool) -> None:
        # its blob is about to be deleted, or is already
        # protection: never-add-garbage
        if self.state.garbage and self.cursor(GARBAGE_PLACES).set_key(codec.encode_place(place)):
            raise _swept(place)
        self._refuse_withdrawn(place, intended=intended)


def _ordered(adjacency: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(set(adjacency)))


def _swept(place: Place) -> Unavailable:
    return Unavailable(f"{place.location} was swept in the meantime; upload the file again")


def _numbers_spent() -> Damaged:
    return Damaged("the catalog's totals lag behind its tables; rebuild the indexes")
