"""A state machine that does the same to a store and to a model in memory, and compares all they say."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from stat7store.address import Address
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, NotFound
from stat7store.small import SmallFiles
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.verifying import Tally
from storage.base import Spool
from storage.filesystem import FilesystemBlobs
from tests.faults.clients import Files

T = TypeVar("T")
Holds = Literal["whole", "altered", "damaged"]  # altered: by so little that only a scrub will notice

NUMBERS = st.integers(0, 1)  # few, so that what happens to a file meets what happened to it before


class StoreMachine(RuleBasedStateMachine):
    """A store over files. Inherit, and say in ``root`` where its 4096 folders are, which serve every example."""

    root: Path

    @initialize()
    def begin(self) -> None:
        """Open an empty store beside an empty model."""
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.files = Files()
        self.model: dict[int, Holds] = {}
        self.orphans = 0
        self.living: list[Spool] = []
        self._do(self._open())

    async def _open(self) -> None:
        self.closing = AsyncExitStack()
        catalog = LmdbCatalog(self.folder)
        self.closing.push_async_callback(catalog.close)
        self.blobs = FilesystemBlobs(self.root)
        self.closing.push_async_callback(self.blobs.close)
        small = SmallFiles(catalog, self.blobs, 0)
        self.closing.push_async_callback(small.close)
        self.store = Store(catalog, self.blobs, small=small)

    def _do(self, work: Coroutine[object, object, T]) -> T:
        return self.runner.run(work)

    @rule(number=NUMBERS)
    def upload(self, number: int) -> None:
        """What is uploaded is there from then on; what was found to be damaged is whole again."""
        added = self._do(self._uploaded(number))
        assert added == (number not in self.model)
        if self.model.get(number) != "altered":
            self.model[number] = "whole"

    async def _uploaded(self, number: int) -> bool:
        async with self.store.upload(f"{number}.jpg") as upload:
            await upload.write(self.files.data(number))
            return (await upload.commit()).created

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        """A delete is final, also that of a damaged file."""
        try:
            self._do(self.store.delete(self._address(number)))
        except NotFound:
            assert number not in self.model
        else:
            del self.model[number]

    @rule(number=NUMBERS)
    def read(self, number: int) -> None:
        """A file is read as it was stored, or it is damaged, or there is none."""
        try:
            data = self._do(self._read(number))
        except NotFound:
            assert number not in self.model
        except Damaged:
            assert self.model[number] == "damaged"
        else:
            assert (data == self.files.data(number)) == (self.model[number] == "whole")

    async def _read(self, number: int) -> bytes:
        clock, address = StageClock(), self._address(number)
        entry = await self.store.find(address, clock)
        reader = await self.store.open(address, entry.locator, None, clock)
        try:
            pieces = []
            while piece := await reader.read(1 << 20):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            reader.close()

    @rule(number=NUMBERS, how=st.sampled_from(["missing", "cut", "flipped"]))
    def corrupt(self, number: int, how: Literal["missing", "cut", "flipped"]) -> None:
        """Harm a blob behind the store's back."""
        if self.model.get(number) != "whole":
            return
        path = self.root / str(self._do(self.store.entry(self._address(number))).locator.location)
        if how == "missing":
            path.unlink()
        elif how == "cut":
            os.truncate(path, 10)
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        self.model[number] = "altered" if how == "flipped" else "damaged"

    @rule()
    def scrub(self) -> None:
        """A scrub finds all that is damaged, and all orphans, and nothing else."""
        tally = Tally()
        self._do(self.store.verifier(tally, lambda finding: None, bytes_per_s=1e12, jobs=1).run())
        self.model = {number: "whole" if holds == "whole" else "damaged" for number, holds in self.model.items()}
        assert (tally.files, tally.damaged) == (len(self.model), sum(map("damaged".__eq__, self.model.values())))
        assert tally.orphans == self.orphans

    @rule(number=NUMBERS)
    def leave_an_orphan(self, number: int) -> None:
        """Put a blob and die before the catalog is told."""
        self._do(self._put(number)).close()
        self.orphans += 1

    @rule(number=NUMBERS)
    def put_and_wait(self, number: int) -> None:
        """Put a blob, and take long to tell the catalog."""
        self.living.append(self._do(self._put(number)))

    async def _put(self, number: int) -> Spool:
        spool = await self.blobs.spool()
        spool.append(self.files.data(number))
        await self.blobs.put(spool, self.files.address(number))
        return spool

    @rule()
    def sweep_orphans(self) -> None:
        """A sweep takes the orphans, and leaves the living alone."""
        assert self._do(self.store.sweep_orphans()) == self.orphans
        self.orphans = 0

    @rule()
    def sweep_garbage(self) -> None:
        """A sweep of garbage leaves none in the queue."""
        self._do(self.store.sweep_garbage())
        assert self._do(self.store.counters()).garbage == 0

    @precondition(lambda self: self.living)
    @rule()
    def die(self) -> None:
        """Whoever took so long is gone, and what he put is an orphan."""
        for spool in self.living:
            spool.close()
        self.orphans += len(self.living)
        self.living.clear()

    @rule()
    def reopen(self) -> None:
        """What is known survives the process."""
        self._do(self.closing.aclose())
        self._do(self._open())

    def teardown(self) -> None:
        """Sweep: exactly the blobs of the entries are left. Then make the folders empty again."""
        for spool in self.living:
            spool.close()
        self._do(self.store.sweep_orphans())
        self._do(self.store.sweep_garbage())
        missing = {self.files.address(number) for number, holds in self.model.items() if holds == "damaged"}
        left = [path.name[:64] for path in self._blobs()]
        assert len(left) == len({*left})
        known = {self.files.address(number) for number in self.model}
        assert known - missing <= {*left} <= known
        assert self._do(self.store.counters()).files == len(known)
        self._do(self.closing.aclose())
        self.runner.close()
        for path in self._blobs():
            path.unlink()
        shutil.rmtree(self.folder)

    def _blobs(self) -> list[Path]:
        folders = {self.files.address(number)[:3] for number in range(2)}
        return [path for folder in folders for path in (self.root / folder).iterdir()]

    def _address(self, number: int) -> Address:
        return Address.of(self.files.data(number))
