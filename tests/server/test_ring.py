"""The last retrieval records: whole, in order, and never torn, whoever writes or dies."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.server.board import Board, BoardMemory
from stat7store.server.ring import CAPACITY
from stat7store.timing import StageClock, Timing, now_ns


def total_of(number: int) -> int:
    """Return a total that does not ascend as the numbers do, but differs for any 100,003 of them."""
    return 1 + number * 7919 % 100_003


def clock_of(number: int, ended: int) -> StageClock:
    clock = StageClock()
    clock.queue, clock.index, clock.metadata = number, number + 1, number + 2
    clock.disk_first, clock.disk, clock.network = number + 3, number + 4, number + 5
    clock.started, clock.ended = ended - total_of(number), ended
    return clock


def write(board: Board, number: int, ended: int = 0, request_id: str = "") -> None:
    """Record a retrieval whose every field follows from its number."""
    board.record(
        clock=clock_of(number, ended or now_ns()),
        request_id=request_id or f"id-{number}",
        address=number.to_bytes(32, "big"),
        method="GET" if number % 2 else "HEAD",
        status=200 + number % 400,
        bytes=number,
        range=f"bytes={number}-" if number % 3 else None,
        source="page cache" if number % 2 else None,
        backend="filesystem",
        unsent=number,
    )


def number_of(timing: Timing) -> int:
    """Return the number of a record, having checked that every field follows from it."""
    number = timing.bytes
    assert timing == Timing(
        request_id=f"id-{number}",
        address=f"{number:064x}",
        method="GET" if number % 2 else "HEAD",
        status=200 + number % 400,
        bytes=number,
        range=f"bytes={number}-" if number % 3 else None,
        worker=timing.worker,
        at=timing.at,
        queue_ms=number / 1e6,
        index_ms=(number + 1) / 1e6,
        metadata_ms=(number + 2) / 1e6,
        disk_first_ms=(number + 3) / 1e6,
        disk_ms=(number + 4) / 1e6,
        network_ms=(number + 5) / 1e6,
        unsent_bytes=number,
        total_ms=total_of(number) / 1e6,
        source="page cache" if number % 2 else None,
        backend="filesystem",
    )
    return number


def changes(before: bytes, after: bytes) -> list[int]:
    """Return the places of the bytes that differ, in order; there must be many."""
    pages = [page for page in range(0, len(after), 4096) if before[page : page + 4096] != after[page : page + 4096]]
    places = [place for page in pages for place in range(page, page + 4096) if before[place] != after[place]]
    assert len(places) > 50
    return places


def fork(work: Callable[[], None]) -> int:
    """Do the work in a forked process, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_record_comes_back_whole() -> None:
    """Every field of a record is read as it was written, by another worker too."""
    memory = BoardMemory(workers=2)
    writer = Board(memory, 2, wall_clock=lambda: 1_767_225_600_007_999_999)
    write(writer, 7)
    [timing] = Board(memory, 1).recent(10)
    assert number_of(timing) == 7
    assert timing.worker == 2
    assert timing.at == "2026-01-01T00:00:00.007Z"


@pytest.mark.parametrize("length", [1, 7, 8, 127, 128])
def test_request_id_of_any_length(length: int) -> None:
    """A request id of 1 to 128 characters is kept whole and found, and no other is taken for it."""
    board = Board(BoardMemory())
    write(board, 1, request_id="a" * length)
    for other in ("a" * (length - 1), "a" * (length + 1), "b", "é" * length, "\ud800"):
        assert board.find(other) is None
    found = board.find("a" * length)
    assert found is not None
    assert found.request_id == "a" * length


def write_range(board: Board, request_id: str, asked_range: str | None) -> None:
    """Record an answer to a request with a range, or with none."""
    board.record(
        clock=clock_of(1, 1000),
        request_id=request_id,
        address=bytes(32),
        method="GET",
        status=206,
        bytes=1,
        range=asked_range,
        source=None,
        backend="memory",
    )


def test_shorter_texts_take_the_place_of_longer_ones() -> None:
    """The longest request id and range are kept whole, and nothing of them is in a later record at their place."""
    board = Board(BoardMemory())
    kept = []
    for request_id, asked_range in (("i" * 128, "r" * 124), ("j", "s")):
        write_range(board, request_id, asked_range)
        [newest] = board.recent(1)
        kept.append((newest.request_id, newest.range))
        for _ in range(CAPACITY - 1):
            write_range(board, "none", None)
    assert kept == [("i" * 128, "r" * 124), ("j", "s")]
    assert board.find("i" * 128) is None


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200))
def test_range_header_is_kept_or_cut(text: str) -> None:
    """A range header is kept in ASCII, and one that is too long ends in a mark; none breaks a record."""
    board = Board(BoardMemory())
    write_range(board, "id", text)
    [timing] = board.recent(1)
    ascii_text = text.encode("ascii", "replace").decode()
    assert timing.range == (ascii_text if len(text) <= 124 else ascii_text[:121] + "...")


def test_newest_first_over_all_workers() -> None:
    """Records of all workers come newest first by their end, though the wall clock jumps."""
    memory = BoardMemory(workers=3)
    jumping = random.Random(7)
    boards = [Board(memory, worker, wall_clock=lambda: jumping.randrange(10**18)) for worker in (1, 2, 3)]
    for number in range(1, 301):
        write(jumping.choice(boards), number, ended=1_000_000 + number)
    assert [number_of(timing) for timing in boards[0].recent(1000)] == list(range(300, 0, -1))
    assert [number_of(timing) for timing in boards[1].recent(5)] == [300, 299, 298, 297, 296]


def test_slowest_first() -> None:
    """The slowest are those with the longest total, longest first, of all workers."""
    memory = BoardMemory(workers=2)
    boards = [Board(memory, worker) for worker in (1, 2)]
    numbers = random.Random(3).sample(range(1, 10_000), 200)
    for number in numbers:
        write(boards[number % 2], number)
    slowest = [number_of(timing) for timing in boards[0].recent(50, slowest=True)]
    assert slowest == sorted(numbers, key=total_of, reverse=True)[:50]


@pytest.mark.parametrize("extra", [-1, 0, 1, 5000, CAPACITY - 1, CAPACITY, CAPACITY + 1])
def test_ring_keeps_the_newest(extra: int) -> None:
    """A full ring loses its oldest record for each new one, and a successor goes on behind the newest."""
    memory = BoardMemory()
    board = Board(memory)
    count = CAPACITY + extra
    for number in range(count):
        write(board, number, ended=1_000_000 + number)
    successor = Board(memory)
    oldest = max(0, count - CAPACITY)
    assert [number_of(timing) for timing in successor.recent(CAPACITY)] == list(range(count - 1, oldest - 1, -1))
    assert board.find(f"id-{oldest}") is not None
    assert oldest == 0 or board.find(f"id-{oldest - 1}") is None
    write(successor, count, ended=1_000_000 + count)
    assert [number_of(timing) for timing in board.recent(2)] == [count, count - 1]


def test_limit_is_of_the_node() -> None:
    """The last 10,000 are those of the node: a worker's older records yield to another's newer ones."""
    memory = BoardMemory(workers=2)
    first, second = Board(memory, 1), Board(memory, 2)
    for number in range(CAPACITY):
        write(first, number, ended=1_000_000 + number)
    for number in range(CAPACITY, CAPACITY + 100):
        write(second, number, ended=1_000_000 + number)
    recent = [number_of(timing) for timing in first.recent(2 * CAPACITY)]
    assert recent == list(range(CAPACITY + 99, 99, -1))
    slowest = [number_of(timing) for timing in first.recent(2 * CAPACITY, slowest=True)]
    assert slowest == sorted(recent, key=total_of, reverse=True)


def test_newest_of_equal_ids() -> None:
    """Of several records under one id, chosen by clients, the newest is found, whoever wrote it."""
    memory = BoardMemory(workers=2)
    boards = [Board(memory, 1), Board(memory, 2)]
    for number in range(1, 50):
        write(boards[number // 7 % 2], number, ended=1_000_000 + number, request_id="mine")
        found = boards[0].find("mine")
        assert found is not None
        assert found.bytes == number


def test_half_written_entry_is_not_seen() -> None:
    """Wherever a writer was killed in the middle of an entry, only that entry and the one it overwrote
    are missing, nothing altered is read, and its successor's records are there.
    """
    memory = BoardMemory()
    board = Board(memory)
    for number in range(CAPACITY + 10):
        write(board, number)
    before = memory.timings[:]
    write(board, CAPACITY + 10)
    after = memory.timings[:]
    changed = changes(before, after)
    for cut in range(len(changed) + 1):
        for undone in (changed[cut:], changed[:cut]):
            memory.timings[:] = after
            for place in undone:
                memory.timings[place] = before[place]
            successor = Board(memory)
            torn = [number_of(timing) for timing in successor.recent(5)]
            assert torn[-3:] == list(range(torn[-3], torn[-3] - 3, -1))
            assert torn[0] in {CAPACITY + 10, CAPACITY + 9}
            found = successor.find(f"id-{CAPACITY + 10}")
            assert found is None or number_of(found) == CAPACITY + 10
            write(successor, CAPACITY + 11)
            assert successor.find(f"id-{CAPACITY + 11}") is not None
            numbers = [number_of(timing) for timing in board.recent(4)]
            assert numbers[0] == CAPACITY + 11
            assert set(numbers) <= set(range(CAPACITY + 7, CAPACITY + 12))


@given(place=st.integers(min_value=0), flip=st.integers(1, 255))
def test_altered_entry_is_not_seen(place: int, flip: int) -> None:
    """A record of which any one byte is not what was written is left out; the others stay."""
    memory = BoardMemory()
    board = Board(memory)
    write(board, 1)
    before = memory.timings[:]
    write(board, 2)
    after = memory.timings[:]
    entry = [change for change in changes(before, after) if change > after.find(b"id-1")]
    memory.timings[entry[place % len(entry)]] ^= flip
    assert [number_of(timing) for timing in board.recent(9)] == [1]
    assert board.find("id-2") is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the children use no thread of the parent's
def test_reading_while_processes_write() -> None:
    """While three processes write as fast as they can, nothing torn is read, and no count is lost."""
    memory = BoardMemory(workers=4)
    each = 60_000

    def work(worker: int) -> Callable[[], None]:
        def write_all() -> None:
            board = Board(memory, worker)
            for number in range(worker * 1_000_000, worker * 1_000_000 + each):
                write(board, number)
                board.count("uploads")

        return write_all

    reader = Board(memory, 4)
    running = {fork(work(worker)) for worker in (1, 2, 3)}
    seen = 0
    while running:
        recent = reader.recent(200)
        slowest = reader.recent(20, slowest=True)
        for timing in recent + slowest:
            assert number_of(timing) // 1_000_000 == timing.worker
            seen += 1
        everything = [number_of(timing) for timing in reader.recent(CAPACITY)]
        for worker in (1, 2, 3):
            own = [number for number in everything if number // 1_000_000 == worker]
            assert all(newer > older for newer, older in itertools.pairwise(own))
        for timing in recent[:5]:
            found = reader.find(timing.request_id)
            assert found is None or number_of(found) == timing.bytes
        reader.summary()
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0
                running.remove(pid)
    assert seen
    last = [number_of(timing) for timing in reader.recent(CAPACITY)]
    assert len(last) == len(set(last)) == CAPACITY
    summary = reader.summary()
    assert summary["counters"]["uploads"] == 3 * each
    assert sum(summary["counters"][f"retrievals_{kind}xx"] for kind in (2, 3, 4, 5)) == 3 * each
    assert summary["counters"]["bytes_sent"] == sum(
        number for worker in (1, 2, 3) for number in range(worker * 1_000_000, worker * 1_000_000 + each)
    )
    assert {stage.count for stage in summary["since_start"].stages.values()} == {3 * each}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the children use no thread of the parent's
def test_writer_killed_again_and_again() -> None:
    """A writer killed at any moment loses at most the record it was writing; its successor goes on."""
    memory = BoardMemory(workers=2)
    reader = Board(memory, 2)
    moments = random.Random(11)
    kills = 60
    for kill in range(1, kills + 1):

        def write_on(begin: int = kill * 1_000_000) -> None:
            board = Board(memory, 1)
            number = begin
            while True:
                write(board, number)
                number += 1

        pid = fork(write_on)
        deadline = time.monotonic() + 60
        while not any(number_of(timing) // 1_000_000 == kill for timing in reader.recent(1)):
            assert time.monotonic() < deadline, "the successor writes nothing"
        time.sleep(moments.uniform(0, 0.004))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        numbers = [number_of(timing) for timing in reader.recent(CAPACITY)]
        assert len(numbers) == len(set(numbers))
        for newer, older in itertools.pairwise(numbers):
            assert newer == older + 1 or newer % 1_000_000 == 0, "a record between others is missing"
    summary = reader.summary()
    retrievals = sum(summary["counters"][f"retrievals_{kind}xx"] for kind in (2, 3, 4, 5))
    assert 0 <= summary["since_start"].stages["total"].count - retrievals <= kills
    assert summary["workers"][0].restarts == kills - 1
