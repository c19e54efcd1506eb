"""Clients that mean no good, and limits that are reached: the others are served, and the server stays up."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.faults.reliability import Reliability, Row
from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until

CLIENTS = 4
FILES = 20
MIB = 1 << 20
SOON_S = 0.9  # within this no connection has been idle for the second after which it makes room


def photograph(number: int) -> bytes:
    """A photograph, another for each number."""
    return distinct_jpeg(sample("rocket.jpg").read_bytes(), number)


def place_of(server: RunningServer) -> tuple[str, int]:
    """Where a server listens."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return host, int(port)


@contextmanager
def attacked(server: RunningServer, number: int) -> Iterator[None]:
    """Have so many hostile clients for the length of the context."""
    host, port = place_of(server)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hostile", host, str(port), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as hostile:
        try:
            assert hostile.stdout is not None
            assert hostile.stdout.readline()
            yield
        finally:
            hostile.communicate()


class Good:
    """Clients that read and upload; ``wrong`` are answers other than they must be."""

    def __init__(self, server: RunningServer) -> None:
        self.wrong: list[str] = []
        self._server = server
        self._files = {hashlib.sha256(data).hexdigest(): data for data in map(photograph, range(FILES))}
        self._uploads = iter(range(FILES, 1_000_000))
        for data in self._files.values():
            self._upload(data)

    def work(self, rounds: int, clients: int = CLIENTS) -> list[float]:
        """Have several clients fetch all files so many times, upload one each time; return the seconds of fetches."""
        with ThreadPoolExecutor(clients) as threads:
            return [each for some in threads.map(self._fetch_all, [rounds] * clients) for each in some]

    def _fetch_all(self, rounds: int) -> list[float]:
        seconds = []
        for _ in range(rounds):
            connection = HTTPConnection(*place_of(self._server), timeout=60)
            for address, data in self._files.items():
                begun = time.perf_counter()
                connection.request("GET", f"/v1/files/{address}")
                response = connection.getresponse()
                body = response.read()
                seconds.append(time.perf_counter() - begun)
                if (response.status, body) != (200, data):
                    self.wrong.append(f"GET {address}: {response.status}, {len(body)} bytes")
            connection.close()
            self._upload(photograph(next(self._uploads)))
        return seconds

    def _upload(self, data: bytes) -> None:
        connection = HTTPConnection(*place_of(self._server), timeout=60)
        try:
            connection.request("POST", "/v1/files", body=data)
            response = connection.getresponse()
            if response.status != 201:
                self.wrong.append(f"POST: {response.status} {response.read(500)!r}")
        finally:
            connection.close()


def p99_ms(seconds: Sequence[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def memory_of(server: RunningServer) -> int:
    """Bytes that the server's processes have to themselves."""
    return sum(int(process.memory_full_info().uss) for process in server.processes)


def test_good_clients_are_served_among_hostile_ones(tmp_path: Path, soak: bool, reliability: Reliability) -> None:
    """Every good request is answered, and right; how long they take and the server's memory are in the report."""
    number, rounds = (2000, 400) if soak else (300, 3)
    with RunningServer(tmp_path / "data", workers=2) as server:
        before = {process.pid for process in server.processes}
        good = Good(server)
        good.work(2)
        quiet, memory = p99_ms(good.work(rounds)), memory_of(server)
        with attacked(server, number):
            time.sleep(2)  # all at once is what a start is like, not what follows
            begun = time.monotonic()
            under_attack = p99_ms(good.work(rounds))
            grown = memory_of(server) - memory
            seconds = time.monotonic() - begun
        assert not good.wrong
        assert {process.pid for process in server.processes} == before
        assert grown < (50 if soak else 100) * MIB
    reliability.add(
        Row(
            fault="hostile clients",
            store="filesystem",
            how=f"{number} clients for {seconds:.0f} s: idle, slow heads, slow bodies, lying lengths, no HTTP, bombs",
            times=number,
            checked=f"{CLIENTS * rounds * (FILES + 1)} good requests, all 2xx and right; p99 of fetches "
            f"{under_attack:.1f} ms, {under_attack / quiet:.1f} times that without them; memory {grown / 1e6:+.0f} MB",
            lost=0,
            wrong=len(good.wrong),
        )
    )


def connect(server: RunningServer, sent: bytes = b"") -> socket.socket:
    """Connect, and send something."""
    connection = socket.create_connection(place_of(server), timeout=30)
    connection.sendall(sent)
    return connection


def asked(server: RunningServer) -> bytes:
    """Ask whether it is alive; return what it answers until it closes."""
    answer = b""
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with connect(server, request) as connection, suppress(ConnectionError):
        while data := connection.recv(4096):
            answer += data
    return answer


def test_beyond_the_limit_the_answer_is_503_and_comes_at_once(tmp_path: Path) -> None:
    """As long as none has been idle for a while; then the longest idle make room. The limit is never exceeded."""
    with RunningServer(tmp_path / "data", "--max-connections=20", workers=1) as server, ExitStack() as open_ones:
        worker = server.process.children()[-1]
        for _ in range(10):
            begun = time.monotonic()
            for _ in range(20):
                open_ones.enter_context(connect(server))
            refusal = asked(server)
            if time.monotonic() - begun < SOON_S:
                break
            open_ones.close()  # so late that the first of them may have made room
            wait_until(lambda: len(worker.net_connections()) <= 5)
        else:
            pytest.fail(f"20 connections take this machine longer than {SOON_S} s")
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in refusal
        assert b'"type":"/problems/unavailable"' in refusal
        wait_until(lambda: asked(server).startswith(b"HTTP/1.1 200 "))
        assert len(worker.net_connections()) <= 20 + 5  # those that listen or are being closed


def test_a_burst_does_not_exceed_the_limit(tmp_path: Path) -> None:
    """However many come in one turn of the loop, only so many idle ones make room as are closed for it."""
    with RunningServer(tmp_path / "data", "--max-connections=20", workers=1) as server, ExitStack() as open_ones:
        worker = server.process.children()[-1]
        for _ in range(20):
            open_ones.enter_context(connect(server))
        wait_until(lambda: asked(server).startswith(b"HTTP/1.1 200 "))  # they have been idle for long enough
        worker.suspend()
        for _ in range(200):
            open_ones.enter_context(connect(server))
        worker.resume()
        wait_until(lambda: len(worker.net_connections()) <= 20 + 5)


def test_who_does_not_get_to_a_request_is_let_go(tmp_path: Path) -> None:
    """A connection without a head, with part of one, or idle after an answer is closed after --idle-timeout."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with RunningServer(tmp_path / "data", "--idle-timeout=1", workers=1) as server:
        for sent in (b"", whole[:-10], whole):
            with connect(server, sent) as connection:
                while connection.recv(4096):  # an answer, or the end
                    pass


def test_without_files_to_open_the_server_waits(tmp_path: Path) -> None:
    """EMFILE in accept and open: nobody dies, nothing spins, and when others leave all are served again."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        good = Good(server)
        processes = server.process.children()
        worker = processes[-1]
        _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.num_fds() + 8, most))
        begun = time.monotonic()
        with ExitStack() as open_ones:
            for _ in range(60):
                open_ones.enter_context(connect(server))
            time.sleep(0.5)
            spent = sum(worker.cpu_times()[:2])
            time.sleep(2)
            assert sum(worker.cpu_times()[:2]) - spent < 1.0
        wait_until(lambda: asked(server).startswith(b"HTTP/1.1 200 "))
        good.work(1, clients=1)  # of more files than it may have open
        assert not good.wrong
        assert all(process.is_running() for process in processes)
        told = "no more files may be open: new connections wait"
        wait_until(lambda: told in server.log)
        assert server.log.count(told) <= 2 + (time.monotonic() - begun) // 10  # once in ten seconds at most
        assert len(server.log.splitlines()) < 500


def test_too_few_open_files_are_told_of_at_the_start(tmp_path: Path) -> None:
    """One line says how many there are and what to do."""
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", sys.executable, "-m", "stat7store", "serve", "--port=0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 1
    assert (
        "only 100 open files are allowed, and a server needs 128 at least; allow more with: ulimit -n" in ended.stderr
    )
