"""The late rows: what the secondary indexes do not tell yet of the newest files.

Each add would write a page or two of each index, mostly to put one row there. So the keys of new files
wait together in one small table, and go into the indexes when they are many. Until then that table is
read beside each index, as if it were one more part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain

import msgspec

from stat7store.catalog import codec
from stat7store.catalog.indexes import GATHERED, Index, Position, Row
from stat7store.catalog.tables import LATE, Tables
from stat7store.errors import Damaged
from stat7store.record import Entry

MOST_LATE = 512
"""So many wait at most. A query reads them all, which takes some two microseconds each."""

Keys = list[list[bytes]]
"""The keys that a file has in each of the gathered indexes."""

_KEYS = msgspec.msgpack.Decoder(Keys)
_PLACES = {index.name: place for place, index in enumerate(GATHERED)}


def keys_of(entry: Entry) -> Keys:
    """Return the keys of a file. Raises ``Malformed`` for NaN."""
    return [list(index.keys(entry)) for index in GATHERED]


def may_wait(tables: Tables, new: Sequence[Entry]) -> bool:
    """Tell whether there is room among the late rows for files whose record numbers are the next ones."""
    late = tables.cursor(LATE)
    first = codec.unpack_number(late.key()) if late.first() else new[0].locator.number
    return new[-1].locator.number - first < MOST_LATE


def late_row(number: int, keys: Keys) -> Row:
    """Return the row in which the keys of a file wait."""
    key = codec.pack_number(number)
    return key, codec.seal(key, msgspec.msgpack.encode(keys))


def late_positions(tables: Tables, index: Index) -> list[Position]:
    """Return what waits for an index, in order. Raises ``Damaged``."""
    place = _PLACES.get(index.name)
    if place is None:
        return []
    late = [_read(tables, row) for row in tables.rows(LATE)]
    return sorted(Position(key, number) for number, keys in late for key in keys[place])


def late_keys(tables: Tables) -> list[tuple[int, Keys]]:
    """Return the record numbers that wait, in order, and their keys, without those that cannot be read."""
    late = []
    for row in tables.rows(LATE):
        with suppress(Damaged):  # its record is damaged, too, and must not keep others out
            late.append(_read(tables, row))
    return late


def _read(tables: Tables, row: Row) -> tuple[int, Keys]:
    key, value = row
    number = codec.unpack_number(key)
    try:
        return number, _KEYS.decode(codec.unseal(key, value, "a late row"))
    except Damaged:
        return number, keys_of(tables.numbered(number))


def rows_of(index: Index, late: Iterable[tuple[int, Keys]], new: Iterable[Entry]) -> list[Row]:
    """Return the rows that go into an index for what waited and then for new files, in the order of the table."""
    place = _PLACES[index.name]
    waited = ((number, keys[place]) for number, keys in late)
    return index.rows(chain(waited, ((entry.locator.number, index.keys(entry)) for entry in new)))
