"""The charts of a latency report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from stat7store.latency.charts import lines, stacked_bars
from stat7store.latency.report import PARTS, TOTAL, Run

_SHOWN_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


def pictures(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Yield the charts of all runs: a short name, fit for a file, and the SVG."""
    found = list(groups(runs))
    # a lone run, such as the first check of every file, says little in a chart beside others
    for number, (title, group) in enumerate([several for several in found if len(several[1]) > 1] or found, 1):
        yield f"{number}-stages", _stages(title, group)
        yield f"{number}-percentiles", _percentiles(title, group)
        yield f"{number}-over-time", _over_time(title, group)
    if len({run.file_count for run in runs}) > 1:
        for number, (title, group) in enumerate(_loads(runs), 1):
            yield f"scaling-{number}", _scaling(title, group)


def groups(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Yield the runs that differ in their load alone, with what they have in common."""
    for (title, _), group in groupby(runs, lambda run: (run.name.rpartition(",")[0], run.file_count)):
        yield title, list(group)


def load_of(run: Run) -> str:
    """Return how a run loads the server, in words."""
    return run.name.rpartition(",")[2].strip()


def _stages(title: str, group: Sequence[Run]) -> str:
    rows = [
        (
            load_of(run),
            {part: run.stages[part].mean_ms for part in PARTS},
            f"{run.stages[TOTAL].mean_ms:.3g} ms",
        )
        for run in group
    ]
    return stacked_bars(f"Where the time goes (mean): {title}", rows)


def _percentiles(title: str, group: Sequence[Run]) -> str:
    series = {
        load_of(run): [(_nines(percentile), latency) for percentile, latency in run.percentiles if percentile < 100]
        for run in group
    }
    ticks = [(_nines(percentile), f"{percentile:g} %") for percentile in _SHOWN_PERCENTILES]
    return lines(f"Latency by percentile: {title}", series, x_name="retrievals", y_name="ms", x_ticks=ticks)


def _nines(percentile: float) -> float:
    return -math.log10(1 - percentile / 100)


def _over_time(title: str, group: Sequence[Run]) -> str:
    series = {f"{load_of(run)}, p99": [(moment.at_s, moment.p99_ms) for moment in run.over_time] for run in group}
    return lines(f"Latency over time: {title}", series, x_name="seconds under load", y_name="ms")


def _loads(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    def without_count(run: Run) -> str:
        return run.name.partition(" ")[2].rpartition(",")[0]

    for title in dict.fromkeys(map(without_count, runs)):
        group = [run for run in runs if without_count(run) == title]
        if len({run.file_count for run in group}) > 1:
            yield title, group


def _scaling(title: str, group: Sequence[Run]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for run in sorted(group, key=lambda run: run.file_count):
        for name, latency in (("p50", run.stages[TOTAL].p50_ms), ("p99", run.stages[TOTAL].p99_ms)):
            series.setdefault(f"{load_of(run)}, {name}", []).append((run.file_count, latency))
    return lines(f"Scaling: {title}", series, x_name="files", y_name="ms", logarithmic_x=True)
