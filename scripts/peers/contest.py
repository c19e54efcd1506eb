"""Those who are measured: each peer as it runs now, and the raw writes that servers are held against."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import psutil

from scripts.peers.asking import CannotAsk, asks_of, writes_of
from scripts.peers.cases import HUGE, Case, Kind
from scripts.peers.client import generate, wrk
from scripts.peers.files import File, Shape
from scripts.peers.open_loop import open_loop
from scripts.peers.peer import Peer
from scripts.peers.processes import CHECKOUT, cpu_seconds, pinned
from scripts.peers.work import Ask, Done, Work
from stat7store.errors import Unavailable

_OPEN_CONNECTIONS = 64
_OPEN_S = 2.0  # enough requests for a p99, at any rate worth one
_READ_AGAIN_S = 60.0
_HUGE_S = 4  # a slow peer answers but a few in that time
_WRITTEN_SHARE = 0.3


class Floor(NamedTuple):
    """A program that writes files as durably as a server does, without one."""

    name: str
    module: str
    remark: str


FLOORS = (
    Floor(
        "raw writes",
        "scripts.peers.raw_writes",
        "no server: files hashed, written, and one sync of the filesystem for as many as there are connections",
    ),
    Floor(
        "raw ordered writes",
        "scripts.peers.ordered_writes",
        "no server: a thread for each connection makes the syncs of one upload to stat7, one after the other and "
        "shared with nobody: file, folder, the catalog's pages, the catalog's first page",
    ),
)


@dataclass(frozen=True)
class Found:
    """One round: what the client tells, the cores that the server kept busy, the rate that was due (open loop)."""

    done: Done
    server_cpu: float
    rate: float = 0.0


class Contestant(Protocol):
    """Someone who is measured."""

    @property
    def name(self) -> str: ...

    def takes(self, case: Case) -> bool:
        """Whether a case is for it at all."""

    def begin(self, case: Case, seconds: float) -> None:
        """Make ready for a case and warm up. Raises ``CannotAsk``."""

    def measure(self, case: Case, seconds: float) -> Found:
        """Measure one round of the case that was begun."""


class Served:
    """A peer that runs: its processes, its port, its files, and the client's core."""

    def __init__(
        self,
        peer: Peer,
        folder: Path,
        port: int,
        processes: Sequence[psutil.Process],
        core: int,
        files: Mapping[int, Sequence[File]],
        shapes: Mapping[int, Shape],
        tags: Mapping[str, str],
    ) -> None:
        self.name = peer.name
        self._peer, self._folder, self._port, self._processes, self._core = peer, folder, port, processes, core
        self._files, self._shapes, self._tags = files, shapes, tags
        self._asks: list[Ask] = []
        self._rate = 0.0

    def takes(self, case: Case) -> bool:
        return True

    def begin(self, case: Case, seconds: float) -> None:
        files = self._files.get(case.file_size, [])
        self._asks = asks_of(
            case, self._peer, self._port, files, {file.address: self._tags[file.address] for file in files}
        )
        writes_of(case, self._peer, self._shapes[case.file_size])
        if case.kind is Kind.COLD:
            self.drop()  # what cannot be dropped is not measured
            return
        if case.kind is Kind.OPEN:
            for _ in range(2):  # the first is to warm up
                top = wrk(self._asks, self._port, case.connections, max(round(seconds), 1), self._core)
            self._rate = top.per_second / 2
        self.measure(case, min(seconds, 1.0))

    def measure(self, case: Case, seconds: float) -> Found:
        if case.kind is Kind.COLD:
            self.drop()
        cpu = cpu_seconds(self._processes)
        done = self._load(case, seconds)
        busy = (cpu_seconds(self._processes) - cpu) / done.seconds
        if case.writes or case.with_access_log:
            os.sync()  # what this one did not sync must not be written while the next is measured
        return Found(done, busy, self._rate if case.kind is Kind.OPEN else 0.0)

    def drop(self) -> None:
        """Drop the bytes of all its files from the page cache. Raises ``CannotAsk`` if they cannot be."""
        blobs = self._peer.blobs(self._folder)
        if blobs is None:
            raise CannotAsk("what it keeps in memory cannot be dropped")
        os.sync()  # pages that are not yet written cannot be dropped
        for path in blobs.rglob("*"):
            if path.is_file():
                file = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)

    def _load(self, case: Case, seconds: float) -> Done:
        if case.kind in (Kind.GET, Kind.INSTALLED, Kind.RANGE, Kind.NOT_MODIFIED):
            least = _HUGE_S if case.size == HUGE else 1
            return wrk(self._asks, self._port, case.connections, max(round(seconds), least), self._core)
        if case.kind is Kind.OPEN:
            lasting = max(seconds, _OPEN_S)
            return open_loop(self._asks, self._port, _OPEN_CONNECTIONS, lasting, self._rate, self._core)
        size = case.file_size
        work = Work(
            port=self._port,
            connections=case.connections,
            seconds=_READ_AGAIN_S if case.kind is Kind.COLD else seconds,
            asks=self._asks,
            writes=writes_of(case, self._peer, self._shapes[size]),
            write_share=_WRITTEN_SHARE,
            once=case.kind is Kind.COLD,
            most=self._peer.most_written // size if case.writes else 0,
        )
        return generate(work, self._core)


class RawWrites:
    """A floor of durable writes, on the server's core."""

    def __init__(self, floor: Floor, folder: Path, core: int) -> None:
        self.name = floor.name
        self._module, self._folder, self._core = floor.module, folder, core

    def takes(self, case: Case) -> bool:
        return case.kind is Kind.PUT

    def begin(self, case: Case, seconds: float) -> None:
        self.measure(case, min(seconds, 1.0))

    def measure(self, case: Case, seconds: float) -> Found:
        folder = self._folder / f"raw-{time.monotonic_ns()}"
        arguments = [str(folder), str(case.size), str(case.connections), str(seconds)]
        done = subprocess.run(
            pinned([sys.executable, "-m", self._module, *arguments], [self._core]),
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"{self.name} broke: {done.stderr.decode(errors='replace').strip()[-500:]}")
        os.sync()
        found = msgspec.json.decode(done.stdout, type=Done)
        busy = found.client_cpu_s / found.seconds
        return Found(msgspec.structs.replace(found, client_cpu_s=0.0), busy)
