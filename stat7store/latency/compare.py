"""Two reports side by side, with a verdict for every stage."""

from __future__ import annotations

from dataclasses import dataclass

from stat7store.errors import Malformed
from stat7store.latency.report import Report, Summary

# Less than this is within what two runs of the same thing differ by.
_RATIO = 1.10
_LEAST_MS = 0.002


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one stage of one run changed: ``faster``, ``slower`` or ``same``, judged by the median."""

    stage: str
    before: Summary
    after: Summary
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Verdicts by the name of the run; runs that only one report has are named in ``unmatched``."""

    runs: dict[str, list[Verdict]]
    unmatched: list[str]


def compare(before: Report, after: Report) -> Comparison:
    """Compare the runs that both reports have, by name. Raises ``Malformed`` if there are none."""
    earlier = {run.name: run for run in before.runs}
    later = {run.name: run for run in after.runs}
    common = [name for name in earlier if name in later]
    if not common:
        raise Malformed("the two reports have no run in common")
    runs = {
        name: [
            Verdict(stage, summary, later[name].stages[stage], _judged(summary, later[name].stages[stage]))
            for stage, summary in earlier[name].stages.items()
            if stage in later[name].stages
        ]
        for name in common
    }
    return Comparison(runs, sorted(earlier.keys() ^ later.keys()))


def _judged(before: Summary, after: Summary) -> str:
    if abs(after.p50_ms - before.p50_ms) < _LEAST_MS:
        return "same"
    if after.p50_ms > before.p50_ms * _RATIO:
        return "slower"
    return "faster" if after.p50_ms * _RATIO < before.p50_ms else "same"
