"""Histograms of the stages: close to the exact percentiles, mergeable, and with a last minute."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.server.histograms import BUCKETS, COUNTED, LONGEST_NS, Histograms, StageSummary, middle_ns

SECOND = 1_000_000_000
TOLERANCE = 0.004
STARTED = 5 * SECOND

durations = st.one_of(
    st.integers(1, LONGEST_NS),
    st.integers(0, 41).flatmap(lambda power: st.integers(2**power, 2 ** (power + 1) - 1)),
    st.integers(0, 41).map(lambda power: 2**power),
).map(lambda ns: min(ns, LONGEST_NS))


def make(workers: int = 1) -> list[Histograms]:
    memory = Histograms.allocate(workers)
    return [Histograms(memory, workers, worker, STARTED) for worker in range(1, workers + 1)]


def count(histograms: Histograms, ns: int) -> None:
    histograms.count(*[ns] * len(COUNTED))


def total(histograms: Histograms, now: int = 2 * STARTED) -> StageSummary:
    return histograms.since_start(now).stages["total"]


def close(ms: float | None, ns: float) -> bool:
    return ms is not None and abs(ms * 1e6 - ns) <= ns * TOLERANCE


@given(ns=durations)
def test_one_duration(ns: int) -> None:
    """Any duration from 1 ns to 1 h is given back within 0.4 %, in every figure of every stage."""
    [histograms] = make()
    count(histograms, ns)
    for stage in histograms.since_start(2 * STARTED).stages.values():
        assert stage.count == 1
        for figure in (stage.mean_ms, stage.p50_ms, stage.p90_ms, stage.p99_ms, stage.p999_ms, stage.max_ms):
            assert close(figure, ns)


@given(values=st.lists(durations, min_size=1, max_size=300))
def test_percentiles_near_the_exact_ones(values: list[int]) -> None:
    """Percentiles, mean and maximum are within 0.4 % of those of the exact values."""
    [histograms] = make()
    for ns in values:
        count(histograms, ns)
    values.sort()
    summary = total(histograms)
    assert summary.count == len(values)
    assert close(summary.mean_ms, sum(values) / len(values))
    assert close(summary.max_ms, values[-1])
    for percent, figure in ((50, summary.p50_ms), (90, summary.p90_ms), (99, summary.p99_ms), (99.9, summary.p999_ms)):
        assert close(figure, values[math.ceil(len(values) * percent / 100) - 1])


def test_buckets_ascend_without_a_gap() -> None:
    """The middles of the buckets ascend by less than one part in 127, from 1 ns to an hour."""
    middles = [middle_ns(bucket) for bucket in range(BUCKETS)]
    assert all(low < high < low * (1 + 1 / 127) for low, high in itertools.pairwise(middles))
    assert middles[0] == pytest.approx(1, rel=TOLERANCE)
    assert middles[-1] == pytest.approx(LONGEST_NS, rel=TOLERANCE)


def test_stages_are_counted_apart() -> None:
    """A duration is counted in its own stage and no other, the first and last buckets included."""
    for number, stage in enumerate(COUNTED):
        [histograms] = make()
        for ns in (1, LONGEST_NS):
            histograms.count(*[ns if other == number else 0 for other in range(len(COUNTED))])
        stages = histograms.since_start(2 * STARTED).stages
        assert {name: summary.count for name, summary in stages.items()} == {
            name: 2 if name == stage else 0 for name in COUNTED
        }


def test_stage_that_did_not_take_place() -> None:
    """A stage of 0 ns is not counted, and what has no counts has no figures."""
    [histograms] = make()
    count(histograms, 0)
    assert total(histograms) == StageSummary(0, None, None, None, None, None, None)


@pytest.mark.parametrize("ns", [LONGEST_NS, LONGEST_NS + 1, 10 * LONGEST_NS, 2**63])
def test_longer_than_an_hour(ns: int) -> None:
    """Whatever takes longer than an hour counts as an hour."""
    [histograms] = make()
    count(histograms, ns)
    assert close(total(histograms).max_ms, LONGEST_NS)


@given(values=st.lists(st.tuples(st.integers(0, 2), durations), max_size=100))
def test_workers_add_up(values: list[tuple[int, int]]) -> None:
    """The summary over the workers is that of one worker that had counted everything."""
    workers = make(3)
    [alone] = make()
    for worker, ns in values:
        count(workers[worker], ns)
        count(alone, ns)
    assert workers[1].since_start(2 * STARTED) == alone.since_start(2 * STARTED)
    assert workers[2].last_minute(2 * STARTED) == alone.last_minute(2 * STARTED)


def test_last_minute_forgets() -> None:
    """With a roll every ten seconds, a count is in the last minute for 60 to 70 seconds."""
    [histograms] = make()
    now = STARTED
    for _ in range(40):
        now += 10 * SECOND
        histograms.roll(now)
        count(histograms, 1_000_000)
    for _ in range(10):
        period = histograms.last_minute(now)
        assert 60 <= period.seconds <= 70
        assert period.stages["total"].count in {6, 7}
        assert histograms.since_start(now).stages["total"].count == 40
        now += SECOND
    count(histograms, 5_000_000_000)
    assert close(histograms.last_minute(now).stages["total"].max_ms, 5_000_000_000)
    for _ in range(7):
        now += 10 * SECOND
        histograms.roll(now)
    assert histograms.last_minute(now).stages["total"].count == 0
    assert close(histograms.since_start(now).stages["total"].max_ms, 5_000_000_000)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 100)),
        st.tuples(st.just("count"), st.integers(0, 1)),
        st.tuples(st.just("roll"), st.integers(0, 1)),
        st.tuples(st.just("tick"), st.integers(1, 20)),
    ),
    max_size=60,
)


@given(steps=steps)
def test_last_minute_says_what_it_covers(steps: list[tuple[str, int]]) -> None:
    """However often or seldom it is rolled, the last minute has every count of the last 60 seconds,
    and none from before the seconds that it says it covers.
    """
    workers = make(2)
    now = STARTED
    counted: list[int] = []
    for step, argument in steps:
        if step == "wait":
            now += argument * SECOND
        elif step == "count":
            now += 1
            count(workers[argument], 1000)
            counted.append(now)
        elif step == "roll":
            now += 1
            workers[argument].roll(now)
        else:
            for _ in range(argument):
                now += SECOND
                for worker in workers:
                    worker.roll(now)
        period = workers[0].last_minute(now)
        number = period.stages["total"].count
        assert number >= sum(moment > now - 60 * SECOND for moment in counted)
        assert number <= sum(moment >= now - round(period.seconds * 1e9) for moment in counted)
        assert period.seconds >= min(60, (now - STARTED) / 1e9)
        assert period.seconds <= (now - STARTED) / 1e9
