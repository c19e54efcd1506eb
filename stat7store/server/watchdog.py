"""The watchdog: sees a process that holds the catalog's write lock and gets nowhere.

A process that is stopped in the midst of a transaction (SIGSTOP, a debugger) would block all others
for as long as it stands still. One of the server's own is killed: LMDB then undoes the transaction,
nothing of which was acknowledged. Anyone else's is only told of: it is not the server's to kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from stat7store.catalog.write_lock import Holding, WriteLock
from stat7store.server.log import Log

LOOK_EVERY_S = 1.0
_GLANCES, _GLANCE_EVERY_S = 20, 0.005
_WAITS_FOR_DISK = "D"


class _Thread(NamedTuple):
    """What the kernel tells of a thread."""

    process: int
    name: str
    state: str  # "T (stopped)"


class Watchdog:
    """Looks again and again, and says which process is to be killed."""

    def __init__(self, lock: WriteLock, limit_s: float, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit_s``: how long one transaction may hold the lock; ``clock`` is in seconds."""
        self._lock = lock
        self._limit_s = limit_s
        self._log = log
        self._clock = clock
        self._seen: Holding | None = None
        self._held_s = 0.0
        self._told = False
        self._looked = clock()
        self.stalls = 0

    def look(self, ours: Mapping[int, str]) -> int | None:
        """Return the process to kill, if there is one; to be called every ``LOOK_EVERY_S``.

        ``ours`` are the processes that may be killed, none of them waited for yet, and their names.
        """
        now = self._clock()
        # When nobody looked for long, the whole machine or the whole server slept, the holder with
        # it: such a time counts as one look.
        passed = min(now - self._looked, 2 * LOOK_EVERY_S)
        self._looked = now
        holding = self._holding()
        if holding is None or holding != self._seen:
            self._begin_anew(holding)
            return None
        self._held_s += passed
        if self._held_s < self._limit_s:
            return None
        if self._lets_go(holding):
            self._begin_anew(None)
            return None
        return self._judge(holding, ours)

    def _holding(self) -> Holding | None:
        try:
            return self._lock.holding()
        except OSError as error:
            self._log.error("the catalog's write lock cannot be watched", reason=str(error))
            return None

    def _begin_anew(self, holding: Holding | None) -> None:
        self._seen, self._held_s, self._told = holding, 0.0, False

    def _lets_go(self, holding: Holding) -> bool:
        """Tell whether many short transactions pass for one long: those that change nothing leave no number behind."""
        for _ in range(_GLANCES):
            time.sleep(_GLANCE_EVERY_S)
            if self._holding() != holding:
                return True
        return False

    def _judge(self, holding: Holding, ours: Mapping[int, str]) -> int | None:
        thread = _thread(holding.thread)
        first, self._told = not self._told, True
        self.stalls += first
        facts = {"seconds": round(self._held_s), "pid": thread.process, "state": thread.state}
        if thread.process not in ours:
            if first:
                self._log.error(
                    "another program holds the catalog's write lock; all changes wait for it. "
                    "If it was stopped, continue it with kill -CONT, or end it",
                    name=thread.name,
                    **facts,
                )
            return None
        name = ours[thread.process]
        if thread.state.startswith(_WAITS_FOR_DISK):  # it cannot be killed before the disk answers, and then goes on
            if first:
                self._log.error("the disk of the catalog does not answer; all changes wait for it", name=name, **facts)
            return None
        self._log.error(
            "a process held the catalog's write lock for too long, and is killed; nothing acknowledged is lost",
            name=name,
            **facts,
        )
        self._seen = None  # its successor may get the same number
        return thread.process


def _thread(number: int) -> _Thread:
    """Look up a thread; one that is not there, or is in another container, has process 0."""
    try:
        # the thread group's folder need not be known: each thread has one of its own name
        lines = Path(f"/proc/{number}/status").read_text(errors="replace").splitlines()
    except OSError:
        return _Thread(0, "unknown", "unknown")
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return _Thread(int(facts["Tgid"]), facts["Name"], facts["State"])
