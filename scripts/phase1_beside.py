"""What Phase 1's stress test is held against: LMDB by itself, and how long programs take to start."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.error import URLError

import lmdb

from scripts.peers.processes import free_port, running
from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.latency.histogram import Durations
from stat7store.latency.phase1 import Starts
from stat7store.latency.report import Summary
from stat7store.timing import now_ns

_LOOKUPS = 300_000
_STARTS = 3
_COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}  # set, each start would compile every module again


def measure_bare(catalog: Path, addresses: Sequence[Address]) -> Summary:
    """Time what a lookup cannot do without: a transaction and a ``get`` by py-lmdb, the value neither checked nor read.

    ``catalog`` is a catalog's folder that nobody has open.
    """
    took = Durations()
    chance = random.Random(1)  # noqa: S311 - the same choice again, not a secret
    keys = [bytes(address) for address in chance.choices(addresses, k=min(_LOOKUPS, 100 * len(addresses)))]
    with lmdb.open(str(catalog), readonly=True, max_dbs=32) as environment:
        table = environment.open_db(b"index", create=False)
        for key in keys:
            begun = now_ns()
            with environment.begin(db=table) as transaction:
                found = transaction.get(key)
            took.add(now_ns() - begun)
            if found is None:
                raise Unavailable(f"{key.hex()} is not in the catalog")
    return took.summary()


def measure_starts() -> Starts:
    """Time the starts of programs, in turns."""
    commands = (["-c", "pass"], ["-c", "import stat7store.cli"], ["-m", "stat7store", "--help"])
    took: list[list[float]] = [[] for _ in commands]
    environment = {**os.environ, **_COMPILED_ONCE}
    for _ in range(_STARTS):
        for times, command in zip(took, commands, strict=True):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
            times.append(time.perf_counter() - begun)
    return Starts(*map(statistics.median, took))


def measure_server_start(data: Path) -> float:
    """Return the median of the seconds from the command to the first answer of a server over this data folder."""
    took = []
    cores = sorted(os.sched_getaffinity(0))
    for _ in range(_STARTS):
        port = free_port()
        url = f"http://127.0.0.1:{port}/readyz"
        command = [sys.executable, "-m", "stat7store", "serve", f"--data={data}", f"--port={port}", "--workers=1"]
        begun = time.perf_counter()
        with running(
            command, folder=data.parent, cores=cores, ready=partial(_answers, url), environment=_COMPILED_ONCE
        ):
            took.append(time.perf_counter() - begun)
    return statistics.median(took)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - its own server
            return True
    except URLError:
        return False
