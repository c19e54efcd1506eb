"""Races: eight processes upload, delete, read and sweep the same three files of one store, as fast as they can.

It fails if names of blobs are used again, and if a reader that finds no blob does not look again at the entry.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stat7store.opening import open_store, prepare
from stat7store.settings import Settings
from stat7store.verifying import Finding, Tally
from tests.catalog.whole import assert_whole
from tests.faults import racer
from tests.faults.clients import Files
from tests.faults.racer import NUMBERS, PROCESSES, Deletes, Raced
from tests.faults.reliability import Reliability, Row

_MEMORY = Path("/dev/shm")  # syncs cost nothing there: the processes meet more often


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, or where there is none an ordinary one."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=_MEMORY))
    yield made
    shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_eight_processes_race_safely(folder: Path, samples: Path, soak: bool, reliability: Reliability) -> None:
    """Whatever eight processes do to three files at once: what is read is right, an upload that was acknowledged and
    not deleted since is there, nobody is refused or alarmed, and in the end nothing is left over or missing."""
    data, operations = folder / "data", 125_000 if soak else 600
    prepare(Settings(data=data))
    Deletes.make(folder / "deletes")
    raced = _race(data, operations)
    assert raced.operations == PROCESSES * operations
    assert raced.certain
    asyncio.run(_check(data))
    reliability.add(
        Row(
            fault="races",
            store="filesystem",
            how="8 processes upload, delete, read and sweep 3 files, on a filesystem in memory",
            times=raced.operations,
            checked=f"{raced.reads + raced.uploads:,} reads; of {raced.uploads:,} uploads {raced.certain:,} met no "
            f"delete, and were there; {raced.deletes:,} deletes, {raced.sweeps:,} sweeps; all tables in the end",
            lost=0,
            wrong=0,
        )
    )


def _race(data: Path, operations: int) -> Raced:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([racer.__name__])
    processes, ends = [], []
    for number in range(PROCESSES):
        ours, its = context.Pipe()
        process = context.Process(target=racer.run, args=(its, data, number, operations), daemon=True)
        process.start()
        its.close()
        processes.append(process)
        ends.append(ours)
    try:
        found: list[Raced] = [ours.recv() for ours in ends]  # the end of one that failed raises EOFError
    finally:
        for process, ours in zip(processes, ends, strict=True):
            process.kill()
            process.join()
            ours.close()
    return Raced(*map(sum, zip(*found, strict=True)))


async def _check(data: Path) -> None:
    """Sweep, and compare blobs, catalog and totals."""
    files = Files()
    async with open_store(Settings(data=data)) as store:
        await store.sweep_orphans()
        await store.sweep_garbage()
        findings: list[Finding] = []
        tally = Tally()
        await store.verifier(tally, findings.append, bytes_per_s=1e12, jobs=2).run()
        counters = await store.counters()
    addresses = {address.hex() for address in assert_whole(data / "catalog")}
    blobs = [path.name[:64] for path in (data / "blobs").glob("???/*")]
    sizes = sum(len(files.data(number)) for number in NUMBERS if files.address(number) in addresses)
    assert findings == []
    assert sorted(blobs) == sorted(addresses)
    assert (counters.files, counters.bytes, counters.garbage) == (len(addresses), sizes, 0)
    assert (counters.files, tally.files) == (len(blobs), len(blobs))
