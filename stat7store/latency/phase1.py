"""Phase 1's stress test on this project's addresses and catalog: generate, look up, read and write at once.

Phase 1 kept entities in a dict. Its mixed test fell from 13,600 operations a second at 10,000 entities
to 404 at 100,000, and that was the harness's own doing: to choose a key, each read copied the list of
all keys. The same test is run here as it was, without that copy, and on the catalog.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from stat7store.address import Address, Hasher
from stat7store.catalog.base import NewFile
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.coordinates import entity_address
from stat7store.latency.histogram import Durations
from stat7store.latency.report import Machine, Summary
from stat7store.record import HORIZONS, FileRecord
from stat7store.timing import now_ns
from storage.base import Location

Entity = dict[str, object]

ENTITY = "application/vnd.stat7.entity+json"
REALMS = ("void", "light", "matter", "mind", "pattern")
_SAMPLE = 100_000
_LOOKUPS = 300_000  # at most; the first of them find the map of the file not yet in the page tables
_ROUNDS = 3
_DAY_S = 86_400


class Rates(msgspec.Struct, frozen=True):
    """Things done a second: addresses by this project and by the plain loop, bytes by this and by hashlib."""

    addresses: float
    plain: float
    bytes: float
    hashlib: float


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at one number of entities.

    ``generate_s`` made entities and addresses, ``store_s`` put them into the catalog durably.
    ``memory_growth`` is what the process's private memory grew by over the set-up and all lookups.
    Beside them, if measured: a lookup by LMDB alone (``bare``), and a server's start (``start_s``).
    """

    entities: int
    generate_s: float
    store_s: float
    bytes_per_entity: float
    lookup: Summary
    lookup_and_record: Summary
    memory_growth: int
    bare: Summary | None = None
    start_s: float | None = None


class Starts(msgspec.Struct, frozen=True):
    """Seconds to start a program: Python by itself, and with the command imported; the command's whole help."""

    python_s: float
    import_s: float
    help_s: float


class Phase1(msgspec.Struct, frozen=True, kw_only=True):
    """The whole test. ``mixed``: operations a second by the name of a load and the number of entities."""

    made_at: str
    command: str
    machine: Machine
    rates: Rates
    starts: Starts
    scales: list[Scale]
    mixed: dict[str, dict[int, float]]


class Maker:
    """Makes random entities as Phase 1 did, the same ones again for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - the same entities again, not a secret
        self._prefix = f"STRESS-{seed:04d}"
        self._made = 0

    def entity(self) -> Entity:
        """Return the next entity."""
        chance, n = self._chance, self._made
        self._made += 1
        realm = chance.choice(REALMS)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(1_735_689_600 + n % _DAY_S))
        return {
            "id": f"{self._prefix}-{n:08d}",
            "entity_type": "fragment",
            "realm": realm,
            "created_at": moment,
            "state": {},
            "stat7_coordinates": {
                "realm": realm,
                "lineage": chance.randrange(1, 100),
                "adjacency": [],
                "horizon": chance.choice(HORIZONS),
                "resonance": round(chance.uniform(-1, 1), 8),
                "velocity": round(chance.uniform(-1, 1), 8),
                "density": round(chance.random(), 8),
            },
        }

    def file(self) -> NewFile:
        """Return the next entity as the catalog keeps it, under its address."""
        return _as_file(self.entity())


def measure_rates(count: int) -> Rates:
    """Race address generation against ``json.dumps(sort_keys=True)`` and SHA-256, and hashing against hashlib."""
    entities = [maker.entity() for maker in [Maker(0)] for _ in range(count)]
    data = random.Random(0).randbytes(64 * 1024**2)  # noqa: S311

    def plain() -> None:
        for entity in entities:
            hashlib.sha256(json.dumps(entity, sort_keys=True).encode()).digest()

    def ours() -> None:
        for entity in entities:
            entity_address(entity)

    def hashed() -> None:
        hasher = Hasher()
        for start in range(0, len(data), 1024**2):
            hasher.update(memoryview(data)[start : start + 1024**2])
        hasher.address()

    took = _race([ours, plain, hashed, lambda: hashlib.sha256(data).digest()])
    return Rates(count / took[0], count / took[1], len(data) / took[2], len(data) / took[3])


async def measure_scale(folder: Path, entities: int) -> tuple[Scale, list[Address]]:
    """Set up a catalog of so many entities in a new folder and measure it; return a sample of the addresses too."""
    before = private_memory()
    catalog = LmdbCatalog(folder)
    try:
        addresses, generate_s, store_s = _set_up(catalog, entities)
        size = os.stat(folder / "data.mdb").st_blocks * 512
        lookup, both = await measure_lookups(catalog, addresses)
    finally:
        await catalog.close()
    scale = Scale(
        entities=entities,
        generate_s=generate_s,
        store_s=store_s,
        bytes_per_entity=size / entities,
        lookup=lookup,
        lookup_and_record=both,
        memory_growth=private_memory() - before,
    )
    return scale, addresses


async def measure_lookups(catalog: LmdbCatalog, addresses: Sequence[Address]) -> tuple[Summary, Summary]:
    """Time the index stage alone, and with the metadata stage; each in transactions of its own."""
    index, both = Durations(), Durations()
    chance = random.Random(1)  # noqa: S311
    chosen = chance.choices(addresses, k=min(_LOOKUPS, 100 * len(addresses)))
    for address in chosen:
        begun = now_ns()
        await catalog.lookup(address)
        index.add(now_ns() - begun)
    for address in chosen:
        begun = now_ns()
        await catalog.record(address, await catalog.lookup(address))
        both.add(now_ns() - begun)
    return index.summary(), both.summary()


def private_memory() -> int:
    """Return the bytes of memory that this process does not share with a file, as the kernel counts them now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _set_up(catalog: LmdbCatalog, entities: int) -> tuple[list[Address], float, float]:
    """Return a sample of the addresses, the seconds it took to make entities, and those to keep them."""
    maker = Maker(1)
    # A transaction leaves about twice the pages it copied unused: small ones keep the file dense.
    batch = min(max(entities // 1000, 1000), 10_000)
    sample: list[Address] = []
    every = max(entities // _SAMPLE, 1)
    generate_s = store_s = 0.0
    for start in range(0, entities, batch):
        begun = time.perf_counter()
        files = [maker.file() for _ in range(min(batch, entities - start))]
        sample += [Address(file.record.address) for file in files[::every]]
        made = time.perf_counter()
        catalog.add_many(sorted(files, key=lambda file: file.record.address))
        generate_s += made - begun
        store_s += time.perf_counter() - made
    return sample, generate_s, store_s


def _as_file(entity: Entity) -> NewFile:
    address = entity_address(entity)
    where = msgspec.convert(entity["stat7_coordinates"], type=dict[str, str | int | float | list[str]])
    record = FileRecord(
        address,
        1_735_689_600_000,
        str(entity["id"]),
        str(entity["realm"]),
        lineage=int(str(where["lineage"])),
        horizon=str(where["horizon"]),
        resonance=float(str(where["resonance"])),
        velocity=float(str(where["velocity"])),
        density=float(str(where["density"])),
    )
    return NewFile(record, 0, ENTITY, Location(str(address), secrets.token_bytes(8)))


def _race(contestants: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median of the seconds that each takes, in turns."""
    took: list[list[float]] = [[] for _ in contestants]
    for _ in range(_ROUNDS):
        for place, contestant in enumerate(contestants):
            begun = time.perf_counter()
            contestant()
            took[place].append(time.perf_counter() - begun)
    return [statistics.median(times) for times in took]
