"""One of several processes that upload, delete, read and sweep the same few files, and check all that they see."""

from __future__ import annotations

import asyncio
import mmap
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from stat7store.address import Address
from stat7store.errors import NotFound
from stat7store.opening import open_store
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.timing import StageClock
from tests.faults.clients import Files

PROCESSES = 8
NUMBERS = range(3)
_TASKS = 3  # at a time in each process
_PAUSES_S = (*(0.0,) * 9, 0.002)  # between finding a file and opening it: long enough for it to be swept
_ORPHANS_EVERY = 2000  # a sweep for orphans lists 4096 folders


class Deletes:
    """Counts the deletes of each file that were begun, and those that ended, over all processes.

    Every process has counts of its own, so that no two write the same.
    """

    def __init__(self, path: Path, process: int) -> None:
        """``path`` is a file that ``make`` has made."""
        with path.open("r+b") as file:
            self._counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._own = process * len(NUMBERS) * 2

    @staticmethod
    def make(path: Path) -> None:
        """Make the file, with all counts at zero."""
        path.write_bytes(bytes(8 * PROCESSES * len(NUMBERS) * 2))

    def begin(self, number: int) -> None:
        """Count a delete before it is asked for."""
        self._counts[self._own + 2 * number] += 1

    def end(self, number: int) -> None:
        """Count it after the answer."""
        self._counts[self._own + 2 * number + 1] += 1

    def begun(self, number: int) -> int:
        """Return how many were begun."""
        return sum(self._counts[2 * number :: 2 * len(NUMBERS)])

    def begun_if_quiet(self, number: int) -> int | None:
        """Return how many were begun if just now none was under way."""
        ended = sum(self._counts[2 * number + 1 :: 2 * len(NUMBERS)])  # first: so it was so at one moment
        begun = self.begun(number)
        return begun if begun == ended else None


class Raced(NamedTuple):
    """How many operations there were, and in how many uploads it was certain that the file had to be there."""

    operations: int = 0
    uploads: int = 0
    certain: int = 0
    reads: int = 0
    deletes: int = 0
    sweeps: int = 0


def run(connection: Connection, data: Path, process: int, operations: int) -> None:
    """Do so many operations; send what was done. Whatever is not as it must be is raised."""
    connection.send(asyncio.run(Racer(data, process).run(operations)))


class Racer:
    """One process's part of the race."""

    def __init__(self, data: Path, process: int) -> None:
        self._data = data
        self._files = [Files().data(number) for number in NUMBERS]
        self._chance = random.Random(process)
        self._deletes = Deletes(data.with_name("deletes"), process)
        self._counts = dict.fromkeys(Raced._fields, 0)

    async def run(self, operations: int) -> Raced:
        """Race."""
        async with open_store(Settings(data=self._data)) as store:
            turns = iter(range(1, operations + 1))
            await asyncio.gather(*(self._work(store, turns) for _ in range(_TASKS)))
        return Raced(**self._counts)

    async def _work(self, store: Store, turns: Iterator[int]) -> None:
        for turn in turns:
            self._counts["operations"] += 1
            number, drawn = self._chance.choice(NUMBERS), self._chance.random()
            if turn % _ORPHANS_EVERY == 200:
                await store.sweep_orphans()
                self._counts["sweeps"] += 1
            elif drawn < 0.4:
                await self._upload(store, number)
            elif drawn < 0.5:
                await self._delete(store, number)
            elif drawn < 0.52:
                await store.sweep_garbage()
                self._counts["sweeps"] += 1
            else:
                await self._is_there(store, number)
                self._counts["reads"] += 1

    async def _upload(self, store: Store, number: int) -> None:
        """Upload, and look: if no delete was under way or begun meanwhile, the file is there."""
        quiet = self._deletes.begun_if_quiet(number)
        async with store.upload(f"{number}.jpg") as upload:
            await upload.write(self._files[number])
            await upload.commit()
        there = await self._is_there(store, number)
        certain = quiet is not None and self._deletes.begun(number) == quiet
        assert there or not certain, f"file {number} was acknowledged, not deleted, and is gone"
        self._counts["uploads"] += 1
        self._counts["certain"] += certain

    async def _delete(self, store: Store, number: int) -> None:
        self._deletes.begin(number)
        try:
            await store.delete(Address.of(self._files[number]))
        except NotFound:
            pass
        finally:
            self._deletes.end(number)
        self._counts["deletes"] += 1

    async def _is_there(self, store: Store, number: int) -> bool:
        """Read a file whole; whatever is there is right. Raises if it is half there."""
        clock, address = StageClock(), Address.of(self._files[number])
        try:
            entry = await store.find(address, clock)
            await asyncio.sleep(self._chance.choice(_PAUSES_S))
            reader = await store.open(address, entry.locator, None, clock)
        except NotFound:
            return False
        try:
            pieces = []
            while piece := await reader.read(1 << 20):
                pieces.append(piece)
        finally:
            reader.close()
        assert b"".join(pieces) == self._files[number], f"other bytes than those of file {number}"
        return True
