"""The processes that read and spool, as the one that commits sees them."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from stat7store.errors import NoSpace, Unavailable
from stat7store.importer.channel import Channel
from stat7store.importer.files import Found
from stat7store.importer.gauge import Gauge
from stat7store.importer.spooling import Answer, Brought, Task, Wanted, decode_answer, encode, spool_for
from stat7store.room import Pledges
from stat7store.settings import Settings
from storage.linux import die_with

_TASKS_EACH = 2  # so that none waits for its next one
_CTRL_C = (signal.SIGINT,)


class Batch(NamedTuple):
    """What became of some files, and their open spools, for the caller to close. ``spooler`` is to be told of them."""

    files: list[Brought]
    spools: list[int]
    number: int
    spooler: Spooler


class Spoolers:
    """Processes that share the work. They end with this one, however it ends, and when the context is left."""

    def __init__(self, spoolers: Sequence[Spooler]) -> None:
        """Made by ``forked``."""
        self._spoolers = spoolers
        self._free = asyncio.Semaphore(_TASKS_EACH * len(spoolers))

    @classmethod
    @contextmanager
    def forked(cls, settings: Settings, count: int, gauge: Gauge) -> Iterator[Spoolers]:
        """Start so many for the store of these settings, which ``prepare`` need not have made yet.

        There must be no thread yet, and no open catalog.
        """
        pledges = Pledges.allocate(count)
        started: list[Spooler] = []
        gc.freeze()  # what is not looked at is not copied
        try:
            for number in range(count):
                started.append(_fork(settings, number, pledges, gauge, started))
            yield cls(started)
        finally:
            gauge.stop()
            for spooler in started:
                spooler.close()

    async def spool(self, files: Sequence[Found]) -> Batch:
        """Have files read, and spooled if they are new. Raises ``Unavailable``."""
        async with self._free:
            return await min(self._spoolers, key=lambda one: one.busy).spool(files)


class Spooler:
    """One of them."""

    def __init__(self, process: int, channel: Channel) -> None:
        self._process = process
        self._channel = channel
        self._waiting: deque[tuple[int, asyncio.Future[Batch]]] = deque()
        self._settled: list[int] = []
        self._tasks = 0
        self._listens = False
        self._over = False

    @property
    def busy(self) -> int:
        """How many tasks it has."""
        return len(self._waiting)

    async def spool(self, files: Sequence[Found]) -> Batch:
        """See ``Spoolers``."""
        if self._over:
            raise _ended(None)
        loop = asyncio.get_running_loop()
        if not self._listens:
            loop.add_reader(self._channel, self._receive)
            self._listens = True
        folders: dict[int, int] = {}
        wanted = [Wanted(folders.setdefault(one.folder.file, len(folders)), one.name, one.is_link) for one in files]
        self._tasks += 1
        task = Task(self._tasks, wanted, self._settled)
        answered: asyncio.Future[Batch] = loop.create_future()
        try:
            self._channel.send(encode(task), list(folders))
        except OSError as error:
            raise _ended(error) from error
        self._settled = []
        self._waiting.append((task.number, answered))
        return await answered

    def settle(self, task: int) -> None:
        """Tell that the files of a task are in the catalog, or given up: no room need be held for them."""
        self._settled.append(task)

    def forget(self) -> None:
        """Let go of it in a process that has nothing to do with it."""
        self._channel.close()

    def close(self) -> None:
        """Have it end, and wait for that."""
        self._channel.close()
        os.waitpid(self._process, 0)

    def _receive(self) -> None:
        try:
            message, spools = self._channel.receive()
        except OSError as error:
            self._end(error)
            return
        if not message:
            self._end(None)
            return
        number, answered = self._waiting.popleft()
        answer = decode_answer(message)
        if answered.done():  # nobody waits for it any more
            for spool in spools:
                os.close(spool)
            self.settle(number)
        elif answer.error:
            self.settle(number)
            answered.set_exception(_refusal(answer))
        else:
            answered.set_result(Batch(answer.files, spools, number, self))

    def _end(self, error: OSError | None) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()  # whatever it still says, nobody listens any more
        self._over = True
        while self._waiting:
            _, answered = self._waiting.popleft()
            if not answered.done():
                answered.set_exception(_ended(error))


def _ended(error: OSError | None) -> Unavailable:
    why = f": {error}" if error is not None else ""
    return Unavailable(f"a process of the import that reads files ended before its time{why}")


def _refusal(answer: Answer) -> Unavailable:
    return NoSpace(answer.error) if answer.no_space else Unavailable(answer.error)


def _fork(settings: Settings, number: int, pledges: mmap.mmap, gauge: Gauge, others: Sequence[Spooler]) -> Spooler:
    ours, theirs = Channel.pair()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)  # or the child's first would show where it was
    try:
        process = os.fork()
    finally:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
    if process:
        theirs.close()
        return Spooler(process, ours)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent says when
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
        die_with(parent, signal.SIGKILL)
        ours.close()
        for other in others:
            other.forget()
        gauge.take_place(number)
        asyncio.run(spool_for(theirs, settings, Pledges(pledges, number), gauge))
        code = 0
    except ConnectionError:
        pass  # nobody waits for the answer any more
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # never back into the parent's code
