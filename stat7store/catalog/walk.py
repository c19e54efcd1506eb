"""Walking a secondary index in the order of its keys, from one end of a span or from where a walk left off.

What waits among the late rows is walked with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge

from stat7store.catalog.indexes import LAST_NUMBER, Index, Position, Span
from stat7store.catalog.late import late_positions
from stat7store.catalog.tables import Cursor, Tables


def walk(
    tables: Tables, index: Index, span: Span, beyond: Position | None = None, *, descending: bool = False
) -> Iterator[Position]:
    """Yield the positions of a span in order, those up to ``beyond`` (if given) left out."""
    go = _backward if descending else _forward
    walks = [go(tables.new_cursor(index.table), index, part, span, beyond) for part in _parts(tables, index)]
    late = [
        position
        for position in late_positions(tables, index)
        if span[0] <= position.key <= span[1]
        and (beyond is None or (position < beyond if descending else position > beyond))
    ]
    return merge(*walks, reversed(late) if descending else late, reverse=descending)


def _parts(tables: Tables, index: Index) -> list[bytes]:
    if not index.distinct:
        return [b""]  # it is one walk from key to key
    cursor = tables.cursor(index.table)
    parts = []
    there = cursor.first()
    while there:
        parts.append(cursor.key())
        there = cursor.next_nodup()
    return parts


def _forward(cursor: Cursor, index: Index, part: bytes, span: Span, after: Position | None) -> Iterator[Position]:
    low, high = span
    start = Position(low, 0) if after is None else max(Position(low, 0), after)
    if not _seek(cursor, index, part, start):
        return
    for row in cursor.iternext():
        position = index.position(row)
        if position.key > high or (index.distinct and row[0] != part):
            return
        if position != after:
            yield position


def _backward(cursor: Cursor, index: Index, part: bytes, span: Span, before: Position | None) -> Iterator[Position]:
    low, high = span
    end = Position(high, LAST_NUMBER)
    if before is not None:
        end = min(end, before)
    if not (cursor.prev() if _seek(cursor, index, part, end) else cursor.last()):
        return
    for row in cursor.iterprev():
        position = index.position(row)
        if position.key < low or (index.distinct and row[0] != part):
            return
        yield position


def _seek(cursor: Cursor, index: Index, part: bytes, position: Position) -> bool:
    """Go to the first row at or behind a position of a part; return False if there is none."""
    key, value = index.row_in(part, position)
    if not cursor.set_range(key):
        return False
    if cursor.key() != key or cursor.set_range_dup(key, value):
        return True
    return cursor.set_range(key + b"\0")  # all rows of this key lie before the position
