"""Processes that are stopped, and clocks that jump: nobody is blocked for long, and nothing that lives is swept."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from stat7store.address import Address
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.write_lock import WriteLock
from stat7store.folder import CATALOG
from storage.s3_options import S3Options
from tests.faults.reliability import Reliability, Row, recovery
from tests.media import distinct_jpeg
from tests.running import RunningServer, wait_until

PATIENCE_S = 2.0


class Uploaders:
    """Threads that upload distinct files until they are told to end, each over connections of its own."""

    def __init__(self, url: str, base: bytes, threads: int = 4) -> None:
        self.acknowledged: dict[str, bytes] = {}
        self.refused = 0
        self._host = url.removeprefix("http://")
        self._base = base
        self._numbers = itertools.count()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._ending.is_set():
            data = distinct_jpeg(self._base, next(self._numbers))
            with suppress(OSError, HTTPException):  # the worker that was asked was killed
                if self._upload(data):
                    self.acknowledged[hashlib.sha256(data).hexdigest()] = data

    def _upload(self, data: bytes) -> bool:
        connection = HTTPConnection(self._host, timeout=120)
        try:
            connection.request("POST", "/v1/files", body=data)
            response = connection.getresponse()
            response.read()
            return response.status in (200, 201)
        finally:
            connection.close()

    def wait_for_more(self) -> None:
        """Wait until some more uploads than now are acknowledged."""
        enough = len(self.acknowledged) + 5
        wait_until(lambda: len(self.acknowledged) >= enough)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def workers_of(server: RunningServer) -> list[psutil.Process]:
    """The processes that serve: the supervisor's children but the first, the janitor."""
    return sorted(server.process.children(), key=lambda child: (child.create_time(), child.pid))[1:]


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, though its parent may not have asked yet how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop_while_it_writes(process: psutil.Process, lock: WriteLock) -> None:
    """Stop a process in the midst of a transaction: at random moments until it holds the write lock."""
    deadline = time.monotonic() + 60
    while True:
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        holding = lock.holding()
        if holding is not None and holding.thread in {thread.id for thread in process.threads()}:
            return
        process.resume()
        assert time.monotonic() < deadline, "it never held the lock"
        time.sleep(0.003)


def test_a_worker_stopped_in_a_transaction_is_replaced(
    tmp_path: Path, samples: Path, soak: bool, reliability: Reliability
) -> None:
    """The others upload again soon after the limit, and all that was acknowledged is there.

    Without the kill nobody would ever upload again: taking ``os.kill`` out of the supervisor fails this.
    """
    times = 20 if soak else 2
    seconds: list[float] = []
    killed: list[int] = []
    lock = WriteLock(tmp_path / "data" / CATALOG)
    with RunningServer(tmp_path / "data", f"--writer-timeout={PATIENCE_S:g}", workers=2) as server:
        journal: dict[str, bytes] = {}
        for _ in range(times):
            with Uploaders(server.url, (samples / "rocket.jpg").read_bytes()) as uploaders:
                wait_until(uploaders.acknowledged.__len__)
                victim = workers_of(server)[0]
                stop_while_it_writes(victim, lock)
                begun = time.monotonic()
                uploaders.wait_for_more()
                seconds.append(time.monotonic() - begun)
            wait_until(partial(has_ended, victim))
            killed.append(victim.pid)
            journal.update(uploaders.acknowledged)
            wait_until(lambda: len(workers_of(server)) == 2)
        lost, wrong = missing(server, journal)
        # on a busy machine another worker may be that slow by itself
        told = [line for line in server.log.splitlines() if "write lock for too long, and is killed" in line]
        for pid in killed:
            assert sum(re.search(rf'"?pid"?\W+{pid}\b', line) is not None for line in told) == 1, told
    reliability.add(
        Row(
            fault="stopped process",
            store="filesystem",
            how=f"SIGSTOP of a worker inside a transaction, under load; the limit is {PATIENCE_S:g} s",
            times=times,
            checked=f"{len(journal)} acknowledged uploads fetched and compared; the other worker went on",
            lost=lost,
            wrong=wrong,
            recovery_s=recovery(seconds)["recovery_s"],
            worst_recovery_s=recovery(seconds)["worst_recovery_s"],
        )
    )
    assert (lost, wrong) == (0, 0)


@contextmanager
def catalog_of(server: RunningServer) -> Iterator[LmdbCatalog]:
    """Open the catalog of a server beside it."""
    catalog = LmdbCatalog(server.data / CATALOG)
    try:
        yield catalog
    finally:
        asyncio.run(catalog.close())


def stop_between_the_steps(server: RunningServer, catalog: LmdbCatalog) -> psutil.Process:
    """Stop the only worker when a blob is kept that the catalog does not know yet, and nobody holds its lock."""
    lock = WriteLock(server.data / CATALOG)
    (worker,) = workers_of(server)
    deadline = time.monotonic() + 120
    while True:
        worker.suspend()
        wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
        if lock.holding() is None and is_one_unknown(server, catalog):
            return worker
        worker.resume()
        assert time.monotonic() < deadline, "it was never between the two"
        time.sleep(random.uniform(0, 0.02))


def is_one_unknown(server: RunningServer, catalog: LmdbCatalog) -> bool:
    """Tell whether there is a blob without an entry."""
    kept = {Address.parse(name.rpartition("/")[2].partition(".")[0]) for name in server.stored()}
    return len(catalog.lookup_many(kept)) < len(kept)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("bucket", ["filesystem", "s3"], indirect=True)
def test_what_a_stopped_worker_was_at_is_not_swept(
    tmp_path: Path, bucket: S3Options | None, samples: Path, soak: bool, reliability: Reliability
) -> None:
    """A worker stopped between keeping a blob and telling the catalog, under a janitor that sweeps without pause,
    acknowledges nothing that was swept.

    On files the lock on the blob tells that its upload lives; on S3 the upload finds its intent expired, and says
    so. Without the lock in ``FilesystemBlobs.claim``, or without ``Changes._refuse_withdrawn``, this fails.
    """
    times, pause_s = (5, 60.0) if soak else (2, 3.0)
    flags = ("--sweep-every=0.05", "--intent-timeout=0.5", "--writer-timeout=0")
    with RunningServer(tmp_path / "data", *flags, bucket=bucket, workers=1) as server, catalog_of(server) as catalog:
        with Uploaders(server.url, (samples / "rocket.jpg").read_bytes()) as uploaders:
            for _ in range(times):
                uploaders.wait_for_more()
                worker = stop_between_the_steps(server, catalog)
                time.sleep(pause_s)
                worker.resume()
            uploaders.wait_for_more()
        lost, wrong = missing(server, uploaders.acknowledged)
        reliability.add(
            Row(
                fault="stopped process",
                store=store_of(bucket),
                how=f"SIGSTOP of a worker for {pause_s:g} s between keeping a blob and its entry, sweeps without pause",
                times=times,
                checked=f"{len(uploaders.acknowledged)} uploads fetched and compared; as many blobs as files",
                lost=lost,
                wrong=wrong,
            )
        )
        assert (lost, wrong) == (0, 0)
        wait_until(lambda: len(server.stored()) == files_in(server))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bucket", ["filesystem", "s3"], indirect=True)
def test_a_clock_that_jumps_costs_nothing(
    tmp_path: Path,
    bucket: S3Options | None,
    samples: Path,
    soak: bool,
    reliability: Reliability,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock jumps a year ahead and back under uploads and sweeps: nothing that lives is swept, nothing stops.

    Where ``add`` took an entry whose intent is withdrawn, this would lose files on S3.
    """
    offset = tmp_path / "clock"
    offset.write_text("+0")
    with_faketime(monkeypatch, offset, reliability, store_of(bucket))
    times = 100 if soak else 6
    flags = ("--sweep-every=0.05", "--scrub-every=30d")
    with RunningServer(tmp_path / "data", *flags, bucket=bucket, workers=2) as server:
        with Uploaders(server.url, (samples / "rocket.jpg").read_bytes()) as uploaders:
            years: set[int] = set()
            for number in range(times):
                jump(offset, ("+365d", "-365d", "+0")[number % 3])
                time.sleep(0.5)
                uploaders.wait_for_more()
                years.add(year_of(server))
            assert len(years) == 3  # or the clock did not jump at all
        lost, wrong = missing(server, uploaders.acknowledged)
        reliability.add(
            Row(
                fault="clock jumps",
                store=store_of(bucket),
                how="libfaketime: a year ahead, a year back and to rights again, under uploads, sweeps without pause",
                times=times,
                checked=f"{len(uploaders.acknowledged)} uploads fetched and compared; as many blobs as files",
                lost=lost,
                wrong=wrong,
            )
        )
        assert (lost, wrong) == (0, 0)
        jump(offset, "+0")
        wait_until(lambda: len(server.stored()) == files_in(server))


def with_faketime(monkeypatch: pytest.MonkeyPatch, offset: Path, reliability: Reliability, store: str) -> None:
    """Have programs that are started from now on take their wall clock's offset from a file; skip if none can."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        told = "libfaketime is missing; on Debian: apt-get install faketime"
        if os.environ.get("CI"):
            pytest.fail(told)
        reliability.add(Row("clock jumps", store, "libfaketime", 0, "nothing", 0, 0, left_out=told))
        pytest.skip(told)
    monkeypatch.setenv("LD_PRELOAD", str(found[0]))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # no clock jump moves that one
    monkeypatch.setenv("DONT_FAKE_MONOTONIC", "1")


def jump(offset: Path, by: str) -> None:
    """Move the clock; whoever looks meanwhile sees the old offset or the new one."""
    new = offset.with_suffix(".new")
    new.write_text(by)
    new.rename(offset)


def missing(server: RunningServer, journal: dict[str, bytes]) -> tuple[int, int]:
    """Fetch all that was acknowledged; return how many are not there, and how many are other bytes."""
    lost = wrong = 0
    for address, data in journal.items():
        try:
            with urlopen(f"{server.url}/v1/files/{address}", timeout=60) as answer:
                wrong += answer.read() != data
        except HTTPError:
            lost += 1
    return lost, wrong


def files_in(server: RunningServer) -> int:
    """How many files the catalog has."""
    with urlopen(f"{server.url}/v1/stats", timeout=60) as answer:
        return int(json.load(answer)["files"])


def year_of(server: RunningServer) -> int:
    """The year that a worker takes it to be."""
    with urlopen(f"{server.url}/healthz", timeout=60) as answer:
        return parsedate_to_datetime(answer.headers["Date"]).year


def store_of(bucket: S3Options | None) -> str:
    """The name of the kind of store in the report."""
    return "filesystem" if bucket is None else "S3"
