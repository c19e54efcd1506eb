"""The comparison: start all, load all, verify all, then measure case by case, in turns."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from scripts.peers.asking import CannotAsk
from scripts.peers.cases import Case, for_workers
from scripts.peers.contest import RAW, RAW_REMARK, Contestant, Found, RawWrites, Served
from scripts.peers.files import File, Shape, files_of, shape_of, size_text
from scripts.peers.peer import Peer
from scripts.peers.processes import free_port
from scripts.peers.report import About, Comparison, Measurement, ratios_of
from scripts.peers.verify import load, verify
from stat7store.errors import Unavailable
from stat7store.latency.run import machine

_QUIET = 0.5  # load average of a machine with nothing else to do


@dataclass(frozen=True)
class Plan:
    """What is compared. The first peer is the one that the others are held against."""

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
    left_out: Sequence[str] = ()


@dataclass
class _Notes:
    left_out: list[str]
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    cannot: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # cases, by peer and reason


def compare(plan: Plan, show: Callable[[str], None]) -> Comparison:
    """Carry out a plan; everything it started is stopped and removed when it returns or raises.

    What fails once something was measured (a case, or a server that does not start with so many workers) is told of
    in the comparison. Raises ``WrongAnswer`` if a peer answers with other bytes than it was given, ``Unavailable`` if
    one does not start at first.
    """
    notes = _Notes(list(plan.left_out))
    sizes = sorted({case.file_size for case in plan.cases})
    shapes = {size: shape_of(size, plan.samples) for size in sizes}
    read = {case.file_size for case in plan.cases if case.kind.value != "put"}
    files = {size: files_of(shapes[size], plan.counts[size]) for size in sizes if size in read}
    busy = os.getloadavg()[0]
    if busy > _QUIET:
        notes.notes.append(
            f"The load average was {busy:.1f} at the start: other programs had their part of the cores, so that "
            "rates are too low and ratios wide; answers for a second of CPU are less affected"
        )
    notes.notes.append(
        "Chosen at random from "
        + ", ".join(f"{len(found):,} files of {size_text(size)}" for size, found in files.items())
    )
    measurements: list[Measurement] = []
    abouts: dict[str, About] = {}
    with tempfile.TemporaryDirectory(prefix="stat7-peers-", dir=plan.folder) as folder:
        for workers in plan.workers:
            servers, client = _cores(workers, notes)
            try:
                with _running(plan, Path(folder), workers, (servers, client), files, shapes, show) as (contest, told):
                    abouts |= {about.name: about for about in told}
                    for case in for_workers(plan.cases, workers):
                        try:
                            measurements += _measured(plan, case, workers, contest, notes, show)
                        except (Unavailable, OSError) as error:
                            _break(notes, show, f"{case.name}, {workers} workers: {error}")
            except (Unavailable, OSError) as error:
                if not measurements:
                    raise
                _break(notes, show, f"{workers} workers: {error}")
        show("removing what was written")
    if any(found.peer == RAW for found in measurements):
        abouts[RAW] = About(name=RAW, version="", durable=True, remark=RAW_REMARK, verified=0)
    base = plan.peers[0].name
    return Comparison(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=plan.command,
        machine=machine(),
        base=base,
        seconds=plan.seconds,
        rounds=plan.rounds,
        peers=list(abouts.values()),
        left_out=notes.left_out + [_left_out(*why, names) for why, names in notes.cannot.items()],
        broken=notes.broken,
        notes=notes.notes,
        measurements=measurements,
        ratios=ratios_of(measurements, base),
    )


def _break(notes: _Notes, show: Callable[[str], None], what: str) -> None:
    notes.broken.append(what)
    show(f"it broke: {what}")


@contextmanager
def _running(
    plan: Plan,
    folder: Path,
    workers: int,
    cores: tuple[Sequence[int], int],
    files: Mapping[int, Sequence[File]],
    shapes: Mapping[int, Shape],
    show: Callable[[str], None],
) -> Iterator[tuple[list[Contestant], list[About]]]:
    """Run every peer with its files in it, verified."""
    servers, client = cores
    every = [file for found in files.values() for file in found]
    contest: list[Contestant] = []
    abouts = []
    with ExitStack() as stack:
        for number, peer in enumerate(plan.peers):
            show(f"{peer.name}: loading and verifying {len(every):,} files, {workers} workers")
            own = folder / f"{number}"
            is_new = not own.exists()
            laid = peer.lay(own, every) if is_new else False
            port = free_port()
            processes = stack.enter_context(peer.serving(own, port, workers, servers))
            if not laid and (is_new or peer.blobs(own) is None):
                load(peer, port, every)
            tags = verify(peer, port, every)
            contest.append(Served(peer, own, port, processes, client, files, shapes, tags))
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
            contest.append(RawWrites(folder, servers[0]))
        yield contest, abouts


def _measured(
    plan: Plan,
    case: Case,
    workers: int,
    contest: Sequence[Contestant],
    notes: _Notes,
    show: Callable[[str], None],
) -> Iterator[Measurement]:
    rounds: dict[str, list[Found]] = {}
    taking = []
    for contestant in filter(lambda each: each.takes(case), contest):
        show(f"{case.name}, {workers} workers: {contestant.name} warms up")
        try:
            contestant.begin(case, plan.seconds)
        except CannotAsk as error:
            notes.cannot.setdefault((contestant.name, str(error)), []).append(case.name)
            continue
        taking.append(contestant)
    for number in range(plan.rounds):
        for contestant in taking:
            show(f"{case.name}, {workers} workers, round {number + 1} of {plan.rounds}: {contestant.name}")
            rounds.setdefault(contestant.name, []).append(contestant.measure(case, plan.seconds))
    for name, found in rounds.items():
        yield _measurement(case, name, workers, found)


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
        tails=[found.done.tail for found in rounds if found.done.tail],
        errors=sum(found.done.errors for found in rounds),
        error=next((found.done.error for found in rounds if found.done.error), ""),
    )


def _left_out(peer: str, reason: str, cases: Sequence[str]) -> str:
    return f"{peer}, {', '.join(dict.fromkeys(cases))}: {reason}"


def _cores(workers: int, notes: _Notes) -> tuple[list[int], int]:
    """Return the servers' cores and the client's; it shares one if there are too few, which is noted."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= workers:
        notes.notes.append(
            f"With {workers} workers the client shares their cores: this machine is too small to tell how they scale"
        )
    return cores[:workers], cores[min(workers, len(cores) - 1)]
