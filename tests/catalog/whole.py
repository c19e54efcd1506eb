"""Looking into an LMDB catalog behind its back: is every table what the entries say it must be?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from stat7store.catalog.codec import unpack_number
from stat7store.catalog.indexes import INDEXES, Position
from stat7store.catalog.late import late_positions
from stat7store.catalog.tables import GARBAGE, GARBAGE_PLACES, INDEX, RECORDS, State, Tables


class Raw:
    """A transaction on a catalog, without the catalog."""

    def __init__(self, environment: lmdb.Environment, transaction: lmdb.Transaction[bytes]) -> None:
        self._environment = environment
        self.transaction = transaction

    def table(self, name: str) -> lmdb.Cursor[bytes]:
        """Return a cursor on a table that exists."""
        return self.transaction.cursor(self.database(name))

    def database(self, name: str) -> lmdb._Database:
        """Return a table that exists."""
        return self._environment.open_db(name.encode(), txn=self.transaction, create=False)

    def rows(self, name: str) -> list[tuple[bytes, bytes]]:
        """Return all rows of a table."""
        return list(self.table(name))


@contextmanager
def raw(folder: Path, *, write: bool = False) -> Iterator[Raw]:
    """Open a catalog behind its back; it must not be open in this process."""
    with (
        lmdb.open(str(folder), max_dbs=32, map_size=1 << 30) as environment,
        environment.begin(write=write) as transaction,
    ):
        yield Raw(environment, transaction)


def assert_whole(folder: Path) -> set[bytes]:
    """Check index, records, secondary indexes, garbage and totals against each other.

    Return all addresses. The catalog must be closed in this process.
    """
    with raw(folder) as behind:
        tables = Tables(behind.table, {})
        entries = [tables.numbered(unpack_number(key)) for key, _ in behind.rows(RECORDS)]
        addresses = {key for key, _ in behind.rows(INDEX)}
        assert addresses == {entry.record.address for entry in entries}
        assert len(addresses) == len(entries)
        for index in INDEXES:
            late = [index.row(position) for position in late_positions(tables, index)]
            expected = Counter(
                index.row(Position(bytes(key), entry.locator.number))
                for entry in entries
                for key in set(index.keys(entry))
            )
            assert Counter([*behind.rows(index.table), *late]) == expected, index.name
        queue = dict(behind.rows(GARBAGE))
        places = behind.rows(GARBAGE_PLACES)
        assert sorted(queue) == sorted(sequence for _, sequence in places)
        used = {entry.locator.place for entry in entries}
        assert used.isdisjoint(tables.garbage(len(queue)))
        intended = {intent.place for intent in tables.intents(1 << 60)}
        assert intended.isdisjoint(used)
        assert intended.isdisjoint(tables.garbage(len(queue)))
        counted = State(garbage=len(queue))
        for entry in entries:
            counted.count(entry, 1)
            assert all(neighbour in addresses for neighbour in entry.record.adjacency)
        state = tables.state
        counted.next_number, counted.next_garbage = state.next_number, state.next_garbage
        assert state == counted
        assert all(entry.locator.number < state.next_number for entry in entries)
    return addresses
