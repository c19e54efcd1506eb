"""Several processes use one embedded catalog at once, and some of them die."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stat7store.address import Address
from stat7store.catalog.base import Query
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import NotFound
from tests.catalog.making import address_of, listed, new_file
from tests.catalog.whole import assert_whole

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def process(verb: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that is ready; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.catalog.worker", verb, str(folder), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def kept(lines: str) -> set[bytes]:
    """Return the addresses that a worker was told are added, and did not begin to remove."""
    words = [line.split() for line in lines.splitlines(keepends=True) if line.endswith("\n")]
    added = {bytes.fromhex(address) for verb, address in words if verb == "added"}
    return added - {bytes.fromhex(address) for verb, address in words if verb == "removing"}


def finish(worker: subprocess.Popen[str]) -> set[bytes]:
    """Wait for a worker that must succeed, and return what it kept."""
    lines, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0
    return kept(lines)


def test_four_processes_lose_nothing(tmp_path: Path) -> None:
    """When four processes have added, linked and removed at once, all is there and every table agrees.

    The map is too small for what they store, so each grows it under the others' feet.
    """
    folder = tmp_path / "catalog"
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(process("work", folder, "--name", str(name), "--operations", "600"))
            for name in range(1, 5)
        ]
        kept_by_all = set[bytes]().union(*map(finish, workers))
    assert len(kept_by_all) >= 4 * 480
    assert (folder / "data.mdb").stat().st_size > 1 << 20
    assert kept_by_all <= assert_whole(folder)


def test_the_killed_disturb_nobody(tmp_path: Path) -> None:
    """Processes killed in the middle of writes lose nothing acknowledged, and the others go on."""
    folder = tmp_path / "catalog"
    expected: set[bytes] = set()
    with contextlib.ExitStack() as stack:
        survivors = [
            stack.enter_context(process("work", folder, "--name", str(name), "--operations", "300")) for name in (1, 2)
        ]
        for name in range(3, 9):
            with process("work", folder, "--name", str(name), "--operations", "100000") as victim:
                time.sleep(0.05 * name)
                victim.kill()
                lines, _ = victim.communicate(timeout=60)
                expected |= kept(lines)
        for survivor in survivors:
            expected |= finish(survivor)
    assert expected <= assert_whole(folder)


async def test_the_map_of_another_process_is_followed(tmp_path: Path) -> None:
    """A process that only reads sees what others add after they have grown the map."""
    folder = tmp_path / "catalog"
    catalog = LmdbCatalog(folder, map_size=1 << 18)
    with process("work", folder, "--operations", "1600", "--map-size", str(1 << 18)) as worker:
        finishing = asyncio.create_task(asyncio.to_thread(finish, worker))
        while not finishing.done():
            with contextlib.suppress(NotFound):
                locator = await catalog.lookup(address_of(1_000_001))
                await catalog.record(address_of(1_000_001), locator)
            await asyncio.sleep(0.01)
        kept_by_worker = await finishing
    assert (folder / "data.mdb").stat().st_size > 1 << 19
    assert await catalog.present([Address(address) for address in kept_by_worker]) == kept_by_worker
    own = {entry.record.address for entry in await listed(catalog, Query(tag="worker 1"), 1000)}
    assert own >= kept_by_worker
    assert (await catalog.add(new_file(1_000_000_000))).created
    await catalog.close()


async def test_a_copy_holds_what_another_process_grew_the_map_for(tmp_path: Path) -> None:
    """A process that has not yet followed another's larger map copies all of it."""
    folder, copy = tmp_path / "catalog", tmp_path / "copy"
    catalog = LmdbCatalog(folder, map_size=1 << 18)
    with process("work", folder, "--operations", "1600", "--map-size", str(1 << 18)) as worker:
        kept_by_worker = await asyncio.to_thread(finish, worker)
    assert (folder / "data.mdb").stat().st_size > 1 << 19
    copy.mkdir()
    await asyncio.to_thread(catalog.copy, copy)
    assert kept_by_worker <= assert_whole(copy)
    await catalog.close()


async def test_dead_readers_are_cleared(tmp_path: Path) -> None:
    """The read transaction of a killed process is gone after maintenance."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    with process("read", tmp_path / "catalog") as reader:
        assert str(reader.pid) in readers(tmp_path / "catalog")
        await catalog.maintain()
        assert str(reader.pid) in readers(tmp_path / "catalog")
        reader.kill()
    await catalog.maintain()
    assert str(reader.pid) not in readers(tmp_path / "catalog")
    await catalog.close()


async def test_reads_go_on_while_another_process_writes(tmp_path: Path) -> None:
    """A process that sits on the write lock delays writes alone; killed, it lets them through."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    await catalog.add(new_file(1))
    with process("write", tmp_path / "catalog") as writer:
        adding = asyncio.create_task(catalog.add(new_file(2)))
        await asyncio.sleep(0.1)
        assert (await catalog.lookup(address_of(1))).size == 1000
        assert len(await listed(catalog)) == 1
        await catalog.maintain()
        assert not adding.done()
        writer.kill()
    assert (await adding).created
    await catalog.close()


def readers(folder: Path) -> list[str]:
    """Return the ids of the processes that hold a reader slot, as another process sees them."""
    look = "import lmdb, sys; print(lmdb.open(sys.argv[1], max_dbs=32).readers())"
    listing = subprocess.run([sys.executable, "-c", look, str(folder)], check=True, capture_output=True, text=True)
    return [line.split()[0] for line in listing.stdout.splitlines() if line.strip()]
