"""What the processes of a node count is summed up, and survives those that die."""

from __future__ import annotations

import mmap
import os
import signal

import pytest

from stat7store.server.tallies import Tallies, TalliesMemory

NAMES = ("janitor", "worker 1", "worker 2")


def test_all_processes_are_summed() -> None:
    """Each tells its own counts as often as it likes; the total is the sum of the last of each."""
    memory = TalliesMemory(NAMES[:3])
    first, second, third = (Tallies(memory, number) for number in range(3))
    assert first.total() == {}
    first.tell({"s3_requests": 1})
    first.tell({"s3_requests": 5, "s3_retries": 1})
    third.tell({"s3_requests": 10, "cache_hits": 7})
    assert second.total() == {"cache_hits": 7, "s3_requests": 15, "s3_retries": 1}


def test_a_successor_goes_on() -> None:
    """What a dead process counted is not lost when another takes its place and counts from nothing."""
    memory = TalliesMemory(NAMES[:1])
    Tallies(memory, 0).tell({"cache_hits": 3})
    successor = Tallies(memory, 0)
    assert successor.total() == {"cache_hits": 3}
    successor.tell({"cache_hits": 2, "cache_misses": 1})
    assert successor.total() == {"cache_hits": 5, "cache_misses": 1}


class Dying:
    """Memory whose writer dies half-way through its next write of any length."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def __getitem__(self, at: int) -> int:
        return self._memory[at]

    def __setitem__(self, at: slice, data: bytes) -> None:
        half = len(data) // 2
        self._memory[at.start : at.start + half] = data[:half]
        raise KeyboardInterrupt


def test_half_a_write_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies in the midst of telling has told what it told before."""
    memory = TalliesMemory(NAMES[:1])
    for number in range(1, 4):
        tallies = Tallies(memory, 0)
        tallies.tell({"cache_hits": 1})
        monkeypatch.setattr(tallies, "_memory", Dying(memory.memory))
        with pytest.raises(KeyboardInterrupt):
            tallies.tell({"cache_hits": 1000})
        assert Tallies(memory, 0).total() == {"cache_hits": number}


def test_a_killed_writer_spoils_nothing() -> None:
    """Whenever a process that counts upwards is killed, its last whole counts are read, and they go on."""
    memory = TalliesMemory(NAMES[:1])
    reached = 0
    for _ in range(20):
        pid = os.fork()
        if not pid:
            tallies = Tallies(memory, 0)
            for number in range(1, 1 << 40):
                tallies.tell({"a": number, "b": number})
        while (total := Tallies(memory, 0).total()).get("a", 0) <= reached:
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        total = Tallies(memory, 0).total()
        assert total["a"] == total["b"] > reached
        reached = total["a"]


def test_who_the_processes_are() -> None:
    """A process is listed under its name once it has started; a successor takes the place of the dead one."""
    memory = TalliesMemory(NAMES)
    tallies = Tallies(memory, 1)
    assert tallies.processes() == {"worker 1": os.getpid()}
    pid = os.fork()
    if not pid:
        Tallies(memory, 0)
        os._exit(0)
    os.waitpid(pid, 0)
    assert tallies.processes() == {"janitor": pid, "worker 1": os.getpid()}
    Tallies(memory, 0)
    assert tallies.processes() == {"janitor": os.getpid(), "worker 1": os.getpid()}


def test_places_have_bounds() -> None:
    """A process without a place is refused, and so are more counters than a place holds."""
    memory = TalliesMemory(NAMES[:1])
    with pytest.raises(ValueError, match="process 1 of 1"):
        Tallies(memory, 1)
    with pytest.raises(ValueError, match="too many"):
        Tallies(memory, 0).tell({f"counter number {number}": number for number in range(1000)})
