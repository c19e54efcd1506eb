"""The comparison: start all, load all, verify all, then measure case by case, in turns."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts.peers.asking import CannotAsk
from scripts.peers.cases import Case, Kind, for_workers
from scripts.peers.congestion import use_congestion
from scripts.peers.contest import FLOORS, Contestant, Found, RawWrites, Served
from scripts.peers.files import File, Shape, files_of, shape_of, size_text
from scripts.peers.peer import Peer, SupportsAccessLog
from scripts.peers.processes import free_port
from scripts.peers.progress import keep_progress, read_progress
from scripts.peers.report import About, Comparison, Measurement, ratios_of
from scripts.peers.verify import load, verify
from stat7store.errors import Unavailable
from stat7store.latency.machine import this_machine

_QUIET = 0.5  # load average of a machine with nothing else to do


@dataclass(frozen=True)
class Plan:
    """What is compared. The first peer is the one that the others are held against.

    ``own_network``: the process is in a network of its own, where cases choose the congestion control. ``kept``: the
    file that keeps what is measured after each case, and that another run of the same command goes on from.
    """

    peers: Sequence[Peer]
    cases: Sequence[Case]
    samples: Path
    counts: Mapping[int, int]
    command: str
    folder: Path | None = None
    workers: Sequence[int] = (1,)
    rounds: int = 5
    seconds: float = 2.0
    raw: bool = True
    own_network: bool = False
    kept: Path | None = None
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class _Loaded:
    """The files of each size, and the shapes of all that are written."""

    files: Mapping[int, Sequence[File]]
    shapes: Mapping[int, Shape]


class _Comparing:
    """One run of a plan; ``progress`` is what it and those before it found."""

    def __init__(self, plan: Plan, show: Callable[[str], None]) -> None:
        self._plan, self._show = plan, show
        self.progress = read_progress(plan.kept, plan.command)
        self.broken: list[str] = []

    def run(self) -> None:
        """Measure what is not measured yet."""
        plan, progress = self._plan, self.progress
        sizes = sorted({case.file_size for case in plan.cases})
        shapes = {size: shape_of(size, plan.samples) for size in sizes}
        read = {case.file_size for case in plan.cases if case.kind is not Kind.PUT}
        files = {size: files_of(shapes[size], plan.counts[size]) for size in sizes if size in read}
        busy = os.getloadavg()[0]
        if busy > _QUIET:
            progress.notes.append(
                f"The load average was {busy:.1f} at the start: other programs had their part of the cores, so that "
                "rates are too low and ratios wide; answers for a second of CPU are less affected"
            )
        progress.notes.append(
            "Chosen at random from "
            + ", ".join(f"{len(found):,} files of {size_text(size)}" for size, found in files.items())
        )
        with tempfile.TemporaryDirectory(prefix="stat7-peers-", dir=plan.folder) as folder:
            for workers, logged in itertools.product(plan.workers, (False, True)):
                cases = [case for case in for_workers(plan.cases, workers) if case.with_access_log == logged]
                left = [case for case in cases if (case.name, workers) not in progress.done]
                if left:
                    self._measure_all(left, workers, Path(folder), _Loaded(files, shapes))
            self._show("removing what was written")

    def _measure_all(self, cases: Sequence[Case], workers: int, folder: Path, loaded: _Loaded) -> None:
        """Measure cases that need the same servers; all of them have an access log, or none."""
        progress = self.progress
        cores = _cores(workers, progress.notes)
        try:
            with _running(self._plan, folder, workers, cores, loaded, self._show, logged=cases[0].with_access_log) as (
                contest,
                abouts,
            ):
                progress.abouts |= {about.name: about for about in abouts}
                for case in cases:
                    try:
                        self._measure(case, workers, contest)
                    except (Unavailable, OSError) as error:
                        self._break(f"{case.name}, {workers} workers: {error}")
        except (Unavailable, OSError) as error:
            if not progress.measurements:
                raise
            self._break(f"{workers} workers: {error}")

    def _measure(self, case: Case, workers: int, contest: Sequence[Contestant]) -> None:
        plan, show = self._plan, self._show
        rounds: dict[str, list[Found]] = {}
        taking: list[Contestant] = []
        cannot: list[tuple[str, str, str]] = []
        if plan.own_network:
            use_congestion(case.congestion)
        for contestant in filter(lambda each: each.takes(case), contest):
            show(f"{case.name}, {workers} workers: {contestant.name} warms up")
            try:
                contestant.begin(case, plan.seconds)
            except CannotAsk as error:
                cannot.append((contestant.name, str(error), case.name))
                continue
            taking.append(contestant)
        for number in range(plan.rounds):
            for contestant in taking:
                show(f"{case.name}, {workers} workers, round {number + 1} of {plan.rounds}: {contestant.name}")
                rounds.setdefault(contestant.name, []).append(contestant.measure(case, plan.seconds))
        self.progress.measurements += [_measurement(case, name, workers, found) for name, found in rounds.items()]
        self.progress.cannot += cannot
        self.progress.done.append((case.name, workers))
        keep_progress(plan.kept, self.progress)

    def _break(self, what: str) -> None:
        self.broken.append(what)
        self._show(f"it broke: {what}")


def compare(plan: Plan, show: Callable[[str], None]) -> Comparison:
    """Carry out a plan; everything it started is stopped and removed when it returns or raises.

    What fails once something was measured (a case, or a server that does not start with so many workers) is told of
    in the comparison. Raises ``WrongAnswer`` if a peer answers with other bytes than it was given, ``Unavailable`` if
    one does not start at first, ``Malformed`` if ``plan.kept`` is of another plan.
    """
    comparing = _Comparing(plan, show)
    comparing.run()
    progress, base = comparing.progress, plan.peers[0].name
    abouts = dict(progress.abouts)
    for floor in FLOORS:
        if any(found.peer == floor.name for found in progress.measurements):
            abouts[floor.name] = About(name=floor.name, version="", durable=True, remark=floor.remark, verified=0)
    if progress.parts > 1:
        progress.notes.append(f"Measured in {progress.parts} runs, one going on where the other was interrupted")
    in_order = {
        (case.name, workers): n for n, (workers, case) in enumerate(itertools.product(plan.workers, plan.cases))
    }
    measurements = sorted(progress.measurements, key=lambda found: in_order[found.case, found.workers])
    return Comparison(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=plan.command,
        machine=this_machine(),
        base=base,
        seconds=plan.seconds,
        rounds=plan.rounds,
        peers=list(abouts.values()),
        left_out=[*plan.left_out, *progress.left_out()],
        broken=comparing.broken,
        notes=list(dict.fromkeys(progress.notes)),
        measurements=measurements,
        ratios=ratios_of(measurements, base),
    )


@contextmanager
def _running(
    plan: Plan,
    folder: Path,
    workers: int,
    cores: tuple[Sequence[int], int],
    loaded: _Loaded,
    show: Callable[[str], None],
    *,
    logged: bool,
) -> Iterator[tuple[list[Contestant], list[About]]]:
    """Run every peer with its files in it, verified; ``logged``: those that keep an access log, with it."""
    servers, client = cores
    every = [file for found in loaded.files.values() for file in found]
    contest: list[Contestant] = []
    abouts = []
    with ExitStack() as stack:
        for number, known in enumerate(plan.peers):
            if logged and not isinstance(known, SupportsAccessLog):
                continue
            peer = known.with_access_log() if logged and isinstance(known, SupportsAccessLog) else known
            show(f"{peer.name}: loading and verifying {len(every):,} files, {workers} workers")
            own = folder / f"{number}"
            is_new = not own.exists()
            laid = peer.lay(own, every) if is_new else False
            port = free_port()
            processes = stack.enter_context(peer.serving(own, port, workers, servers))
            if not laid and (is_new or peer.blobs(own) is None):
                load(peer, port, every)
            tags = verify(peer, port, every)
            contest.append(Served(peer, own, port, processes, client, loaded.files, loaded.shapes, tags))
            abouts.append(
                About(
                    name=peer.name,
                    version=peer.version(),
                    durable=peer.durable if peer.writing else None,
                    remark=peer.remark,
                    verified=len(every),
                )
            )
        os.sync()
        if plan.raw:
            contest += [RawWrites(floor, folder, servers[0]) for floor in FLOORS]
        yield contest, abouts


def _measurement(case: Case, name: str, workers: int, rounds: Sequence[Found]) -> Measurement:
    return Measurement(
        case=case.name,
        peer=name,
        workers=workers,
        per_second=[found.done.per_second for found in rounds],
        p50_ms=[found.done.p50_ms for found in rounds],
        p99_ms=[found.done.p99_ms for found in rounds],
        per_cpu_s=[found.done.per_second / found.server_cpu if found.server_cpu else 0.0 for found in rounds],
        server_cpu=statistics.median(found.server_cpu for found in rounds),
        client_cpu=statistics.median(found.done.client_cpu_s / found.done.seconds for found in rounds),
        rate=rounds[-1].rate,
        congestion=case.congestion,
        tails=[found.done.tail for found in rounds if found.done.tail],
        errors=sum(found.done.errors for found in rounds),
        error=next((found.done.error for found in rounds if found.done.error), ""),
    )


def _cores(workers: int, notes: list[str]) -> tuple[list[int], int]:
    """Return the servers' cores and the client's; it shares one if there are too few, which is noted."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= workers:
        notes.append(
            f"With {workers} workers the client shares their cores: this machine is too small to tell how they scale"
        )
    return cores[:workers], cores[min(workers, len(cores) - 1)]
