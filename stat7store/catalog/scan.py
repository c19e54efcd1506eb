"""Finding one page of a query: by walking the sort's index, or by gathering the few that can match."""

from __future__ import annotations

import time
from itertools import islice
from math import isqrt

from stat7store.catalog.base import SORTS, Page, Query
from stat7store.catalog.cursor import decode_cursor, encode_cursor
from stat7store.catalog.indexes import EVERYTHING, INDEXES, Index, Position, Span, media_type_family
from stat7store.catalog.tables import Tables
from stat7store.catalog.walk import walk
from stat7store.errors import Malformed
from stat7store.record import Entry, FileRecord, Locator

_BREATH_ROWS = 64
_BREATH_S = 50e-6


def find_page(tables: Tables, query: Query, limit: int, cursor: str | None, scan_limit: int) -> Page:
    """Return the next page, having looked at ``scan_limit`` entries at most.

    Raises ``Malformed`` for a cursor of another query, a limit below 1, an unknown sort, or NaN.
    """
    if query.sort not in SORTS:
        raise Malformed(f"cannot sort by {query.sort!r}", expected=list(SORTS))
    if limit < 1:
        raise Malformed("a page has at least one entry", expected="a limit of 1 or more", actual=limit)
    return _Search(tables, query, limit, cursor, scan_limit).page()


class _Search:
    def __init__(self, tables: Tables, query: Query, limit: int, cursor: str | None, scan_limit: int) -> None:
        self._tables = tables
        self._query = query
        self._limit = limit
        self._scan_limit = scan_limit
        self._scanned = 0
        self._position = None if cursor is None else decode_cursor(query, cursor)
        self._spans = {index.name: index.span(query) for index in INDEXES}
        self._order = next(index for index in INDEXES if index.name == query.sort)

    def page(self) -> Page:
        numbers = self._fewest()
        return self._walk() if numbers is None else self._gather(numbers)

    def _fewest(self) -> list[int] | None:
        """Return the record numbers that the sharpest filter lets pass; None if that is too many."""
        # Walking finds a page among n matching of all files in about limit × files ÷ n steps,
        # gathering takes n: below the root of the product, gathering is the shorter way.
        most = min(self._scan_limit, isqrt(self._limit * self._tables.state.files))
        best = None
        for index in INDEXES:
            span = self._spans[index.name]
            if span is not None and index is not self._order:
                numbers = _at_most(self._tables, index, span, most)
                if numbers is not None:
                    best, most = numbers, len(numbers)
        return best

    def _gather(self, numbers: list[int]) -> Page:
        found: list[tuple[Position, Entry]] = []
        for number in numbers:
            entry = self._matching(number)
            if entry is not None:
                (key,) = self._order.keys(entry)
                found.append((Position(key, number), entry))
        descending, reached = self._query.descending, self._position
        if reached is not None:
            found = [each for each in found if (each[0] < reached if descending else each[0] > reached)]
        found.sort(key=lambda each: each[0], reverse=descending)
        page = found[: self._limit]
        return self._page([entry for _, entry in page], page[-1][0] if len(found) > self._limit else None)

    def _walk(self) -> Page:
        span = self._spans[self._order.name] or EVERYTHING
        entries: list[Entry] = []
        reached = self._position
        for position in walk(self._tables, self._order, span, reached, descending=self._query.descending):
            if self._scanned == self._scan_limit:
                return self._page(entries, reached)
            entry = self._matching(position.number)
            if entry is not None:
                # one match more than asked for: only then is it known that another page follows
                if len(entries) == self._limit:
                    return self._page(entries, reached)
                entries.append(entry)
            reached = position
        return self._page(entries, None)

    def _matching(self, number: int) -> Entry | None:
        self._scanned += 1
        if self._scanned % _BREATH_ROWS == 0:
            # the event loop needs the interpreter now and then, and gets it only from one who sleeps
            time.sleep(_BREATH_S)
        record = self._tables.record(number)
        if not _record_matches(self._query, record):
            return None
        entry = self._tables.completed(number, record)
        return entry if _locator_matches(self._query, entry.locator) else None

    def _page(self, entries: list[Entry], reached: Position | None) -> Page:
        return Page(entries, self._scanned, None if reached is None else encode_cursor(self._query, reached))


def _record_matches(query: Query, record: FileRecord) -> bool:
    return (
        query.realm in (None, record.realm)
        and query.horizon in (None, record.horizon)
        and query.lineage in (None, record.lineage)
        and (query.adjacency is None or query.adjacency in record.adjacency)
        and _within(query.resonance_min, record.resonance, query.resonance_max)
        and _within(query.velocity_min, record.velocity, query.velocity_max)
        and _within(query.density_min, record.density, query.density_max)
        and (query.tag is None or query.tag in record.tags)
        and (query.name is None or query.name.casefold() in record.filename.casefold())
        and (query.stored_after is None or record.stored_at > query.stored_after)
        and (query.stored_before is None or record.stored_at < query.stored_before)
    )


def _locator_matches(query: Query, locator: Locator) -> bool:
    family = media_type_family(query.media_type)
    if family is not None:
        return locator.media_type.startswith(family)
    return query.media_type in (None, locator.media_type)


def _within(least: float | None, value: float, greatest: float | None) -> bool:
    return (least is None or least <= value) and (greatest is None or value <= greatest)


def _at_most(tables: Tables, index: Index, span: Span, most: int) -> list[int] | None:
    """Return all record numbers of a span; None if they are more than ``most``."""
    if not index.distinct:
        cursor = tables.cursor(index.table)
        if cursor.set_key(span[0]) and cursor.count() > most:
            return None
    numbers = [position.number for position in islice(walk(tables, index, span), most + 1)]
    return numbers if len(numbers) <= most else None
