"""Breaking a process at one system call of one thread, and looking at the store that it leaves."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from stat7store.errors import Damaged, NotFound
from stat7store.opening import open_store, opened, prepare
from stat7store.settings import Settings
from stat7store.verifying import Finding, Tally
from tests.faults import steps
from tests.faults.steps import CUT, DOOMED, GARBAGE, KEPT, LAST, ORPHAN, UPLOADS, Said, address_of, fetch, photo

Case = TypeVar("Case")

_TIMEOUT_S = 60.0
_TRIES = 20
_MANY = 40  # of more calls of one thread than that only the first are taken: those that list 4096 folders are alike


def shuffled(cases: Sequence[Case]) -> list[Case]:
    """Return the cases in random order, which is printed, so that it is shown with a failure and can be repeated."""
    seed = int(os.environ.get("TEST_SEED") or random.randrange(1 << 32))
    print(f"TEST_SEED={seed} repeats this order")
    return random.Random(seed).sample(cases, len(cases))


class Point(NamedTuple):
    """The ``number``-th call (from 1 on) of this name in a thread."""

    thread: str
    call: str
    number: int


class Broken(NamedTuple):
    """How a run went: what the program said, and its exit code."""

    said: list[Said]
    code: int | None
    met: bool  # whether the program came to the point

    def done(self, step: str) -> bool:
        """Tell whether a step was acknowledged."""
        return Said(step, "") in self.said

    @property
    def failures(self) -> list[str]:
        """The classes of the errors that steps raised."""
        return [said.failure for said in self.said if said.failure]


class Checked(NamedTuple):
    """What was found of a store: acknowledged files that were not there whole, and other bytes than were stored."""

    lost: list[str]
    wrong: list[str]


class Template:
    """A store to be broken again and again, put back to its beginning in between."""

    def __init__(self, data: Path) -> None:
        """Make it in the folder ``data``."""
        self.data = data
        prepare(Settings(data=data))
        asyncio.run(_fill(data))
        self._folders = {str(address_of(role))[:3] for role in steps.ROLES}
        self._blobs = {path: path.read_bytes() for path in blobs_in(data)}
        self._catalog = (data / "catalog" / "data.mdb").read_bytes()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([steps.__name__])
        self._context = context

    def put_back(self) -> None:
        """Make the store what it was at first."""
        for folder in self._folders:
            for path in (self.data / "blobs" / folder).iterdir():
                path.unlink()
        for path, data in self._blobs.items():
            path.write_bytes(data)
        for path in (self.data / "catalog").iterdir():
            path.unlink()
        (self.data / "catalog" / "data.mdb").write_bytes(self._catalog)

    def traced(self, calls: Sequence[str]) -> tuple[Path, dict[int, str]]:
        """Run the program to its end; return the trace of these calls, and the names of the threads by number."""
        self.put_back()
        trace = self.data.with_name("calls")
        with self._begun() as (process, connection, threads):
            options = (f"-p{process.pid}", f"-etrace={','.join(calls)}", "-y", "-s200", f"-o{trace}")
            with _strace("-f", *options, whole=True):
                _go_on(process, connection)
        return trace, {number: name for name, number in threads.items()}

    def points(self, calls: Sequence[str]) -> list[Point]:
        """Return all points at which the program makes one of these calls."""
        trace, names = self.traced(calls)
        counts: Counter[tuple[str, str]] = Counter()
        for line in trace.read_text().splitlines():
            begun = re.match(r"(\d+) +(\w+)\(", line)
            # strace also shows calls that it does not know by name (syscall_0x1c3), asked for or not
            if begun and int(begun[1]) in names and begun[2] in calls:
                counts[names[int(begun[1])], begun[2]] += 1
        return [
            Point(thread, call, number)
            for (thread, call), count in sorted(counts.items())
            for number in range(1, min(count, _MANY) + 1)
        ]

    def broken(self, point: Point, what: str) -> Broken:
        """Run the program from the beginning, and break it there: ``signal=KILL``, ``error=EIO`` or the like."""
        trace = self.data.with_name("trace")
        with self._begun_with(point.thread) as (process, connection, threads):
            inject = f"-einject={point.call}:{what}:when={point.number}"
            with _strace(f"-p{threads[point.thread]}", f"-etrace={point.call}", inject, f"-o{trace}"):
                said = _go_on(process, connection)
            code = process.exitcode
        return Broken(said, code, code == -9 or "(INJECTED)" in trace.read_text())

    @contextmanager
    def _begun_with(self, thread: str) -> Iterator[tuple[BaseProcess, Connection, dict[str, int]]]:
        """Begin the program; again if it has no thread of this name, of which pools start as many as they need."""
        for _ in range(_TRIES):
            self.put_back()
            with self._begun() as begun:
                if thread in begun[2]:
                    yield begun
                    return
        raise AssertionError(f"none of {_TRIES} runs had a thread {thread!r}")

    @contextmanager
    def _begun(self) -> Iterator[tuple[BaseProcess, Connection, dict[str, int]]]:
        ours, its = self._context.Pipe()
        process = self._context.Process(target=steps.run, args=(its, self.data), daemon=True)
        process.start()
        its.close()
        try:
            assert ours.poll(_TIMEOUT_S)
            yield process, ours, ours.recv()
        finally:
            process.kill()
            process.join()
            ours.close()


@contextmanager
def _strace(*options: str, whole: bool = False) -> Iterator[None]:
    """Trace for the length of the context. ``whole``: wait until it has attached to every thread."""
    program = shutil.which("strace")
    if program is None:
        told = "strace is missing; on Debian: apt-get install strace"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    with subprocess.Popen([program, *options], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        told = tracer.stderr.readline()
        assert "attached" in told, told
        if whole:
            assert re.search(r"with \d+ threads", told), told
        yield
        tracer.stderr.read()


def _go_on(process: BaseProcess, connection: Connection) -> list[Said]:
    """Tell the program to go on; return what it says until its end."""
    connection.send(None)
    said = []
    try:
        while connection.poll(_TIMEOUT_S):
            said.append(connection.recv())
    except (EOFError, ConnectionResetError):
        pass
    process.join(_TIMEOUT_S)
    return said


def blobs_in(data: Path) -> list[Path]:
    """Return the files that hold blobs, in order."""
    return sorted((data / "blobs").glob("???/*"))


async def _fill(data: Path) -> None:
    settings = Settings(data=data)
    async with open_store(settings) as store:
        for role in (KEPT, DOOMED, CUT, GARBAGE):
            await steps.upload(store, role)
        cut = (await store.entry(address_of(CUT))).locator.location
        await store.delete(address_of(GARBAGE))
    os.truncate(data / "blobs" / str(cut), 100)
    async with opened(settings) as (_, backends):
        spool = await backends.blobs.spool()
        spool.append(photo(ORPHAN))
        await backends.blobs.put(spool, str(address_of(ORPHAN)))
        spool.close()


async def look_at(data: Path, broken: Broken) -> Checked:
    """Open the store that a run has left; assert that it is whole, and say what became of its files.

    Whatever was not acknowledged may be there or not, but whole. After one sweep there are exactly
    the blobs that entries point at, and the next upload succeeds.
    """
    lost, wrong = [], []
    async with open_store(Settings(data=data)) as store:
        there = set()
        for role in steps.ROLES:
            must = role == KEPT or (role in UPLOADS and broken.done(role))
            try:
                same = await fetch(store, role) == photo(role)
            except NotFound:
                if must or (role == CUT):
                    lost.append(role)
                continue
            except Damaged:
                assert role == CUT, f"{role} is half there"
                there.add(role)
                if must:
                    lost.append(role)
                continue
            there.add(role)
            if not same or role in (GARBAGE, ORPHAN) or (role == DOOMED and broken.done(DOOMED)):
                wrong.append(role)
        await store.sweep_orphans()
        await store.sweep_garbage()
        found: list[Finding] = []
        tally = Tally()
        await store.verifier(tally, found.append, bytes_per_s=1e12, jobs=2).run()
        assert all(finding.name == str(address_of(CUT)) for finding in found), found
        assert tally.orphans == tally.records == tally.unreadable == 0
        entries = [await store.entry(address_of(role)) for role in there]
        assert blobs_in(data) == sorted(data / "blobs" / str(entry.locator.location) for entry in entries)
        assert (await store.counters()).files == len(there)
        await steps.upload(store, LAST)
        assert await fetch(store, LAST) == photo(LAST)
    assert list((data / "blobs" / "spool").iterdir()) == []
    return Checked(lost, wrong)
