"""One run's measurements: the client's, joined with the server's record of the same request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from stat7store.latency.histogram import Durations
from stat7store.latency.report import CLIENT, OTHER, PARTS, SCHEDULE, TOTAL, Moment, Summary
from stat7store.latency.wire import Exchange
from stat7store.timing import STAGES, Timing

CONNECT, FIRST_BYTE, DISK_FIRST, UPLOAD = "connect", "first byte", "disk first byte", "upload"
_EXTRAS = (CONNECT, FIRST_BYTE, DISK_FIRST, UPLOAD)
_MOMENTS = 60


class Recording:
    """Collects exchanges slice by slice; memory grows by 16 bytes a retrieval."""

    def __init__(self) -> None:
        self._durations = {name: Durations() for name in (*PARTS, TOTAL, *_EXTRAS)}
        self._joined_total = Durations()
        self._ended: list[tuple[int, int]] = []
        self.errors: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.requests = self.writes = self.joined = self.verified = self.bytes = 0
        self.seconds = 0.0

    def add(self, exchanges: Iterable[Exchange], timings: Mapping[int, Timing]) -> None:
        """Take one slice that has ended; ``timings`` are the server's records by request number."""
        ended = list(exchanges)
        begun = min(exchange.intended for exchange in ended)
        for exchange in ended:
            self._add_one(exchange, timings.get(exchange.number), begun)
        self.seconds += (max(exchange.last for exchange in ended) - begun) / 1e9

    def _add_one(self, exchange: Exchange, timing: Timing | None, begun: int) -> None:
        self.requests += 1
        self.writes += not exchange.reads
        if exchange.error:
            self.errors[exchange.error] += 1
            return
        self.verified += exchange.verified and exchange.reads
        self.bytes += exchange.received if exchange.reads else len(exchange.request)
        took = exchange.last - exchange.intended
        if exchange.connect_ns:
            self._durations[CONNECT].add(exchange.connect_ns)
        if not exchange.reads:
            self._durations[UPLOAD].add(took)
            return
        self._durations[TOTAL].add(took)
        self._durations[FIRST_BYTE].add(exchange.first - exchange.sent)
        self._ended.append((int(self.seconds * 1e9) + exchange.last - begun, took))
        if timing is not None:
            self._join(exchange, timing, took)

    def _join(self, exchange: Exchange, timing: Timing, took: int) -> None:
        self.joined += 1
        self.sources[timing.source or "none"] += 1
        self._joined_total.add(took)
        stages = {stage: round(getattr(timing, f"{stage}_ms") * 1e6) for stage in STAGES}
        in_server = round(timing.total_ms * 1e6)
        parts = {
            SCHEDULE: exchange.sent - exchange.intended,
            **stages,
            OTHER: in_server - sum(stages.values()),
            CLIENT: exchange.last - exchange.sent - in_server,
        }
        for part, duration in parts.items():
            self._durations[part].add(duration)
        self._durations[DISK_FIRST].add(round(timing.disk_first_ms * 1e6))

    def stages(self) -> dict[str, Summary]:
        """Return every part with its share of the total, the total, and what the client saw besides."""
        whole = self._joined_total.summary().mean_ms
        found = {part: self._durations[part].summary(whole) for part in PARTS}
        found[TOTAL] = self._durations[TOTAL].summary()
        return found | {name: self._durations[name].summary() for name in _EXTRAS if self._durations[name].count}

    def percentiles(self) -> list[tuple[float, float]]:
        """Return the total's latency by percentile."""
        return self._durations[TOTAL].curve()

    def over_time(self) -> list[Moment]:
        """Return the latency in up to 60 slices of the run's time."""
        width = max(int(self.seconds * 1e9 / _MOMENTS), 1)
        slices: dict[int, list[int]] = {}
        for at, took in self._ended:
            slices.setdefault(min(at // width, _MOMENTS - 1), []).append(took)
        return [
            Moment(
                number * width / 1e9,
                len(found),
                _percentile(sorted(found), 50) / 1e6,
                _percentile(sorted(found), 99) / 1e6,
            )
            for number, found in sorted(slices.items())
        ]


def _percentile(ordered: list[int], percentile: float) -> int:
    return ordered[min(int(len(ordered) * percentile / 100), len(ordered) - 1)]
