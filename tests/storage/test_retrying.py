"""Work that fails in passing is done again, within bounds."""

from __future__ import annotations

import pytest

from storage.retrying import RetryBudget, Retrying


class Passing(Exception):
    """What may pass."""


class Clock:
    """Time that goes on in sleep only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Work:
    """Fails so many times, then returns how often it was done."""

    def __init__(self, failures: int, error: type[Exception] = Passing) -> None:
        self.failures = failures
        self.error = error
        self.done = 0

    def __call__(self) -> int:
        self.done += 1
        if self.done <= self.failures:
            raise self.error
        return self.done


def retrying(clock: Clock, *, attempts: int = 4, budget: RetryBudget | None = None, chance: float = 1.0) -> Retrying:
    """Return one that tells the time by this clock."""
    return Retrying(
        may_pass=lambda error: isinstance(error, Passing),
        attempts=attempts,
        budget=budget or RetryBudget(),
        pause_s=1.0,
        longest_pause_s=5.0,
        clock=clock,
        sleep=clock.sleep,
        chance=lambda: chance,
    )


def test_tries_until_it_succeeds() -> None:
    """What fails in passing is done again, and its result returned."""
    assert retrying(Clock()).call(Work(3), until=100.0) == 4


def test_tries_no_more_than_it_may() -> None:
    """The last failure is raised once the attempts are used up."""
    work = Work(10)
    with pytest.raises(Passing):
        retrying(Clock()).call(work, until=100.0)
    assert work.done == 4


def test_what_cannot_pass_is_tried_once() -> None:
    """A failure that trying again cannot mend is raised at once."""
    work = Work(1, KeyError)
    with pytest.raises(KeyError):
        retrying(Clock()).call(work, until=100.0)
    assert work.done == 1


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    """The pause doubles with each retry up to its bound, and chance shortens it."""
    clock = Clock()
    retrying(clock, attempts=6).call(Work(5), until=100.0)
    assert clock.pauses == [2, 4, 5, 5, 5]
    clock = Clock()
    retrying(clock, attempts=4, chance=0.25).call(Work(3), until=100.0)
    assert clock.pauses == [0.5, 1, 1.25]


def test_begins_nothing_after_the_deadline() -> None:
    """A retry whose pause would reach the deadline is not waited for."""
    clock = Clock()
    work = Work(10)
    with pytest.raises(Passing):
        retrying(clock, attempts=10).call(work, until=6.5)
    assert clock.now == 6
    assert work.done == 3


def test_an_outage_is_not_multiplied() -> None:
    """Once the budget is spent each call is tried once, until successes have earned more."""
    budget = RetryBudget(capacity=6, earned=0.5)
    done = 0
    for _ in range(100):
        work = Work(10)
        with pytest.raises(Passing):
            retrying(Clock(), budget=budget).call(work, until=100.0)
        done += work.done
    assert done == 106
    for _ in range(4):
        retrying(Clock(), budget=budget).call(Work(0), until=100.0)
    work = Work(10)
    with pytest.raises(Passing):
        retrying(Clock(), budget=budget).call(work, until=100.0)
    assert work.done == 3
