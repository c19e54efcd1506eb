"""The board of a node: counters, workers, and numbers that outlive a worker."""

from __future__ import annotations

import os

import msgspec
import pytest

from stat7store.server.board import Board, BoardMemory
from stat7store.server.histograms import COUNTED
from stat7store.timing import StageClock

SECOND = 1_000_000_000


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def retrieve(board: Board, status: int = 200, sent: int = 1000, total: int = 1_000_000) -> None:
    clock = StageClock()
    clock.index, clock.metadata, clock.disk, clock.network = 1000, 2000, 30_000, 400_000
    clock.ended = clock.started + total
    board.record(
        clock=clock,
        request_id="id",
        address=bytes(32),
        method="GET",
        status=status,
        bytes=sent,
        range=None,
        source="page cache",
        backend="filesystem",
    )


def test_new_board_is_empty() -> None:
    """A node that has served nothing yet says so, in a form that can be written as JSON."""
    board = Board(BoardMemory())
    assert board.recent(10) == board.recent(10, slowest=True) == []
    assert board.find("id") is None
    summary = msgspec.json.decode(msgspec.json.encode(board.summary()))
    assert set(summary) == {"since_start", "last_minute", "counters", "workers"}
    assert not any(summary["counters"].values())
    assert [stage["count"] for stage in summary["since_start"]["stages"].values()] == [0] * len(COUNTED)


def test_counters_of_all_workers() -> None:
    """Retrievals are counted by status class, with their bytes; every worker sees the sum of all."""
    memory = BoardMemory(workers=3)
    boards = [Board(memory, worker) for worker in (1, 2, 3)]
    for status in (200, 206, 304, 404, 416, 499, 503):
        for board in boards[:2]:
            retrieve(board, status)
    boards[2].count("uploads")
    boards[0].count("uploads")
    boards[0].count("errors")
    for board in boards:
        assert board.summary()["counters"] == {
            "retrievals_2xx": 4,
            "retrievals_3xx": 2,
            "retrievals_4xx": 6,
            "retrievals_5xx": 2,
            "bytes_sent": 14_000,
            "uploads": 2,
            "errors": 1,
            "fast_lane": 0,
            "fast_lane_waits": 0,
            "log_lines_dropped": 0,
            "uploads_known": 0,
            "bytes_received": 0,
            "damaged": 0,
        }


def test_stages_of_a_retrieval() -> None:
    """A retrieval is counted under each stage that took place, and under the total."""
    board = Board(BoardMemory())
    retrieve(board)
    stages = board.summary()["since_start"].stages
    assert tuple(stages) == ("queue", "index", "metadata", "disk", "network", "total")
    assert stages["queue"].count == 0
    for name, ns in (("index", 1000), ("metadata", 2000), ("disk", 30_000), ("network", 400_000), ("total", 1_000_000)):
        assert stages[name].count == 1
        assert stages[name].mean_ms == pytest.approx(ns / 1e6, rel=0.004)


def test_last_minute_by_the_clock() -> None:
    """What is older than a minute leaves the last minute, and stays in the figures since the start."""
    clock = Clock(1000 * SECOND)
    memory = BoardMemory(clock=clock)
    board = Board(memory, clock=clock)
    retrieve(board, total=7_000_000)
    clock.now += 5 * SECOND
    assert board.summary()["last_minute"].seconds == 5
    assert board.summary()["last_minute"].stages["total"].count == 1
    for _ in range(15):
        board.roll()
        clock.now += 5 * SECOND
    summary = board.summary()
    assert 60 <= summary["last_minute"].seconds <= 70
    assert summary["last_minute"].stages["total"].count == 0
    assert summary["since_start"].seconds == 80
    assert summary["since_start"].stages["total"].count == 1


def test_successor_keeps_the_numbers() -> None:
    """A worker that takes over a place goes on with its numbers, and is the one that is listed."""
    memory = BoardMemory(workers=3)
    retrieve(Board(memory, 2, wall_clock=lambda: 0))
    successor = Board(memory, 2, wall_clock=lambda: 1_767_225_600 * SECOND)
    retrieve(successor)
    summary = Board(memory, 1, wall_clock=lambda: 0).summary()
    assert summary["counters"]["retrievals_2xx"] == 2
    assert summary["since_start"].stages["total"].count == 2
    assert [(state.worker, state.pid, state.started_at, state.restarts) for state in summary["workers"]] == [
        (1, os.getpid(), "1970-01-01T00:00:00.000Z", 0),
        (2, os.getpid(), "2026-01-01T00:00:00.000Z", 1),
    ]


@pytest.mark.parametrize("worker", [-1, 0, 3])
def test_no_place_for_such_a_worker(worker: int) -> None:
    """Only workers that the memory was made for can use it."""
    with pytest.raises(ValueError, match="of 2"):
        Board(BoardMemory(workers=2), worker)
