"""The secondary indexes of the embedded catalog: one table, and keys that sort as their values do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from stat7store.catalog.base import Query
from stat7store.catalog.codec import pack_number, unpack_number
from stat7store.catalog.keys import GREATEST, LEAST, TEXT_BYTES, float_key, integer_key, text_key
from stat7store.record import Entry

NUMERIC_KEY_BYTES = 8
LAST_NUMBER = (1 << 48) - 1
"""No record number is as great as this."""
PART_NUMBERS = 1 << 16
"""So many consecutive record numbers share a part of an index whose keys are distinct."""
_PART_BYTES = 4
_DISTINCT_NUMBER_BYTES = 6

_ABOVE_TEXT = b"\xff"  # a byte that UTF-8 never has

Span = tuple[bytes, bytes]
"""The keys from the first to the second, both included; none, if the first is the greater."""

Row = tuple[bytes, bytes]
"""A key and a value of a table."""


class Position(NamedTuple):
    """A place in the order of an index: a key, and a record number within it.

    There need be no entry at it.
    """

    key: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Index:
    """One secondary index: under which keys it has an entry, and which keys a query asks for.

    ``keys`` gives no key twice. ``span`` returns None if the query does not restrict this index's
    values. A span may promise too much (texts can share a key), never too little: the entry itself
    has the last word.

    Where many files share a key, an LMDB key and its record numbers cost 8 bytes a file. Where hardly
    any two do, they would cost 26, and more on pages that are not full. So an index whose keys are
    mostly ``distinct``, of 8 bytes each, puts key and number together under few LMDB keys: 14 bytes.

    Each of those few keys is a part of the index, for the files of some consecutive record numbers, and
    has an order of its own: what is new goes to the last part alone, and so to few pages, however large
    the rest is. Whoever walks the index walks all parts at once.
    """

    name: str
    keys: Callable[[Entry], Iterable[bytes]]
    span: Callable[[Query], Span | None]
    distinct: bool = False

    @property
    def table(self) -> str:
        """Name of its table."""
        return f"by {self.name}"

    def row(self, position: Position) -> Row:
        """Return what stands in the table for a key and a record number."""
        return self.row_in(_part_of(position.number), position)

    def row_in(self, part: bytes, position: Position) -> Row:
        """Return what would stand in the table if the position were in this part."""
        key, number = position
        if self.distinct:
            return part, key + number.to_bytes(_DISTINCT_NUMBER_BYTES, "big")
        return key, pack_number(number)

    def rows(self, keyed: Iterable[tuple[int, Iterable[bytes]]]) -> list[Row]:
        """Return the rows of record numbers, which ascend, and their keys, in the order of the table."""
        if self.distinct:
            return sorted(
                [
                    (_part_of(number), key + number.to_bytes(_DISTINCT_NUMBER_BYTES, "big"))
                    for number, keys in keyed
                    for key in keys
                ]
            )
        rows = [(key, pack_number(number)) for number, keys in keyed for key in keys]
        rows.sort(key=itemgetter(0))  # stable: the numbers still ascend within each key
        return rows

    def position(self, row: Row) -> Position:
        """Read what ``row`` returned."""
        key, value = row
        if self.distinct:
            return Position(value[:NUMERIC_KEY_BYTES], int.from_bytes(value[NUMERIC_KEY_BYTES:], "big"))
        return Position(key, unpack_number(value))


ADJACENCY = Index(
    "adjacency",
    lambda entry: entry.record.adjacency,
    lambda query: None if query.adjacency is None else (query.adjacency, query.adjacency),
)

INDEXES = (
    Index("realm", lambda entry: (text_key(entry.record.realm),), lambda query: _text(query.realm)),
    Index("horizon", lambda entry: (text_key(entry.record.horizon),), lambda query: _text(query.horizon)),
    Index(
        "lineage",
        lambda entry: (integer_key(entry.record.lineage),),
        lambda query: _integers(query.lineage, query.lineage),
    ),
    ADJACENCY,
    Index(
        "resonance",
        lambda entry: (float_key(entry.record.resonance),),
        lambda query: _floats(query.resonance_min, query.resonance_max),
        distinct=True,
    ),
    Index(
        "velocity",
        lambda entry: (float_key(entry.record.velocity),),
        lambda query: _floats(query.velocity_min, query.velocity_max),
        distinct=True,
    ),
    Index(
        "density",
        lambda entry: (float_key(entry.record.density),),
        lambda query: _floats(query.density_min, query.density_max),
        distinct=True,
    ),
    Index(
        "media_type",
        lambda entry: (text_key(entry.locator.media_type),),
        lambda query: _media_types(query.media_type),
    ),
    Index("tag", lambda entry: set(map(text_key, entry.record.tags)), lambda query: _text(query.tag)),
    Index(
        "stored_at",
        lambda entry: (integer_key(entry.record.stored_at),),
        lambda query: _integers(
            None if query.stored_after is None else query.stored_after + 1,
            None if query.stored_before is None else query.stored_before - 1,
        ),
        distinct=True,
    ),
    Index("size", lambda entry: (integer_key(entry.locator.size),), lambda query: None, distinct=True),
)

GATHERED = tuple(index for index in INDEXES if index is not ADJACENCY)
"""The indexes whose rows may wait among the late ones; a removal must find its neighbours at once."""

EVERYTHING: Span = (b"\0" * NUMERIC_KEY_BYTES, b"\xff" * NUMERIC_KEY_BYTES)
"""All keys of an index of numbers."""


def _part_of(number: int) -> bytes:
    return (number // PART_NUMBERS).to_bytes(_PART_BYTES, "big")


def _text(text: str | None) -> Span | None:
    return None if text is None else (text_key(text), text_key(text))


def _integers(least: int | None, greatest: int | None) -> Span | None:
    if least is None and greatest is None:
        return None
    return (
        integer_key(LEAST if least is None else least),
        integer_key(GREATEST if greatest is None else greatest),
    )


def _floats(least: float | None, greatest: float | None) -> Span | None:
    if least is None and greatest is None:
        return None
    return (
        float_key(float("-inf") if least is None else least),
        float_key(float("inf") if greatest is None else greatest),
    )


def _media_types(media_type: str | None) -> Span | None:
    family = media_type_family(media_type)
    if family is None:
        return _text(media_type)
    start = family.encode("utf-8", "surrogatepass")[:TEXT_BYTES]
    return start, start + _ABOVE_TEXT


def media_type_family(media_type: str | None) -> str | None:
    """Return ``image/`` for ``image/*``, and None for an exact media type."""
    return media_type[:-1] if media_type is not None and media_type.endswith("/*") else None
