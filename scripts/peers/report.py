"""What the comparison found, as values and as JSON. Latencies in milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from scripts.peers.work import Tail
from stat7store.latency.report import Machine

FORMAT = 1


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that took part. ``verified``: answers compared byte for byte with what was stored, all alike.

    ``durable``: whether an acknowledged write is on the disk; None if it takes none.
    """

    name: str
    version: str
    durable: bool | None
    remark: str
    verified: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One case on one peer: rates and latencies by round, each list in the order of the rounds.

    ``per_cpu_s``: right answers for each second of the server's CPU, which is what neighbours on the machine
    change least. ``server_cpu`` and ``client_cpu``: cores that were busy, the median of the rounds. ``rate``:
    in an open loop, the requests that were due a second; else 0. ``tails``: what such a loop tells besides, by round.
    ``congestion``: the TCP congestion control that the case's name ends with; "" for the kernel's own.
    """

    case: str
    peer: str
    workers: int
    per_second: list[float]
    p50_ms: list[float]
    p99_ms: list[float]
    per_cpu_s: list[float]
    server_cpu: float
    client_cpu: float
    rate: float = 0.0
    congestion: str = ""
    tails: list[Tail] = []
    errors: int = 0
    error: str = ""

    @property
    def server_us(self) -> float:
        """CPU time of the server for an answer, in microseconds, the median of the rounds; 0 if none was seen."""
        per_cpu_s = statistics.median(self.per_cpu_s)
        return 1e6 / per_cpu_s if per_cpu_s else 0.0

    @property
    def client_us(self) -> float:
        """CPU time of the client for an answer, in microseconds."""
        per_second = statistics.median(self.per_second)
        return self.client_cpu * 1e6 / per_second if per_second else 0.0

    @property
    def late_p99_ms(self) -> float:
        """How late an open loop's client itself was, the median of the rounds."""
        return statistics.median(tail.late_p99_ms for tail in self.tails) if self.tails else 0.0

    @property
    def client_bound(self) -> bool:
        """Whether the server may be faster than this: the client's core was busy all the time.

        An open loop's client always is, since it waits in a spin: there, whether half of p99 was its own lateness.
        """
        if self.rate:
            return self.late_p99_ms > statistics.median(self.p99_ms) / 2
        return self.client_cpu > 0.95


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The first peer's rate over another's, round by round: median, least and greatest; above 1 the first is faster.

    ``by_cpu``: the same of answers for each second of the server's CPU, the median.
    """

    case: str
    peer: str
    workers: int
    median: float
    low: float
    high: float
    by_cpu: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison. ``left_out``: what could not take part, or not in all, and why; ``broken``: what failed."""

    format: int = FORMAT
    made_at: str
    command: str
    machine: Machine
    base: str
    seconds: float
    rounds: int
    peers: list[About]
    left_out: list[str]
    broken: list[str] = []
    notes: list[str]
    measurements: list[Measurement]
    ratios: list[Ratio]


def ratios_of(measurements: Sequence[Measurement], base: str) -> list[Ratio]:
    """Compare ``base`` with each other peer, case by case: those that erred in none of its rounds.

    Rounds with nothing answered do not count.
    """
    right = [found for found in measurements if not found.errors]
    bases = {(found.case, found.workers): found for found in right if found.peer == base}
    ratios = []
    for other in right:
        ours = bases.get((other.case, other.workers))
        if ours is None or other is ours or other.rate:
            continue
        each = _over(ours.per_second, other.per_second)
        by_cpu = _over(ours.per_cpu_s, other.per_cpu_s)
        if each and by_cpu:
            ratios.append(
                Ratio(
                    case=other.case,
                    peer=other.peer,
                    workers=other.workers,
                    median=statistics.median(each),
                    low=min(each),
                    high=max(each),
                    by_cpu=statistics.median(by_cpu),
                )
            )
    return ratios


def _over(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [mine / theirs for mine, theirs in zip(ours, others, strict=True) if theirs]
