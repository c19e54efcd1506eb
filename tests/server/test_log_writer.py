"""Log lines are written whole and in order by a thread, which costs nobody else any time."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stat7store.server.log_writer import LogWriter
from tests.running import wait_until

PATIENCE_S = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def line(number: int, length: int = 0) -> bytes:
    """Return a line with a number, at least so long."""
    return f"{number} ".encode().ljust(length, b".") + b"\n"


def read_lines(descriptor: int, number: int) -> list[bytes]:
    """Read so many lines."""
    got = b""
    while got.count(b"\n") < number:
        got += os.read(descriptor, 65536)
    return got.splitlines(keepends=True)


def test_lines_come_in_order_and_close_waits_for_them(tmp_path: Path) -> None:
    """All lines of several batches are in the file, in order, when close returns."""
    lines = [line(number, random.Random(number).randrange(2000)) for number in range(3000)]
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        for at in range(0, len(lines), 7):
            writer.write(b"".join(lines[at : at + 7]))
        writer.close(PATIENCE_S)
        writer.write(b"too late\n")
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    assert writer.dropped == 1


def test_what_nobody_reads_is_dropped_and_counted(pipe: tuple[int, int]) -> None:
    """A writer returns at once while nobody reads; what was taken comes later, whole, and all else is counted."""
    reading, writing = pipe
    writer = LogWriter(writing, most_waiting=1_000_000)
    for number in range(4000):
        writer.write(line(number, 999))
    assert 2900 <= writer.dropped <= 3001
    assert writer.is_behind
    got = read_lines(reading, 4000 - writer.dropped)
    numbers = [int(one.split()[0]) for one in got]
    assert numbers == sorted(set(numbers))
    assert numbers[:1000] == list(range(1000))  # later ones found room that the pipe had made
    wait_until(lambda: not writer.is_behind)
    writer.write(b"again\n")
    assert read_lines(reading, 1) == [b"again\n"]
    assert writer.dropped == 4000 - len(got)


def test_a_descriptor_that_does_not_wait_loses_nothing(pipe: tuple[int, int]) -> None:
    """If someone made the descriptor non-blocking, the writer waits for it all the same."""
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETFL, fcntl.fcntl(writing, fcntl.F_GETFL) | os.O_NONBLOCK)
    writer = LogWriter(writing)
    writer.write(b"".join(line(number, 500) for number in range(1000)))
    assert [int(one.split()[0]) for one in read_lines(reading, 1000)] == list(range(1000))
    writer.close(PATIENCE_S)
    assert writer.dropped == 0


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    """What cannot be written is counted."""
    with open("/dev/full", "wb", buffering=0) as full:
        writer = LogWriter(full.fileno())
        writer.write(b"one\ntwo\n")
        writer.close(PATIENCE_S)
    assert writer.dropped == 2


WRITES = """
import sys
from stat7store.server.log_writer import LogWriter

mark = sys.argv[1]
writer = LogWriter(1)
for batch in range(40):
    writer.write("".join(f"{mark}{batch * 100 + at} {mark * (at * 7 % 900)}\\n" for at in range(100)).encode())
writer.close(60)
sys.exit(writer.dropped)
"""


def test_lines_of_several_processes_do_not_mix() -> None:
    """Two processes that write to one pipe, whose reader is slower than they are, never cut each other's lines."""
    reading, writing = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", WRITES, mark], stdout=writing) for mark in "ab"]
    os.close(writing)
    got = b""
    while more := os.read(reading, 3000):
        got += more
        time.sleep(0.0002)  # the pipe is to be full most of the time
    os.close(reading)
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = got.decode().splitlines()
    for mark in "ab":
        own = [one for one in lines if one.startswith(mark)]
        assert own == [f"{mark}{at} {mark * (at % 100 * 7 % 900)}" for at in range(4000)]
    assert len(lines) == 8000


def test_the_thread_ends_with_close(pipe: tuple[int, int]) -> None:
    """Nothing stays behind."""
    before = threading.active_count()
    writer = LogWriter(pipe[1])
    writer.write(b"one\n")
    writer.close(PATIENCE_S)
    assert threading.active_count() == before
