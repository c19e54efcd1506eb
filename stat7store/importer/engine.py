"""The engine: batches of files from a walk to a destination, several at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from msgspec.structs import replace

from stat7store.importer.files import Changed, Found, delete_source, is_settled
from stat7store.importer.journal import Journal
from stat7store.importer.outcome import Destination, Outcome, Tally
from stat7store.importer.walk import NEW_FILES, Batch, Passed, Walk

Tell = Callable[[Outcome | Passed], None]


@dataclass(frozen=True)
class Engine:
    """Brings what a walk finds to a destination.

    ``journal`` is written to unless it is None. ``tell`` hears of every path. ``at_once`` bounds
    the batches under way, and so memory and open files. When ``stop`` is set, what is under way is
    finished or let go of, and nothing is begun.
    """

    walk: Walk
    destination: Destination
    journal: Journal | None
    tally: Tally
    tell: Tell
    stop: threading.Event
    at_once: int
    delete_sources: bool = False

    async def run(self) -> None:
        """Bring everything. Raises ``Unavailable``; what was brought by then stays, and is in the journal."""
        turn = asyncio.Lock()
        batches = self.walk.batches()
        with ThreadPoolExecutor(1, thread_name_prefix="import-walk") as walker:

            async def bring() -> None:
                loop = asyncio.get_running_loop()
                while not self.stop.is_set():
                    async with turn:
                        batch = await loop.run_in_executor(walker, next, batches, None)
                    if batch is None:
                        return
                    await self._bring(batch)

            async def bring_or_stop() -> None:
                try:
                    await bring()
                except BaseException:
                    self.stop.set()
                    raise

            ends = await asyncio.gather(*(bring_or_stop() for _ in range(self.at_once)), return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def _bring(self, batch: Batch) -> None:
        for passed in batch.passed:
            if passed.failed:
                self.tally.summary.files += 1
                self.tally.summary.failed += 1
            else:
                self.tally.summary.skipped += 1
            self.tell(passed)
        new: Sequence[Found] = batch.files
        if batch.known and batch.files:
            present = await self.destination.present([found.known for found in batch.files if found.known])
            new = [found for found in batch.files if found.known not in present]
            self._settle([Outcome(found, "there", found.known) for found in batch.files if found.known in present])
        rest = iter(new)
        while part := list(itertools.islice(rest, NEW_FILES)):
            if self.stop.is_set():
                return
            await self._take(part)

    async def _take(self, files: list[Found]) -> None:
        begun = time.time_ns()
        outcomes = await self.destination.take(files)
        if self.delete_sources:
            outcomes = await asyncio.to_thread(lambda: [self._delete(outcome) for outcome in outcomes])
        elif self.journal is not None:
            entries = [
                (one.found.folder.path, one.found.name, one.facts, one.address)
                for one in outcomes
                if one.facts is not None and one.address is not None and is_settled(one.facts, begun)
            ]
            if entries:
                await asyncio.to_thread(self.journal.record, entries)
        self._settle(outcomes)

    def _delete(self, outcome: Outcome) -> Outcome:
        if outcome.facts is None or outcome.found.is_link:
            return outcome
        try:
            delete_source(outcome.found, outcome.facts)
        except (OSError, Changed) as error:
            reason = getattr(error, "strerror", None) or "it changed"
            return replace(outcome, kind="failed", reason=f"it is stored, but was not deleted: {reason}")
        self.tally.summary.deleted += 1
        return outcome

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.tally.count(outcome)
            self.tell(outcome)
