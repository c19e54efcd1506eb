"""The engine: batches of files from a walk to a destination, several at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from stat7store.importer.files import Changed, Found, delete_source, is_settled
from stat7store.importer.gauge import Gauge
from stat7store.importer.journal import Entry, Journal
from stat7store.importer.outcome import Destination, Outcome, Tally
from stat7store.importer.remembered import address_in
from stat7store.importer.walk import Batch, Known, Passed, Walk, split
from storage.group import GroupCommit

Tell = Callable[[Outcome | Passed], None]
_Records = GroupCommit[list[Entry], None]

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Engine:
    """Brings what a walk finds to a destination.

    ``journal`` is written to unless it is None. ``tell`` hears of every path, of files that are unchanged and
    there only if ``tell_unchanged``. ``at_once`` bounds the batches under way, and so memory and open files.
    ``gauge`` may stop it.
    """

    walk: Walk
    destination: Destination
    journal: Journal | None
    tally: Tally
    tell: Tell
    gauge: Gauge
    at_once: int
    delete_sources: bool = False
    tell_unchanged: bool = False

    async def run(self) -> None:
        """Bring everything. Raises ``Unavailable``; what was brought by then stays, and is in the journal."""
        with ThreadPoolExecutor(1, thread_name_prefix="import-walk") as walker:
            batches = _Ahead(self.walk.batches(), walker)
            records = GroupCommit(self._record, name="import-journal")

            async def bring() -> None:
                while not self.gauge.stopped and (batch := await batches.next()) is not None:
                    await self._bring(batch, records)

            async def bring_or_stop() -> None:
                try:
                    await bring()
                except BaseException:
                    self.gauge.stop()
                    raise

            try:
                ends = await asyncio.gather(*(bring_or_stop() for _ in range(self.at_once)), return_exceptions=True)
            finally:
                await records.close()
        for error in ends:
            if error is not None:
                raise error

    async def _bring(self, batch: Batch, records: _Records) -> None:
        for passed in batch.passed:
            if passed.failed:
                self.tally.summary.files += 1
                self.tally.summary.failed += 1
            else:
                self.tally.summary.skipped += 1
            self.tell(passed)
        for part in split(await self._lost(batch.known) if batch.known else batch.files):
            if self.gauge.stopped:
                return
            await self._take(part, records)

    async def _lost(self, known: Sequence[Known]) -> Sequence[Found]:
        """Return those files that the destination has no more; the others are done with."""
        addresses = [address_in(row) for among in known for row in among.rows]
        present = await self.destination.present(addresses)
        lost: list[Found] = []
        if self.tell_unchanged or not present.issuperset(addresses):
            files = [file for among in known for file in among.found()]
            for file, address in zip(files, addresses, strict=True):
                if address not in present:
                    lost.append(file)
                elif self.tell_unchanged:
                    self.tell(Outcome(file, "there", address))
        size = sum(among.size for among in known) - sum(file.facts.size for file in lost)
        self.tally.count_there(len(addresses) - len(lost), size)
        return lost

    async def _take(self, files: list[Found], records: _Records) -> None:
        begun = time.time_ns()
        outcomes = await self.destination.take(files)
        if self.delete_sources:
            outcomes = await asyncio.to_thread(lambda: [self._delete(outcome) for outcome in outcomes])
        elif self.journal is not None:
            settled = [
                Entry(one.found.folder.path, one.found.name, one.facts, one.address)
                for one in outcomes
                if one.facts is not None and one.address is not None and is_settled(one.facts, begun)
            ]
            if settled:
                await records.do(settled)
        self._settle(outcomes)

    def _record(self, waiting: Sequence[list[Entry]]) -> list[None]:
        assert self.journal is not None  # or nobody would wait
        self.journal.record([entry for entries in waiting for entry in entries])
        return [None] * len(waiting)

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


class _Ahead:
    """Takes batches from a walk in a thread, some at a time, while those before them are handled."""

    def __init__(self, batches: Iterator[Batch], walker: ThreadPoolExecutor) -> None:
        self._batches = batches
        self._walker = walker
        self._found: deque[Batch] = deque()
        self._turn = asyncio.Lock()
        self._coming = self._take()

    async def next(self) -> Batch | None:
        """Return the next one; None if there is none."""
        async with self._turn:
            if not self._found:
                found = await asyncio.wrap_future(self._coming)
                self._found += found
                self._coming = self._take()
            return self._found.popleft() if self._found else None

    def _take(self) -> Future[list[Batch]]:
        return self._walker.submit(lambda: list(islice(self._batches, BATCHES_AHEAD)))
