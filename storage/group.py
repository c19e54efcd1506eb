"""Group commit: callers that wait together share one costly step, such as a sync."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
_Settled = list[tuple[asyncio.Future[Result], Result | BaseException]]


class GroupCommit(Generic[Job, Result]):
    """Runs jobs in batches on one thread of its own.

    ``commit`` gets every job that was waiting when the thread became free (at most ``limit``) and
    returns one outcome for each, in order: a result, or an exception for that caller alone. If it
    raises, every caller of the batch gets that exception. A lone caller never waits for company.
    ``discard`` gets the results whose callers were cancelled meanwhile, for what must be let go of.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Job]], Sequence[Result | BaseException]],
        *,
        name: str,
        limit: int = 256,
        discard: Callable[[Result], None] | None = None,
    ) -> None:
        self._commit = commit
        self._discard = discard
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Waiting[Job, Result] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, job: Job) -> Result:
        """Hand in one job and wait until its batch is through.

        A caller that is cancelled does not take its job back: it may still be carried out.
        """
        if self._closed:
            raise RuntimeError(f"{self._thread.name} is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(_Waiting(job, future, loop))
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # settled just before
                self._let_go(future.result())
            raise

    async def close(self) -> None:
        """Carry out what was handed in, then end the thread; repeats are harmless."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            last = False
            while len(batch) < self._limit:
                try:
                    waiting = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if waiting is None:
                    last = True
                    break
                batch.append(waiting)
            self._settle(batch)
            if last:
                return

    def _settle(self, batch: list[_Waiting[Job, Result]]) -> None:
        outcomes: Sequence[Result | BaseException]
        try:
            outcomes = self._commit([waiting.job for waiting in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{self._thread.name}: {len(outcomes)} outcomes for {len(batch)} jobs")
        except BaseException as error:  # the thread must outlive any one batch
            outcomes = [error] * len(batch)
        by_loop: dict[asyncio.AbstractEventLoop, _Settled[Result]] = {}
        for waiting, outcome in zip(batch, outcomes, strict=True):
            by_loop.setdefault(waiting.loop, []).append((waiting.future, outcome))
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._wake, settled)
            except RuntimeError:  # that loop has ended: nobody waits there any more
                for _, outcome in settled:
                    self._let_go(outcome)

    def _wake(self, settled: _Settled[Result]) -> None:
        for future, outcome in settled:
            if future.done():
                self._let_go(outcome)
            elif isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _let_go(self, outcome: Result | BaseException) -> None:
        if self._discard is not None and not isinstance(outcome, BaseException):
            self._discard(outcome)


class _Waiting(Generic[Job, Result]):
    __slots__ = ("future", "job", "loop")

    def __init__(self, job: Job, future: asyncio.Future[Result], loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.future = future
        self.loop = loop
