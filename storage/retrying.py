"""Trying again: with pauses that spread out, and no more often than an outage can bear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import random
from typing import TypeVar

Result = TypeVar("Result")


class RetryBudget:
    """How many retries all callers together may still make. Any thread may use it.

    Each retry takes one from it, and each success puts a part of one back. So a few failures among
    many successes are all tried again, and an outage is not multiplied by the number of attempts.
    """

    def __init__(self, capacity: float = 200.0, earned: float = 0.25) -> None:
        """``capacity``: the budget when full, as it is at first. ``earned``: what a success puts back."""
        self._capacity = capacity
        self._earned = earned
        self._left = capacity
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one retry; False if none is left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def earn(self) -> None:
        """Tell of a success."""
        with self._lock:
            self._left = min(self._capacity, self._left + self._earned)


class Retrying:
    """Does work again that failed in passing. It blocks, pauses included; any thread may use it."""

    def __init__(
        self,
        *,
        may_pass: Callable[[Exception], bool],
        attempts: int,
        budget: RetryBudget,
        told: Callable[[], None] = lambda: None,
        pause_s: float = 0.05,
        longest_pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        """``may_pass`` tells which failures are worth another try; ``told`` hears of each retry.

        The pause before retry n is anything from 0 to ``pause_s`` · 2ⁿ seconds, and at most
        ``longest_pause_s``; ``chance`` gives a number from 0 to 1.
        """
        self._may_pass = may_pass
        self._attempts = attempts
        self._budget = budget
        self._told = told
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    def call(self, work: Callable[[], Result], until: float) -> Result:
        """Return what ``work`` returns, or raise what it raised last.

        There is no further try that would begin after ``until`` (seconds, by the clock).
        """
        attempt = 1
        while True:
            try:
                result = work()
            except Exception as error:
                if not self._again(error, attempt, until):
                    raise
                attempt += 1
            else:
                self._budget.earn()
                return result

    def _again(self, error: Exception, attempt: int, until: float) -> bool:
        if attempt >= self._attempts or not self._may_pass(error):
            return False
        pause = self._chance() * min(self._longest_pause_s, self._pause_s * 2**attempt)
        if self._clock() + pause >= until or not self._budget.take():
            return False
        self._told()
        self._sleep(pause)
        return True
