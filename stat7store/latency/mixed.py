"""Phase 1's mixed test: 70 % reads by a random key and 30 % writes, by threads and by processes.

Phase 1 kept entities in a dict. Its mixed test fell from 13,600 operations a second at 10,000 entities
to 404 at 100,000, and that was the harness's own doing: to choose a key, each read copied the list of
all keys. The same test is run here as it was, without that copy, and on the catalog.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

from stat7store.address import Address
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.coordinates import entity_address
from stat7store.latency.phase1 import Maker

READS_PERCENT = 70
TASKS = 16  # that share a thread or a process, and so its transactions
_SMALL = 100_000  # entities; a load may add a third of that
_WARMING = 10_000  # reads that bring a new map's pages into reach, before the time starts

HARNESS = "Phase 1's harness as it was, in memory, 4 threads"
HARNESS_MENDED = "the same without its copy of all keys"
THREADS = "catalog, durable writes, threads: {}"
PROCESSES = "catalog, durable writes, processes: {}"
HARNESS_LIMIT = 1_000_000  # beyond, the entities of a dict would fill the memory


def measure_mixed(
    catalogs: Mapping[Path, Sequence[Address]],
    entities: Sequence[int],
    *,
    seconds: float,
    parallel: Sequence[int],
    rounds: int,
    show: Callable[[str], None],
) -> dict[str, dict[int, float]]:
    """Return the operations a second of each load, by its name and the number of entities: medians of rounds.

    ``catalogs`` are folders and a sample of the addresses in them, and ``entities`` how many each
    began with. A load runs at all scales, one right after the other, before the next load does: what
    else the machine does then is the same for all of them; each turn begins with another scale. What a
    load added to a small catalog is not there for the next. Phase 1's own harness runs once.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for turn in range(rounds):
        for name, run, most in _loads(seconds, parallel, harness=turn == 0):
            show(f"mixed, round {turn + 1} of {rounds}: {name}")
            scales = list(zip(entities, catalogs.items(), strict=True))
            first = turn % len(scales)
            for count, (folder, addresses) in scales[first:] + scales[:first]:
                if most is None or count <= most:
                    with _as_it_was(folder, count) as begun:
                        found.setdefault(name, {}).setdefault(count, []).append(run(begun, addresses, count))
    return {name: {count: median(rates) for count, rates in by_count.items()} for name, by_count in found.items()}


@contextmanager
def _as_it_was(folder: Path, entities: int) -> Iterator[Path]:
    """Yield a catalog as it was set up: a copy, or a large one itself, which what is added hardly changes."""
    if entities > _SMALL:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="copy-", dir=folder.parent) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        with (Path(copy) / "data.mdb").open("rb+") as data:
            os.fsync(data.fileno())  # or the load would pay for writing the copy
        yield Path(copy)


def _loads(
    seconds: float, parallel: Sequence[int], *, harness: bool
) -> Iterator[tuple[str, Callable[[Path, Sequence[Address], int], float], int | None]]:
    """Yield each load: its name, how to run it, and the most entities it can be run with."""
    if harness:  # once will do: it takes longest to set up, and its fall is no matter of a few percent

        def phase1(_folder: Path, _addresses: Sequence[Address], entities: int, *, copy_keys: bool) -> float:
            return _harness(entities, seconds, copy_keys=copy_keys)

        yield HARNESS, partial(phase1, copy_keys=True), HARNESS_LIMIT
        yield HARNESS_MENDED, partial(phase1, copy_keys=False), HARNESS_LIMIT

    def ours(
        folder: Path,
        addresses: Sequence[Address],
        _entities: int,
        *,
        run: Callable[[Path, Sequence[Address], int, float], float],
        number: int,
    ) -> float:
        return run(folder, addresses, number, seconds)

    for number in parallel:
        yield THREADS.format(number), partial(ours, run=_with_threads, number=number), None
    for number in parallel:
        yield PROCESSES.format(number), partial(ours, run=_with_processes, number=number), None


async def _warm(catalog: LmdbCatalog, addresses: Sequence[Address]) -> None:
    for address in addresses[:_WARMING]:
        await catalog.record(address, await catalog.lookup(address))


async def _mixed(catalog: LmdbCatalog, addresses: Sequence[Address], seconds: float, seed: int) -> int:
    """Read and write 70/30 for a while, in several tasks; return how many operations were done."""
    chance = random.Random(seed)  # noqa: S311
    maker = Maker(seed)
    deadline = time.monotonic() + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        while time.monotonic() < deadline:
            if chance.random() * 100 < READS_PERCENT:
                address = chance.choice(addresses)
                await catalog.record(address, await catalog.lookup(address))
            else:
                await catalog.add(maker.file())
            done += 1

    await asyncio.gather(*(work() for _ in range(TASKS)))
    return done


def _seeds(count: int) -> Iterator[int]:
    return (secrets.randbelow(1 << 40) + 2 for _ in range(count))  # entities that nobody has added yet


def _with_threads(folder: Path, addresses: Sequence[Address], count: int, seconds: float) -> float:
    catalog = LmdbCatalog(folder)
    asyncio.run(_warm(catalog, addresses))
    done: list[int] = []

    def work(seed: int) -> None:
        done.append(asyncio.run(_mixed(catalog, addresses, seconds, seed)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in _seeds(count)]
    try:
        return _timed(lambda: _all(threads), done)
    finally:
        asyncio.run(catalog.close())


def _with_processes(folder: Path, addresses: Sequence[Address], count: int, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")  # LMDB must not be open across a fork
    ready = context.Barrier(count + 1)
    results: Queue[int] = context.Queue()
    few = list(addresses[:_WARMING])
    processes = [
        context.Process(target=_process, args=(folder, few, seconds, seed, ready, results)) for seed in _seeds(count)
    ]
    for process in processes:
        process.start()
    ready.wait()
    begun = time.perf_counter()
    done = sum(results.get() for _ in processes)
    took = time.perf_counter() - begun
    for process in processes:
        process.join()
    return done / took


def _process(
    folder: Path, addresses: Sequence[Address], seconds: float, seed: int, ready: Barrier, results: Queue[int]
) -> None:
    async def work() -> int:
        catalog = LmdbCatalog(folder)
        try:
            await _warm(catalog, addresses)
            ready.wait()
            return await _mixed(catalog, addresses, seconds, seed)
        finally:
            await catalog.close()

    results.put(asyncio.run(work()))


def _harness(entities: int, seconds: float, *, copy_keys: bool) -> float:
    """Phase 1's mixed test: a dict in memory, four threads; each reads by a random key or adds an entity."""
    maker = Maker(1)
    store = {str(entity_address(entity)): entity for entity in (maker.entity() for _ in range(entities))}
    known = list(store)
    done: list[int] = []

    def work(seed: int) -> None:
        chance, more, count = random.Random(seed), Maker(seed), 0  # noqa: S311
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if chance.random() * 100 < READS_PERCENT:
                # the copy is what Phase 1 measured: O(n), with the interpreter locked
                _ = store[chance.choice(list(store.keys()) if copy_keys else known)]
            else:
                entity = more.entity()
                store[str(entity_address(entity))] = entity
            count += 1
        done.append(count)

    return _timed(lambda: _all([threading.Thread(target=work, args=(seed,)) for seed in _seeds(4)]), done)


def _all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _timed(work: Callable[[], None], done: list[int]) -> float:
    begun = time.perf_counter()
    work()
    return sum(done) / (time.perf_counter() - begun)
