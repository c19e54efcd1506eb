"""A state machine that does the same to a catalog and to the model, and compares all they say."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stat7store.address import Address
from stat7store.catalog.base import Catalog, NewFile, Query
from stat7store.errors import Stat7Error
from stat7store.record import HORIZONS, FileRecord
from storage.base import Location
from tests.catalog.making import address_of, listed, new_file, new_location, read_entry
from tests.catalog.model import Model
from tests.catalog.queries import queries

T = TypeVar("T")
NUMBERS = st.integers(0, 7)
ADJACENCIES = st.lists(st.builds(address_of, NUMBERS), max_size=3).map(tuple)


class CatalogMachine(RuleBasedStateMachine):
    """Inherit, and return an open catalog, kept in the folder, from ``open``."""

    def open(self, folder: Path) -> Catalog:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        """Open an empty catalog beside an empty model."""
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.model = Model()
        self.locations: list[Location] = []
        self.runner.run(self._open())

    def teardown(self) -> None:
        self.runner.run(self.catalog.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule(
        number=NUMBERS,
        realm=st.sampled_from(["image", "movie"]),
        size=st.integers(0, 3),
        adjacency=ADJACENCIES,
        tags=st.lists(st.sampled_from(["red", "blue"]), max_size=2).map(tuple),
        again=st.integers(0, 9),
        replaces=st.integers(0, 9),
    )
    def add(
        self,
        number: int,
        realm: str,
        size: int,
        adjacency: tuple[bytes, ...],
        tags: tuple[str, ...],
        again: int,
        replaces: int,
    ) -> None:
        """Add a file, at a new location or one of before; perhaps to replace one of before."""
        file = new_file(number, size=size, realm=realm, adjacency=adjacency, tags=tags)
        before = [location for location in self.locations if location.name == file.location.name]
        location = before[-again] if 1 <= again <= len(before) else file.location
        self.locations.append(location)
        replaced = before[-replaces] if 1 <= replaces <= len(before) else None
        file = NewFile(file.record, size, f"{realm}/x", location, replaces=replaced)
        self._same(lambda: self.catalog.add(file), lambda: self.model.add(file))

    @rule(
        number=NUMBERS,
        adjacency=ADJACENCIES,
        horizon=st.sampled_from(HORIZONS),
        resonance=st.sampled_from([-1.0, -0.0, 0.0, 0.5]),
        realm=st.sampled_from(["image", "movie"]),
        revision=st.sampled_from([None, 1, 2]),
    )
    def update(
        self,
        number: int,
        adjacency: tuple[bytes, ...],
        horizon: str,
        resonance: float,
        realm: str,
        revision: int | None,
    ) -> None:
        """Change what may be changed."""

        def change(record: FileRecord) -> FileRecord:
            return msgspec.structs.replace(
                record, adjacency=adjacency, horizon=horizon, resonance=resonance, realm=realm
            )

        address = address_of(number)
        self._same(
            lambda: self.catalog.update(address, change, revision),
            lambda: self.model.update(address, change, revision),
        )

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        """Remove a file."""
        address = address_of(number)
        self._same(lambda: self.catalog.remove(address), lambda: self.model.remove(address))

    @rule(numbers=st.lists(NUMBERS, max_size=8))
    def add_at_once(self, numbers: list[int]) -> None:
        """Add many files concurrently: as if one after the other, in some order."""
        files = [new_file(number) for number in numbers]

        async def all_at_once() -> list[bool]:
            return [added.created for added in await asyncio.gather(*map(self.catalog.add, files))]

        assert self.runner.run(all_at_once()) == [self.model.add(file).created for file in files]

    @rule(number=NUMBERS, which=st.integers(0, 3))
    def mark_damaged(self, number: int, which: int) -> None:
        """Mark where an entry is, or was."""
        address = address_of(number)
        places = [location for location in self.locations if location.name == str(address)]
        location = places[-which] if 1 <= which <= len(places) else new_location(address)
        self._same(
            lambda: self.catalog.mark_damaged(address, location), lambda: self.model.mark_damaged(address, location)
        )

    @rule(which=st.integers(0, 5))
    def discard(self, which: int) -> None:
        """Discard a location that may be in use."""
        location = self.locations[-which] if 1 <= which <= len(self.locations) else new_location(address_of(which))
        self.locations.append(location)
        self._same(lambda: self.catalog.discard(location), lambda: self.model.discard(location))

    @rule(start=st.integers(0, 2), count=st.integers(0, 3))
    def forget(self, start: int, count: int) -> None:
        """Forget some of the garbage; a location that is forgotten is never used again."""
        gone = self.model.queue[start : start + count]
        self.locations = [location for location in self.locations if location not in gone]
        self._same(lambda: self.catalog.forget_garbage(gone), lambda: self.model.forget_garbage(gone))

    @rule(query=queries(NUMBERS), limit=st.integers(1, 5))
    def search(self, query: Query, limit: int) -> None:
        """List all pages of a query."""
        assert self.runner.run(listed(self.catalog, query, limit)) == self.model.query(query)

    @rule()
    def reopen(self) -> None:
        """Close the catalog, and open it again."""
        self.runner.run(self.catalog.close())
        self.runner.run(self._open())

    @invariant()
    def agrees(self) -> None:
        """Both know the same files, totals and garbage."""
        if hasattr(self, "model"):
            self.runner.run(self._compare())

    async def _compare(self) -> None:
        everything = [address_of(number) for number in range(8)]
        assert await self.catalog.present(everything) == set(self.model.entries)
        for address, entry in self.model.entries.items():
            assert await read_entry(self.catalog, Address(address)) == entry
        assert await self.catalog.counters() == self.model.counters()
        assert await self.catalog.garbage(1000) == self.model.queue

    async def _open(self) -> None:
        self.catalog = self.open(self.folder / "catalog")

    def _same(self, real: Callable[[], Awaitable[T]], model: Callable[[], T]) -> None:
        async def run() -> T:
            return await real()

        expected: T | type[Stat7Error]
        actual: T | type[Stat7Error]
        try:
            expected = model()
        except Stat7Error as error:
            expected = type(error)
        try:
            actual = self.runner.run(run())
        except Stat7Error as error:
            actual = type(error)
        assert actual == expected
