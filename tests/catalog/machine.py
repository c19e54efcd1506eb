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
from stat7store.catalog.base import Catalog, ImmediateCatalog, Intent, NewFile, Query
from stat7store.errors import Stat7Error
from stat7store.record import HORIZONS, FileRecord, Place
from tests.catalog.making import address_of, listed, new_file, new_place, read_entry
from tests.catalog.model import Model
from tests.catalog.queries import queries

T = TypeVar("T")
NUMBERS = st.integers(0, 7)
BACKENDS = st.integers(0, 2)
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
        self.places: list[Place] = []
        self.now = 0
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
        backend=BACKENDS,
        again=st.integers(0, 9),
        replaces=st.integers(0, 9),
        intended=st.booleans(),
    )
    def add(
        self,
        number: int,
        realm: str,
        size: int,
        adjacency: tuple[bytes, ...],
        tags: tuple[str, ...],
        backend: int,
        again: int,
        replaces: int,
        intended: bool,
    ) -> None:
        """Add a file, at a new place or one of before; perhaps to replace one of before, perhaps as intended."""
        record = new_file(number, realm=realm, adjacency=adjacency, tags=tags).record
        place = self._place(number, again, backend)
        replaced = self._place(number, replaces, backend) if replaces else None
        self.places.append(place)
        intended = intended or place in self.model.intents  # whoever has an intent says so
        file = NewFile(record, size, f"{realm}/x", place.location, place.backend, replaced, intended)
        self._same(lambda: self.catalog.add(file), lambda: self.model.add(file))

    @rule(number=NUMBERS, backend=BACKENDS)
    def intend(self, number: int, backend: int) -> None:
        """Keep an intent for a new place."""
        self.now += 1
        intent = Intent(new_place(address_of(number), backend), self.now, f"owner {number}")
        self.places.append(intent.place)
        self._same(lambda: self.catalog.intend(intent), lambda: self.model.intend(intent))

    @rule(number=NUMBERS, which=st.integers(0, 3), backend=BACKENDS)
    def withdraw_intent(self, number: int, which: int, backend: int) -> None:
        """Withdraw the intent for a place that may have none."""
        place = self._place(number, which, backend)
        self._same(lambda: self.catalog.withdraw_intent(place), lambda: self.model.withdraw_intent(place))

    @rule(number=NUMBERS, backend=BACKENDS, which=st.integers(0, 4), other=st.integers(0, 4), intended=st.booleans())
    def relocate(self, number: int, backend: int, which: int, other: int, intended: bool) -> None:
        """Point an entry at another place, from where it may not be."""
        address = address_of(number)
        old, new = self._place(number, which, backend), self._place(number, other, backend)
        standing = self.model.entries.get(address)
        if which == 4 and standing is not None:
            old = standing.locator.place
        if old == new:
            return  # nobody copies a blob onto itself
        self.places.append(new)
        intended = intended or new in self.model.intents
        self._same(
            lambda: self.catalog.relocate(address, old, new, intended=intended),
            lambda: self.model.relocate(address, old, new, intended=intended),
        )

    @rule(backend=BACKENDS, limit=st.integers(1, 4))
    def elsewhere(self, backend: int, limit: int) -> None:
        """List all files that are not on a backend, some at a time."""

        async def all_of_them() -> dict[bytes, int]:
            found: dict[bytes, int] = {}
            after = None
            while True:
                some = await self.catalog.elsewhere(backend, limit, after)
                assert len(some.files) <= limit
                found |= {address: locator.number for address, locator in some.files}
                if some.reached is None:
                    return found
                after = some.reached

        expected = sorted(
            (address, entry.locator.number)
            for address, entry in self.model.entries.items()
            if entry.locator.backend != backend
        )
        assert list(self.runner.run(all_of_them()).items()) == expected

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
        place = self._place(number, which)

        def marked() -> None:
            self.model.mark(address, place, damaged=True)

        self._same(lambda: self.catalog.mark_damaged(address, place), marked)

    @rule(number=NUMBERS, which=st.integers(0, 3))
    def mark_sound(self, number: int, which: int) -> None:
        """Take the mark back where an entry is, or was."""
        address = address_of(number)
        place = self._place(number, which)
        self._same(
            lambda: self.catalog.mark_sound(address, place), lambda: self.model.mark(address, place, damaged=False)
        )

    @rule(which=st.integers(0, 5))
    def discard(self, which: int) -> None:
        """Discard a place that may be in use, or intended to be."""
        place = self.places[-which] if 1 <= which <= len(self.places) else new_place(address_of(which))
        self.places.append(place)
        self._same(lambda: self.catalog.discard(place), lambda: self.model.discard(place))

    @rule(start=st.integers(0, 2), count=st.integers(0, 3))
    def forget(self, start: int, count: int) -> None:
        """Forget some of the garbage; a place that is forgotten is never used again, but by whoever intended it."""
        gone = self.model.queue[start : start + count]
        self.places = [place for place in self.places if place not in gone]
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
            if isinstance(self.catalog, ImmediateCatalog):
                for _ in range(2):  # the second time it is known
                    found = self.catalog.find_now(address)
                    assert found is not None
                    assert found[0] == entry
        assert await self.catalog.counters() == self.model.counters()
        assert await self.catalog.garbage(1000) == self.model.queue
        for before in (self.now // 2, self.now + 1):
            expected = [intent for intent in self.model.intents.values() if intent.since < before]
            assert await self.catalog.intents(before) == expected

    def _place(self, number: int, which: int, backend: int = 0) -> Place:
        """Return one of the last places of a file, the last being 1; or a new one on a backend."""
        address = address_of(number)
        before = [place for place in self.places if place.location.name == str(address)]
        return before[-which] if 1 <= which <= len(before) else new_place(address, backend)

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
