"""Connections for which the compiled lane listens: whatever they do next, they are served as any other."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec
import psutil
import pytest

from stat7store.server.board import Board
from stat7store.server.histograms import COUNTED
from stat7store.timing import Timing
from tests.running import RunningServer, wait_until
from tests.server.test_fastlane import COMMON, PNG, Answer, Server, ask, receive, request

pytestmark = pytest.mark.skipif(bool(os.environ.get("STAT7_PURE")), reason="nothing is parked without compiled parts")

PICTURE = PNG + random.Random(7).randbytes(6000)
ENOUGH = 3  # answers on one connection until it is parked
IDLE_S = 4
ROUNDS = 5
_A_MILLISECOND = timedelta(milliseconds=1)


class Client(NamedTuple):
    """A connection that stays open."""

    socket: socket.socket
    stream: BinaryIO

    def ask(self, sent: bytes) -> Answer:
        """Send a request and return its answer."""
        self.socket.sendall(sent)
        return receive(self.stream, sent.split()[0].decode())  # type: ignore[arg-type]


class Node(NamedTuple):
    """A server of one worker, and a request for the picture that it holds."""

    server: RunningServer
    sent: bytes

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    @property
    def worker(self) -> psutil.Process:
        return self.server.process.children()[-1]

    @property
    def parked(self) -> int:
        """How many connections the lane listens to: those in the epoll that is in the event loop's."""
        folder = Path(f"/proc/{self.worker.pid}")
        watched = {}
        for entry in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                if os.readlink(entry) == "anon_inode:[eventpoll]":
                    watched[entry.name] = (folder / "fdinfo" / entry.name).read_text().count("tfd:")
        assert len(watched) == 2
        return watched[max(watched, key=int)]

    def connect(self) -> Client:
        """Open a connection."""
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return Client(opened, cast("BinaryIO", opened.makefile("rb")))

    def park(self) -> Client:
        """Open a connection and ask until it is parked."""
        before = self.parked
        client = self.connect()
        self.ask_until_parked(client, before + 1)
        return client

    def ask_until_parked(self, client: Client, parked: int) -> None:
        """Ask until so many connections are parked, this one among them."""
        for _ in range(ENOUGH):
            assert client.ask(self.sent).body == PICTURE
        wait_until(lambda: self.parked == parked)  # it is just after its answer

    def stats(self) -> dict[str, dict[str, int]]:
        """Return what the server tells of itself, asked on a connection of its own."""
        client = self.connect()
        with closing(client.socket):
            return cast("dict[str, dict[str, int]]", json.loads(client.ask(_get("/v1/stats")).body))


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{COMMON}\r\n\r\n".encode()


def _found(client: Client, path: str) -> bytes:
    """Return what is there; a record is a moment after its answer."""
    found: list[bytes] = []

    def is_there() -> bool:
        answer = client.ask(_get(path))
        found[:] = [answer.body]
        return " 404 " not in answer.head.splitlines()[0]

    wait_until(is_there, 30)
    return found[0]


def _post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all of these tests."""
    with RunningServer(tmp_path_factory.mktemp("parking") / "data", "--idle-timeout=60", workers=1) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One whose idle connections are closed soon."""
    flag = f"--idle-timeout={IDLE_S}"
    with RunningServer(tmp_path_factory.mktemp("parking") / "data", flag, workers=1) as server:
        yield server


@pytest.fixture
def node(running: RunningServer) -> Node:
    """The server, with a picture in it and nothing parked."""
    return _node(running)


def _node(running: RunningServer) -> Node:
    node = Node(running, _stored(running, PICTURE))
    wait_until(lambda: node.parked == 0)
    return node


def _stored(running: RunningServer, picture: bytes) -> bytes:
    """Store a picture; return a request for it."""
    side = Server(int(running.url.rpartition(":")[2]), Board.__new__(Board))
    (stored,) = ask(side, _post("/v1/files", picture))
    return request(json.loads(stored.body)["address"], COMMON)


def test_a_connection_that_asks_for_files_is_parked(node: Node) -> None:
    """A connection whose requests take the fast lane is listened to by the lane, until its client hangs up."""
    clients = [node.park() for _ in range(5)]
    assert all(client.ask(node.sent).body == PICTURE for client in clients for _ in range(10))
    for left, client in zip((4, 3, 2, 1, 0), clients, strict=True):
        client.stream.close()
        client.socket.close()
        wait_until(lambda left=left: node.parked == left)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (_get("/v1/stats"), " 200 "),
        (_post("/v1/exists", b'{"addresses": []}'), " 200 "),
        (_post("/v1/files", PICTURE), " 200 "),
        (_post("/v1/files", PICTURE + bytes(300_000)), " 201 "),
        (_get("/v1/files/" + "0" * 64), " 404 "),
        (request("0" * 64, COMMON, "Range: bytes=0-1,3-4"), " 404 "),
    ],
)
def test_whatever_it_asks_next_is_answered(node: Node, sent: bytes, status: str) -> None:
    """What is not for the lane goes to the framework, whole or in pieces; then the lane listens again."""
    client = node.park()
    for pieces in ([sent], [sent[:10], sent[10:-3], sent[-3:]]):
        for piece in pieces[:-1]:
            client.socket.sendall(piece)
            wait_until(lambda: node.parked == 0)
        client.socket.sendall(pieces[-1])
        answer = receive(client.stream, sent.split()[0].decode())  # type: ignore[arg-type]
        assert status in answer.head.splitlines()[0] or (status == " 201 " and " 200 " in answer.head.splitlines()[0])
        node.ask_until_parked(client, 1)
    client.stream.close()
    client.socket.close()


def test_several_requests_at_once_are_answered_in_order(node: Node) -> None:
    """Requests that come in one piece on a parked connection are all answered, the last one's end included."""
    client = node.park()
    client.socket.sendall(node.sent * 10 + _get("/healthz") + node.sent)
    client.socket.shutdown(socket.SHUT_WR)
    bodies = [receive(client.stream, "GET").body for _ in range(12)]  # type: ignore[arg-type]
    assert bodies[:10] == [PICTURE] * 10
    assert bodies[11] == PICTURE
    assert client.stream.read() == b""
    wait_until(lambda: node.parked == 0)
    client.socket.close()


def test_a_client_that_ends_its_side_with_its_request_is_answered(node: Node) -> None:
    """A request whose client then says no more is answered, and the connection closed."""
    client = node.park()
    client.socket.sendall(node.sent)
    client.socket.shutdown(socket.SHUT_WR)
    assert receive(client.stream, "GET").body == PICTURE  # type: ignore[arg-type]
    assert client.stream.read() == b""
    client.socket.close()


class Use:
    """A connection that is used often enough, as long as this process gets its turn."""

    def __init__(self) -> None:
        self.longest_gap_s = 0.0
        self._at = time.monotonic()

    def used(self) -> None:
        """Note that it is used now."""
        now = time.monotonic()
        self.longest_gap_s, self._at = max(self.longest_gap_s, now - self._at), now

    @property
    def was_idle(self) -> bool:
        """Whether the server may have closed it, and been right."""
        self.used()
        return self.longest_gap_s > 0.75 * IDLE_S


def while_in_use(phase: Callable[[Use], None]) -> None:
    """Run a phase that uses a connection; once more if this process, on a busy machine, left it idle in between."""
    for _ in range(ROUNDS):
        use = Use()
        try:
            return phase(use)
        except (AssertionError, OSError):
            if not use.was_idle:
                raise
    pytest.fail("this machine is too busy to keep a connection in use")


def _has_news(client: Client, wait_s: float) -> bool:
    """Tell whether bytes or the end of a connection come in so many seconds."""
    return bool(select.select([client.socket], [], [], wait_s)[0])


def test_an_idle_connection_is_closed_after_its_last_use(impatient: RunningServer) -> None:
    """The idle time-out counts from the last answer, also of the lane: one in use stays, one that is not is closed."""
    node = _node(impatient)

    def phase(use: Use) -> None:
        used, unused = node.park(), node.park()
        with closing(used.socket), closing(unused.socket), closing(used.stream), closing(unused.stream):
            rounds = 0
            while rounds < 2 * IDLE_S or not _has_news(unused, 0):
                assert rounds < 15 * IDLE_S, "the unused connection stays open"
                assert used.ask(node.sent).body == PICTURE
                use.used()
                assert not _has_news(used, 1)
                rounds += 1
            assert unused.stream.read() == b""
            assert used.ask(node.sent).body == PICTURE
            use.used()
            wait_until(lambda: node.parked == 0)

    while_in_use(phase)


def test_a_reset_is_no_error(node: Node) -> None:
    """A client that resets its parked connection leaves nothing behind, and nothing in the log."""
    client = node.park()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.close()
    client.socket.close()
    wait_until(lambda: node.parked == 0)
    assert node.stats()["counters"]["errors"] == 0
    assert '"level":"error"' not in node.server.log
    assert "Traceback" not in node.server.log


def test_what_is_counted_is_what_is_recorded(node: Node) -> None:
    """The durations that the lane counts are, stage by stage, those of the records it keeps."""
    client = node.park()
    before = json.loads(client.ask(_get("/v1/stats")).body)["stages"]["since_start"]
    for number in range(200):
        lines = [COMMON, f"X-Request-ID: counted.{number}", *(["Range: bytes=10-99"] if number % 3 == 1 else [])]
        address = node.sent.split()[1].rpartition(b"/")[2].decode()
        client.ask(request(address, *lines, method="HEAD" if number % 3 == 2 else "GET"))
    after = json.loads(client.ask(_get("/v1/stats")).body)["stages"]["since_start"]
    told = json.loads(client.ask(_get("/v1/timings?limit=200")).body)["timings"]
    records = [Timing(**record) for record in told if record["request_id"].startswith("counted.")]
    assert len(records) == 200
    for stage in COUNTED:
        durations = [getattr(record, f"{stage}_ms") for record in records]
        assert after[stage]["count"] - before[stage]["count"] == sum(duration > 0 for duration in durations)
        summed = [period[stage]["count"] * (period[stage]["mean_ms"] or 0) for period in (before, after)]
        assert summed[1] - summed[0] == pytest.approx(sum(durations), rel=0.01)
    assert {record.bytes for record in records if record.method == "HEAD"} == {0}
    assert {record.bytes for record in records if record.range} == {90}
    client.stream.close()
    client.socket.close()


def test_a_record_is_found_by_an_id_of_any_length(node: Node) -> None:
    """What the lane records is found under its request id, short or long, and bears the time of day."""
    client, other = node.park(), node.connect()
    asked = node.sent.removesuffix(b"\r\n")
    for length in range(1, 129):
        given = f"{length:x}".rjust(length, "-")
        begun = datetime.now(UTC)
        client.ask(asked + f"Range: bytes={length}-\r\nX-Request-ID: {given}\r\n\r\n".encode())
        ended = datetime.now(UTC)
        record = msgspec.json.decode(_found(other, f"/v1/timings/{given}"), type=Timing)
        assert (record.request_id, record.range) == (given, f"bytes={length}-")
        assert record.bytes == len(PICTURE) - length
        assert begun - _A_MILLISECOND <= datetime.fromisoformat(record.at) <= ended + _A_MILLISECOND
    for side in (client, other):
        side.stream.close()
        side.socket.close()


def test_what_a_client_has_no_room_for_is_unsent(node: Node) -> None:
    """What the kernel of a client that does not read has no room for is in the records of its answers as unsent."""
    client, other = node.park(), node.connect()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    asked = node.sent.removesuffix(b"\r\n")
    unsent = []
    for number in range(40):
        client.socket.sendall(asked + f"X-Request-ID: unread.{number}\r\n\r\n".encode())
        told = json.loads(other.ask(_get(f"/v1/timings/unread.{number}")).body)
        if "unsent_bytes" not in told:  # the server's kernel has no room either, so that this answer is not over
            break
        unsent.append(told["unsent_bytes"])
    taken = int.from_bytes(fcntl.ioctl(client.socket, termios.FIONREAD, bytes(4)), sys.byteorder)
    assert unsent[0] == 0
    assert unsent[-1] > 0
    for number, left in enumerate(unsent, start=1):
        assert left >= number * len(PICTURE) - taken
    for side in (client, other):
        side.stream.close()
        side.socket.close()


def test_a_stop_closes_what_is_parked(tmp_path: Path) -> None:
    """A server that is told to stop does not wait for connections that ask for nothing."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        client = _node(server).park()
        assert server.stop() == 0
        assert client.stream.read() == b""
        assert "cut off" not in server.log
        client.stream.close()
        client.socket.close()


def test_a_connection_that_asks_for_ever_other_files_is_not_idle(impatient: RunningServer) -> None:
    """What is answered ahead of the compiled lane, on a connection that it listens to, counts as its use."""
    node = _node(impatient)
    pictures = (PNG + random.Random(number).randbytes(6000) for number in itertools.count())

    def phase(use: Use) -> None:
        requests = [_stored(impatient, next(pictures)) for _ in range(12)]  # none was asked for before
        client = node.connect()
        with client.socket, client.stream:
            client.ask(_get("/v1/stats"))  # by aiohttp, which begins to watch for idle connections
            node.ask_until_parked(client, 1)
            for sent in requests:
                use.used()
                time.sleep(IDLE_S / 6)
                assert client.ask(sent).head.startswith("HTTP/1.1 200")

    while_in_use(phase)
