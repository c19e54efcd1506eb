"""The test itself: makes or takes the files, loads the server, and puts the report together."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from stat7store.address import Address
from stat7store.client import Client
from stat7store.errors import Malformed, Unavailable
from stat7store.latency import dataset, serving
from stat7store.latency.choosing import EACH, UNIFORM, Target, chosen, part_of
from stat7store.latency.cold import evict
from stat7store.latency.load import Load
from stat7store.latency.machine import this_machine
from stat7store.latency.ranges import check_ranges
from stat7store.latency.recording import Recording
from stat7store.latency.report import Report, Run, Usage
from stat7store.latency.wire import Exchange
from stat7store.timing import Timing

Temperature = Literal["warm", "cold"]

# The server keeps the records of its last 10,000 retrievals. Between slices of this many requests the
# load rests and they are fetched: none is lost, and fetching them disturbs no measurement.
SLICE = 8000
_MOST_TIMINGS = 10_000
_TRIES = 50
_TOLD_EVERY = 10_000
_PAUSE_S = 0.05
_CHECK_CONCURRENCY = 8
_BYTES_OF_WRITES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to test.

    ``server``: a running server's URL; None starts one on ``data`` (None: a temporary folder).
    ``images`` are the data-set sizes to test one after the other; ``movies`` come with the largest.
    ``from_store``: how many of the files already stored to ask for instead. ``concurrency`` are
    closed loops; ``rates`` (requests a second) are open loops on up to ``connections``. ``range_bytes``
    asks for movies (or, without movies, for all files) by ranges of that length. ``writes``: percent
    of requests that are uploads. ``requests`` in each run; cold runs ask for each file at most once.
    """

    server: str | None = None
    data: Path | None = None
    workers: int = 0
    images: tuple[int, ...] = ()
    movies: int = 0
    movie_bytes: int = 0
    from_store: int = 0
    samples: Path = dataset.DEFAULT_SAMPLES
    concurrency: tuple[int, ...] = (1, 8, 64, 256)
    rates: tuple[float, ...] = ()
    connections: int = 256
    choice: str = UNIFORM
    exponent: float = 1.1
    range_bytes: int | None = None
    temperatures: tuple[Temperature, ...] = ("warm",)
    writes: int = 0
    requests: int = 20_000
    each_first: bool = True
    seed: int = 7
    command: str = ""


@dataclass(frozen=True)
class Scenario:
    """One load on one set of files; None for ``rate`` is a closed loop."""

    files: str
    targets: Sequence[Target] = field(repr=False)
    concurrency: int
    rate: float | None
    choice: str
    range_bytes: int | None
    temperature: Temperature
    writes: int
    requests: int

    @property
    def name(self) -> str:
        """What the scenario is, in a few words; the same words for the same load on as many files."""
        load = f"{self.concurrency} at a time" if self.rate is None else f"{self.rate:g} a second"
        shape = "whole" if self.range_bytes is None else f"ranges of {self.range_bytes}"
        mix = f", {100 - self.writes}/{self.writes}" if self.writes else ""
        return f"{len(self.targets)} {self.files}, {shape}, {self.choice}, {self.temperature}{mix}, {load}"


class LatencyTest:
    """Carries out a plan; ``show`` gets a line for every step, ``finished`` every run at its end."""

    def __init__(self, plan: Plan, show: Callable[[str], None], finished: Callable[[Run], None]) -> None:
        if not plan.images and not plan.movies and not plan.from_store:
            raise Malformed("no files to ask for", expected="--images, --movies or --from-store")
        if plan.from_store and plan.server is None and plan.data is None:
            raise Malformed("no store to take files from", expected="--server or --data with --from-store")
        self._plan = plan
        self._show = show
        self._finished = finished
        self._built: list[str] = []
        self._runs: list[Run] = []
        self._number = 0
        self._prefix = f"latency-{secrets.token_hex(4)}-"

    async def run(self) -> Report:
        """Carry it out; return what was found. Raises ``Unavailable``, ``Malformed`` and ``OSError``."""
        plan = self._plan
        with _folder(plan) as data:
            for scale in sorted(plan.images) or [0]:
                movies = plan.movies if scale == max(plan.images, default=0) else 0
                await self._run_scale(data, scale, movies)
        return Report(
            version=version("stat7store"),
            made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            command=plan.command,
            machine=this_machine(),
            server=plan.server or f"started for the test, {plan.workers or len(os.sched_getaffinity(0))} workers",
            built=self._built,
            runs=self._runs,
        )

    async def _run_scale(self, data: Path | None, images: int, movies: int) -> None:
        plan = self._plan
        groups: dict[str, list[Target]] = {}
        if images:
            groups["images"] = await self._build(data, dataset.image_maker(plan.samples), images, "image")
        if movies:
            groups["movies"] = await self._build(
                data, dataset.movie_maker(plan.samples, plan.movie_bytes), movies, "movie"
            )
        async with self._server(data) as url:
            if plan.from_store:
                groups["stored files"] = await dataset.sample_of_store(url, plan.from_store)
                if not groups["stored files"]:
                    raise Unavailable("the store is empty; there is nothing to ask for")
            for files, targets in groups.items():
                for scenario in self._scenarios(files, targets):
                    self._runs.append(await self._run_one(url, data, scenario))
                    self._finished(self._runs[-1])

    async def _build(self, data: Path | None, make: dataset.Maker, count: int, name: str) -> list[Target]:
        self._show(f"making {count} {name}s")
        begun = time.perf_counter()
        made = 0

        def advance(more: int) -> None:
            nonlocal made
            made += more
            if made % _TOLD_EVERY < more:
                self._show(f"{made:,} of {count:,}")

        if data is not None:
            targets = await dataset.build_in_folder(data, make, count, name, advance)
        else:
            assert self._plan.server is not None
            targets = await dataset.build_over_http(self._plan.server, make, count, name, advance)
        self._built.append(f"{name}s: {dataset.rate_text(targets, time.perf_counter() - begun)}")
        self._show(self._built[-1])
        return targets

    @asynccontextmanager
    async def _server(self, data: Path | None) -> AsyncIterator[str]:
        if self._plan.server is not None:
            yield self._plan.server.rstrip("/")
            return
        assert data is not None
        with serving.started(data, self._plan.workers) as url:
            yield url

    def _scenarios(self, files: str, targets: list[Target]) -> Iterator[Scenario]:
        plan = self._plan
        by_range = plan.range_bytes if files == "movies" or not plan.movies else None

        def scenario(
            concurrency: int, rate: float | None, temperature: Temperature, choice: str = plan.choice
        ) -> Scenario:
            cold = temperature == "cold"
            return Scenario(
                files=files,
                targets=targets,
                concurrency=concurrency,
                rate=rate,
                choice=EACH if cold else choice,
                range_bytes=by_range,
                temperature=temperature,
                writes=0 if cold else plan.writes,
                requests=min(plan.requests, len(targets)) if cold or choice == EACH else plan.requests,
            )

        if plan.each_first:
            yield Scenario(files, targets, _CHECK_CONCURRENCY, None, EACH, None, "warm", 0, len(targets))
        for temperature in plan.temperatures:
            for concurrency in plan.concurrency:
                yield scenario(concurrency, None, temperature)
            for rate in plan.rates:
                yield scenario(plan.connections, rate, temperature)

    async def _run_one(self, url: str, data: Path | None, scenario: Scenario) -> Run:
        self._show(scenario.name)
        notes: list[str] = []
        evicted = None
        chance = random.Random(self._plan.seed)  # noqa: S311 - the same run again, not a secret
        recording = Recording()
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        written: list[Address] = []

        async def fetch(address: Address) -> bytes:
            return (await client.get(address)).data

        async with Client(url) as client, Load(host, port, scenario.concurrency) as load:
            workers = [worker.pid for worker in (await client.stats()).workers] if _is_loopback(host) else []
            if scenario.temperature == "cold":
                evicted, note = await self._evict(data, scenario)
                notes += note
            exchanges = self._exchanges(f"{host}:{port}", scenario, chance, written)
            server_cpu, client_cpu = serving.cpu_seconds(workers), 0.0
            while batch := _slice(exchanges, SLICE):
                begun = time.process_time()
                if scenario.rate is None:
                    await load.closed(batch)
                else:
                    await load.open(batch, scenario.rate)
                client_cpu += time.process_time() - begun
                timings = await self._timings(client, batch)  # before other requests take their place
                await check_ranges(fetch, batch)
                recording.add(batch, timings)
            usage = Usage(
                server_cpu_s=_difference(serving.cpu_seconds(workers), server_cpu) if workers else None,
                server_memory=serving.memory_bytes(workers) if workers else None,
                client_cpu_s=client_cpu,
            )
            await _delete(client, written)
        reads = recording.requests - recording.writes - recording.errors.total()
        if recording.joined < reads:
            notes.append(f"the server no longer had the records of {reads - recording.joined} retrievals")
        return Run(
            name=scenario.name,
            files=scenario.files,
            file_count=len(scenario.targets),
            load="closed" if scenario.rate is None else "open",
            concurrency=scenario.concurrency,
            rate=scenario.rate,
            choice=scenario.choice,
            shape="whole" if scenario.range_bytes is None else f"ranges of {scenario.range_bytes}",
            temperature=scenario.temperature,
            mix=f"{100 - scenario.writes}/{scenario.writes}",
            requests=recording.requests,
            writes=recording.writes,
            joined=recording.joined,
            verified=recording.verified,
            bytes=recording.bytes,
            seconds=recording.seconds,
            errors=dict(recording.errors),
            stages=recording.stages(),
            sources=dict(recording.sources),
            percentiles=recording.percentiles(),
            over_time=recording.over_time(),
            usage=usage,
            evicted=evicted,
            notes=notes,
        )

    async def _evict(self, data: Path | None, scenario: Scenario) -> tuple[float, list[str]]:
        if data is None:
            return 0.0, ["not cold: the folder of the server is not known (--data), so its page cache was left alone"]
        try:
            evicted = await asyncio.to_thread(evict, data, {target.address for target in scenario.targets})
        except OSError as error:
            return 0.0, [f"not cold: the files could not be dropped from the page cache ({error})"]
        return evicted, [] if evicted > 0.99 else [f"not all cold: {evicted:.1%} of the files left the page cache"]

    def _exchanges(
        self, host: str, scenario: Scenario, chance: random.Random, written: list[Address]
    ) -> Iterator[Exchange]:
        """Yield the requests of a scenario; the address of each upload is appended to ``written``."""
        targets = chosen(scenario.targets, scenario.choice, chance, self._plan.exponent)
        make = dataset.image_maker(self._plan.samples) if scenario.writes else None
        unused = secrets.randbits(48) << 16  # numbers that no data set has come to
        for place in range(scenario.requests):
            self._number += 1
            head = f"Host: {host}\r\nX-Request-ID: {self._prefix}{self._number}\r\n"
            if make is not None and chance.random() * 100 < scenario.writes:
                body = b"".join(make(unused + place))
                address = Address.of(body)
                written.append(address)
                request = f"POST /v1/files HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
                yield Exchange(self._number, request, address, reads=False)
                continue
            target = next(targets, None)
            if target is None:
                return
            span = part_of(target, scenario.range_bytes, chance)
            if span is not None:
                head += f"Range: bytes={span.start}-{span.end - 1}\r\n"
            request = f"GET /v1/files/{target.address} HTTP/1.1\r\n{head}\r\n".encode()
            exchange = Exchange(self._number, request, target.address, reads=True)
            exchange.expected_status = 200 if span is None else 206
            exchange.expected_bytes = target.size if span is None else span.length
            exchange.span, exchange.file_bytes = span, target.size
            yield exchange

    async def _timings(self, client: Client, batch: list[Exchange]) -> dict[int, Timing]:
        """Fetch the server's records of a slice; a worker writes its last ones just after it has answered."""
        expected = sum(exchange.reads and not exchange.error for exchange in batch)
        found: dict[int, Timing] = {}
        for _ in range(_TRIES):
            most = min(_MOST_TIMINGS, len(batch) + len(batch) // 4 + 16)
            for timing in await client.timings(most):
                if timing.request_id.startswith(self._prefix):
                    found[int(timing.request_id.removeprefix(self._prefix))] = timing
            ours = {exchange.number for exchange in batch}
            found = {number: timing for number, timing in found.items() if number in ours}
            if len(found) >= expected:
                break
            await asyncio.sleep(_PAUSE_S)
        return found


def _folder(plan: Plan) -> AbstractContextManager[Path | None]:
    if plan.data is not None:
        return nullcontext(plan.data.absolute())
    return nullcontext(None) if plan.server is not None else _Temporary()


class _Temporary(AbstractContextManager["Path | None"]):
    """A folder that is gone at the end."""

    def __enter__(self) -> Path | None:
        self._path = Path(tempfile.mkdtemp(prefix="stat7-latency-"))
        return self._path / "data"

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _slice(exchanges: Iterator[Exchange], most: int) -> list[Exchange]:
    """Take the next exchanges, fewer where uploads would fill the memory."""
    taken: list[Exchange] = []
    size = 0
    for exchange in islice(exchanges, most):
        taken.append(exchange)
        size += len(exchange.request)
        if size > _BYTES_OF_WRITES:
            break
    return taken


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


async def _delete(client: Client, written: list[Address]) -> None:
    """Take back what the mixed load has uploaded."""
    for start in range(0, len(written), 64):
        batch = written[start : start + 64]
        await asyncio.gather(*(client.delete(address) for address in batch), return_exceptions=True)
