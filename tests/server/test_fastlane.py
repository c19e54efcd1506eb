"""The fast lane answers as the framework's way does, in every byte that may be compared, and only what it should."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stat7store.opening import open_store, prepare
from stat7store.server import fastlane
from stat7store.server.board import Board
from stat7store.server.fastlane import COPIED_BYTES
from stat7store.server.outgoing import INLINE_BYTES, WINDOW_BYTES
from stat7store.settings import Settings
from stat7store.timing import Timing
from storage.linux import Linux
from tests.media import large_mp4
from tests.running import RunningServer, serving_here, wait_until
from tests.server.differential import ranges, tag_lists
from tests.server.test_load import memory_of

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6360000000020001e527defc0000000049454e44ae426082"
)
SIZES = (
    *(len(PNG), 4096, COPIED_BYTES, COPIED_BYTES + 1, 65_536),
    *(INLINE_BYTES, INLINE_BYTES + 1, WINDOW_BYTES, 3 * 1024**2),
)
UNKNOWN = "0" * 64
COMMON = "Host: localhost"


@dataclass(frozen=True)
class Server:
    """One of the two servers: its port, and its board."""

    port: int
    board: Board

    @property
    def lane(self) -> int:
        """How many requests took the fast lane."""
        return self.board.summary()["counters"]["fast_lane"]

    @property
    def fit(self) -> int:
        """How many requests were fit for the fast lane: they took it, or their bytes were just not in memory."""
        counters = self.board.summary()["counters"]
        return counters["fast_lane"] + counters["fast_lane_waits"]

    def timing(self, name: str) -> Timing:
        """Return the record of a request, as soon as there is one."""
        wait_until(lambda: self.board.find(name))
        found = self.board.find(name)
        assert found is not None
        return found


class Sides(NamedTuple):
    """A server with the fast lane and one without, over the same store, and its files' addresses by size."""

    fast: Server
    slow: Server
    addresses: dict[int, str]


@pytest.fixture(scope="module", params=["compiled", "pure"])
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Both servers run in a thread, and have learnt all they will; the fast one with ``_lane.c``, or without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "pure":
            patch.setattr(fastlane, "Lane", None)
        else:
            assert fastlane.Lane is not None or os.environ.get("STAT7_PURE")
        yield from _sides(tmp_path_factory)


def _sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    ready: list[Sides] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        settings = Settings(data=tmp_path_factory.mktemp("store") / "data", access_log=False)
        prepare(settings)
        slowly = settings.model_copy(update={"fast_path": False})
        async with open_store(settings) as store:
            addresses = {}
            for size in SIZES:
                async with store.upload(f"pïcture {size}.png") as upload:
                    await upload.write(PNG + random.Random(size).randbytes(size - len(PNG)))
                    entry = (await upload.commit()).entry
                addresses[size] = str(entry.address)
                await store.entry(entry.address)
            async with serving_here(store, settings) as fast, serving_here(store, slowly) as slow:
                first, second = (Server(int(url.rpartition(":")[2]), board) for url, board in (fast, slow))
                ready.append(Sides(first, second, addresses))
                started.set()
                await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class Answer(NamedTuple):
    """An answer, without what differs each time."""

    head: str
    body: bytes


def ask(server: Server, *pieces: bytes, last: bytes = b"", pause_s: float = 0.0) -> list[Answer]:
    """Send pieces on a connection of their own, and ``last`` once they are answered; return all that comes back.

    ``last`` may make the server hang up, and so must not be under way together with anything else.
    """
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause_s)
            connection.sendall(piece)
        methods = re.findall(r"^([A-Z]+) ?/v1/", b"".join(pieces).decode("latin-1"), re.MULTILINE)
        answers = [receive(stream, method) for method in methods]
        connection.sendall(last)
        connection.shutdown(socket.SHUT_WR)
        while stream.peek():
            answers.append(receive(stream, last.decode("latin-1").split()[0]))
        return answers


def ask_in_turn(server: Server, *requests: bytes) -> list[Answer]:
    """Send requests on one connection, each when the one before is answered; return the answers."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
        connection.makefile("rb") as stream,
    ):
        answers = []
        for sent in requests:
            connection.sendall(sent)
            answers.append(receive(stream, sent.split()[0].decode()))
        return answers


def ask_until_taken(server: Server, sent: bytes) -> Answer:
    """Ask until the fast lane has answered: whenever the kernel drops a file from its memory, the next answer is not
    the lane's.
    """
    for _ in range(20):
        before = server.lane
        (answer,) = ask(server, sent)
        if server.lane > before:
            return answer
    pytest.fail("the fast lane was not taken")


def receive(stream: io.BufferedReader, method: str) -> Answer:
    """Read one answer to a request of that method."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        assert line, f"not a whole answer: {head[:200]!r}"
        head += line
    text = head.decode("latin-1")
    length = re.search(r"\r\nContent-Length: ([0-9]+)", text)
    has_body = text.startswith("HTTP/1.0 400 ") or (method != "HEAD" and " 304 " not in text[:20])
    return normal(text, stream.read(int(length[1])) if has_body and length else b"")


def normal(head: str, body: bytes) -> Answer:
    """Take out the date, the times, a request id of the server's own, a random boundary, and where bytes came from."""
    boundary = re.search(r"boundary=([0-9a-f]{20})", head)
    if boundary is not None:
        head = head.replace(boundary[1], "boundary")
        body = body.replace(boundary[1].encode(), b"boundary")
    if b"not a well-formed HTTP request" in body:  # the rest says where in the piece it is malformed
        head, body = re.sub("Content-Length: [0-9]+", "Content-Length", head), b"malformed"
    head = re.sub(r"(?<=\r\nX-Request-ID: )[0-9a-f]{32}(?=\r\n)", "new", head)
    head = re.sub(r"(?<=\r\nDate: )[^\r]+", "now", head)
    head = re.sub(r"dur=[0-9]+\.[0-9]{4}(?![0-9])", "dur=", head)
    head = re.sub(r'desc="(?:page cache|disk)"', 'desc="one of both"', head)  # the kernel drops pages when it likes
    return Answer(head, body)


def request(address: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Put a request together by hand."""
    return "\r\n".join([f"{method} /v1/files/{address} {version}", *lines, "", ""]).encode("latin-1")


harmless = st.one_of(
    st.sampled_from(
        (
            *("Accept: */*", "accept:image/*", "User-Agent: a (b; c) d/1.0", "Accept-Encoding: gzip, deflate, br"),
            *("X-Request-ID: mine.1", "X-Request-ID: not mine", "x-request-id:  spaced ", "X-Request-ID:"),
            *("Connection: keep-alive", "Cookie: a=b; c=d", "Content-Length: 0", "Accept: \t*/*\t", "Empty:"),
            *("Origin: http://elsewhere.example", "Sec-Fetch-Site: cross-site", "Authorization: Bearer x"),
            *("If-Match: *", "If-Match: <tag>", 'If-Match: "no"', "If-Range: <tag>", 'If-Range: "no"'),
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        )
    ),
    tag_lists.map(lambda tags: f"If-None-Match: {tags}"),
    st.sampled_from(("If-None-Match: <tag>", "if-none-match:<tag>")),
    st.sampled_from(("Range: bytes=0-9", "Range: bytes=-5", "range:bytes=60-", "Range: bytes=0-1,4-5")),
    ranges(4096).map(lambda value: f"Range: {value}"),
)
odd = st.sampled_from(  # some of them make the server hang up
    (
        *(
            "Connection: close",
            "connection: Close",
            "Connection: Upgrade",
            "Expect: 100-continue",
            "Upgrade: websocket",
        ),
        *(
            "Host: localhost",
            "Host: elsewhere.example",
            "Ümlaut: ü",
            "X: é",
            "Bad Name: x",
            "NoColon",
            "A: b\r\n folded",
        ),
        *("A: b\r\n\r\n", ": x", "A: b\x00c", "A: b\nC: d", "A:  b  "),
    )
)
hosts = st.sampled_from(("Host: localhost",) * 6 + ("Host: 127.0.0.1:80", "host:[::1]", "Host: no.example"))
methods = st.sampled_from(("GET",) * 4 + ("HEAD",) * 2 + ("OPTIONS",))
ends = st.sampled_from(("",) * 8 + (".png", "?download=1", "?", "/", "0", "%30", "/metadata"))
addresses = st.sampled_from(("<address>",) * 8 + ("<ADDRESS>", UNKNOWN, "a" * 63))
tame = st.builds(
    lambda method, address, end, *lines: _joined(f"{method} /v1/files/{address}{end} HTTP/1.1", *lines),
    *(methods, addresses, ends, hosts),
) | st.builds(
    lambda method, host, lines: _joined(f"{method} /v1/files/<address> HTTP/1.1", host, *lines),
    # a second User-Agent is malformed, and would cost what came with it its answer
    *(methods, hosts, st.lists(harmless, max_size=3, unique_by=lambda line: line.partition(":")[0].lower())),
)
wild = st.builds(
    lambda method, space, address, end, version, host, lines: _joined(
        f"{method}{space}/v1/files/{address}{end}{space}{version}", host, *lines
    ),
    methods | st.sampled_from(("get", "GET GET", "\r\nGET", " GET")),
    st.sampled_from((" ",) * 6 + ("  ", "\t")),
    addresses | st.sampled_from(("é" * 64, "<address> ", "<address>#x")),
    ends,
    st.sampled_from(("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ")),
    hosts | st.just("No: host"),
    st.lists(harmless | odd, max_size=3),
)


def _joined(*lines: str) -> str:
    return "\r\n".join((*lines, "", ""))


def filled(text: str, address: str) -> bytes:
    """Put the address in for the placeholders."""
    text = text.replace("<tag>", f'"{address}"').replace("<bare>", address)
    return text.replace("<address>", address).replace("<ADDRESS>", address.upper()).encode("utf-8")


PLAIN = _joined("GET /v1/files/<address> HTTP/1.1", COMMON)


@hypothesis_settings(max_examples=300)
@given(
    asked=st.lists(tame, min_size=1, max_size=3),
    last=st.just("") | wild,
    size=st.sampled_from(SIZES),
    cuts=st.lists(st.integers(1, 600), max_size=3),
)
@example(asked=[PLAIN] * 3, last="", size=4096, cuts=[])
@example(asked=[PLAIN.replace("<address>", "<ADDRESS>")], last="", size=4096, cuts=[])
@example(asked=[PLAIN], last="", size=4096, cuts=[len(PLAIN) // 2])
def test_both_ways_answer_alike(sides: Sides, asked: list[str], last: str, size: int, cuts: list[int]) -> None:
    """Whatever is asked, in pieces or several at once, both servers' answers are the same in status, headers, body."""
    pieces = split(filled("".join(asked), sides.addresses[size]), cuts)
    end = filled(last, sides.addresses[size])
    assert ask(sides.fast, *pieces, last=end) == ask(sides.slow, *pieces, last=end)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut requests into pieces, none of them empty."""
    places = sorted({cut % len(data) for cut in cuts} - {0})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "line",
    [
        "",
        "Range: bytes=3-9",
        "Range: bytes=-7",
        "Range: bytes=0-0,1-3",
        "Range: bytes=99999999-",
        "If-None-Match: <tag>",
    ],
)
def test_every_size_is_answered_alike(sides: Sides, size: int, method: str, line: str) -> None:
    """Files around the bounds of the fast lane are answered alike whole, by ranges, and not at all."""
    lines = [COMMON, *([line] if line else [])]
    sent = filled(request("<address>", *lines, method=method).decode(), sides.addresses[size])
    (answer,) = ask(sides.fast, sent)
    assert [answer] == ask(sides.slow, sent)


def test_a_request_cut_at_every_byte_is_answered_alike(sides: Sides) -> None:
    """Wherever a request is cut in two, it is answered once, as if it had come whole, and so is the one after it."""
    sent = request(sides.addresses[4096], COMMON, "Range: bytes=5-8")
    (whole,) = ask(sides.slow, sent)
    for cut in range(1, len(sent)):
        assert ask(sides.fast, sent[:cut], sent[cut:], sent, pause_s=0.002) == [whole, whole], cut


TAKEN = {
    "plain": [],
    "a browser's": ["User-Agent: Mozilla/5.0 (X11)", "Accept: image/*,*/*;q=0.8", "Accept-Language: de", "Cookie: a=b"],
    "one range": ["Range: bytes=1-2"],
    "an open range": ["Range: bytes=4000-"],
    "the last bytes": ["Range: bytes=-2"],
    "what the client has": ["If-None-Match: <tag>"],
    "its own id": ["X-Request-ID: my-own.id"],
}
NOT_TAKEN = {
    "several ranges": ["Range: bytes=1-2,5-6"],
    "no such range": ["Range: bytes=5000-"],
    "another tag": ['If-None-Match: "other"'],
    "a list of tags": ["If-None-Match: <tag>, <tag>"],
    "another condition": ["If-Match: *"],
    "a wish about the connection": ["Connection: close"],
    "an empty body": ["Content-Length: 0"],
    "a wrong host": ["Host: elsewhere.example"],
    "a folded line": ["A: b\r\n c"],
    "a header twice": ["Accept: a", "Accept: b"],
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", TAKEN)
def test_the_commonest_shape_takes_the_fast_lane(sides: Sides, method: str, name: str) -> None:
    """A request in the commonest shape is answered by the fast lane, each time it comes."""
    lines = [line.replace("<tag>", f'"{sides.addresses[4096]}"') for line in TAKEN[name]]
    sent = request(sides.addresses[4096], COMMON, *lines, method=method)
    ask_until_taken(sides.fast, sent)
    before = sides.fast.fit
    for taken in (1, 2, 3):
        assert len(ask(sides.fast, sent)) == 1
        assert sides.fast.fit == before + taken
    assert sides.slow.lane == 0


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_everything_else_falls_through(sides: Sides, name: str) -> None:
    """A request in any other shape is left to the framework, and so is one for a file it does not know."""
    lines = [line.replace("<tag>", f'"{sides.addresses[4096]}"') for line in NOT_TAKEN[name]]
    before = sides.fast.fit
    common = [] if lines[0].startswith("Host") else [COMMON]
    assert len(ask(sides.fast, request(sides.addresses[4096], *common, *lines))) == 1
    for address in (UNKNOWN, sides.addresses[4096] + ".png", sides.addresses[4096].upper()):
        assert len(ask(sides.fast, request(address, COMMON))) == 1
    assert len(ask(sides.fast, request(sides.addresses[4096], COMMON, version="HTTP/1.0"))) == 1
    assert sides.fast.fit == before


def test_after_a_body_the_lane_opens_again(sides: Sides) -> None:
    """A request with a body goes to the framework; two requests later the fast lane is taken again."""
    body = b'{"addresses": []}\r\n\r\n'
    head = f"POST /v1/exists HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = request(sides.addresses[4096], COMMON)
    ask_until_taken(sides.fast, sent)
    before = sides.fast.fit
    answers = ask_in_turn(sides.fast, head.encode() + body, sent, sent, sent)
    assert answers == ask_in_turn(sides.slow, head.encode() + body, sent, sent, sent)
    assert sides.fast.fit == before + 2


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_ways_are_recorded_alike(sides: Sides, name: str, method: str) -> None:
    """The timing records of both ways agree in everything but the times, and in which stages took some."""
    own = f"recorded.{method}.{name.replace(' ', '-').replace(chr(39), '')}"
    lines = [line.replace("<tag>", f'"{sides.addresses[4096]}"') for line in TAKEN[name] if "X-Request" not in line]
    sent = request(sides.addresses[4096], COMMON, f"X-Request-ID: {own}", *lines, method=method)
    ask_until_taken(sides.fast, request(sides.addresses[4096], COMMON))
    before = [side.board.summary()["since_start"].stages["total"].count for side in (sides.fast, sides.slow)]
    ask(sides.fast, sent)
    ask(sides.slow, sent)
    fast, slow = sides.fast.timing(own), sides.slow.timing(own)
    for field in ("request_id", "address", "method", "status", "bytes", "range", "worker", "source", "backend"):
        assert getattr(fast, field) == getattr(slow, field), field
    for field in ("queue_ms", "index_ms", "metadata_ms", "disk_ms", "disk_first_ms", "network_ms", "total_ms"):
        assert (getattr(fast, field) > 0) == (getattr(slow, field) > 0), field
    legs = fast.queue_ms + fast.index_ms + fast.metadata_ms + fast.disk_ms + fast.network_ms
    assert legs <= fast.total_ms
    after = [side.board.summary()["since_start"].stages["total"].count for side in (sides.fast, sides.slow)]
    assert [count + 1 for count in before] == after


def test_both_ways_log_alike(tmp_path: Path) -> None:
    """The log lines of both ways have the same fields, and the same values but for times, ids and processes."""
    picture = PNG + random.Random(1).randbytes(5000)
    logged = []
    for name, *flags in (("fast",), ("slow", "--no-fast-path")):
        with RunningServer(tmp_path / name, *flags, workers=1) as server:
            port = int(server.url.rpartition(":")[2])
            side = Server(port, Board.__new__(Board))
            head = f"POST /v1/files HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(picture)}\r\n\r\n"
            (stored,) = ask(side, head.encode() + picture)
            address = json.loads(stored.body)["address"]
            for line in ("A: b", "A: b", "Range: bytes=0-9", f'If-None-Match: "{address}"'):
                ask(side, request(address, COMMON, line))
            (stats,) = ask(side, f"GET /v1/stats HTTP/1.1\r\n{COMMON}\r\n\r\n".encode())
            assert bool(json.loads(stats.body)["counters"]["fast_lane"]) == (name == "fast")
        lines = [json.loads(line) for line in server.log.splitlines()]
        logged.append([line for line in lines if line.get("path", "").endswith(address)])
    for line in (*logged[0], *logged[1]):
        for field in ("ms", "queue_ms", "index_ms", "metadata_ms", "disk_ms", "network_ms"):
            assert isinstance(line.pop(field), float)
        assert re.fullmatch(r"[0-9a-f]{32}", line.pop("request_id"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert [list(line.items()) for line in logged[0]] == [list(line.items()) for line in logged[1]]
    assert len(logged[0]) == 4


def test_a_deleted_file_is_not_answered_from_memory(tmp_path: Path) -> None:
    """A file that the fast lane has just sent is gone for the next request after its deletion, on every connection."""
    picture = PNG + random.Random(2).randbytes(5000)
    with RunningServer(tmp_path / "data", workers=2) as server:
        side = Server(int(server.url.rpartition(":")[2]), Board.__new__(Board))
        head = f"POST /v1/files HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(picture)}\r\n\r\n"
        (stored,) = ask(side, head.encode() + picture)
        sent = request(json.loads(stored.body)["address"], COMMON)
        for _ in range(20):
            assert ask(side, sent)[0].body == picture
        ask(side, sent.replace(b"GET", b"DELETE"))
        for _ in range(20):
            assert " 404 " in ask(side, sent)[0].head.splitlines()[0]


@pytest.mark.parametrize("size", [COPIED_BYTES, COPIED_BYTES + 1, WINDOW_BYTES])
def test_a_file_that_lost_its_end_is_found_out(tmp_path: Path, size: int) -> None:
    """A file whose last byte is gone since it was last sent is told to be damaged, and not sent in part."""
    picture = PNG + random.Random(4).randbytes(size - len(PNG))
    with RunningServer(tmp_path / "data", workers=1) as server:
        side = Server(int(server.url.rpartition(":")[2]), Board.__new__(Board))
        head = f"POST /v1/files HTTP/1.1\r\n{COMMON}\r\nContent-Length: {size}\r\n\r\n"
        (stored,) = ask(side, head.encode() + picture)
        address = json.loads(stored.body)["address"]
        for _ in range(5):
            assert ask(side, request(address, COMMON))[0].body == picture
        (blob,) = (file for file in (tmp_path / "data" / "blobs").rglob("*") if file.name.startswith(address))
        os.truncate(blob, size - 1)
        (answer,) = ask(side, request(address, COMMON))
        assert json.loads(answer.body)["type"].endswith("damaged")


@pytest.mark.parametrize("size", [COPIED_BYTES, COPIED_BYTES + 1, INLINE_BYTES + 1, WINDOW_BYTES])
def test_a_larger_file_takes_the_fast_lane_too(sides: Sides, size: int) -> None:
    """A file up to a window is sent by the fast lane, and recorded with all its bytes; a larger one is not."""
    sent = request(sides.addresses[size], COMMON, f"X-Request-ID: larger.{size}")
    assert len(ask_until_taken(sides.fast, sent).body) == size
    assert sides.fast.timing(f"larger.{size}").bytes == size
    before = sides.fast.lane
    (answer,) = ask(sides.fast, request(sides.addresses[3 * 1024**2], COMMON))
    assert len(answer.body) == 3 * 1024**2
    assert sides.fast.lane == before


@pytest.mark.parametrize("sides", ["pure"], indirect=True)
def test_a_kernel_that_does_not_tell_what_it_has_in_memory(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.5 the fast lane copies what it can read at once, and leaves what is too much for that."""
    monkeypatch.setattr(Linux, "is_resident", lambda *_: False)
    for size in (COPIED_BYTES + 1, INLINE_BYTES):
        assert len(ask_until_taken(sides.fast, request(sides.addresses[size], COMMON)).body) == size
    before = sides.fast.lane
    (answer,) = ask(sides.fast, request(sides.addresses[INLINE_BYTES + 1], COMMON))
    assert len(answer.body) == INLINE_BYTES + 1
    assert sides.fast.lane == before


def test_with_no_more_files_to_open_the_other_path_answers(tmp_path: Path) -> None:
    """Sending from a file needs a second descriptor of the connection; without it the bytes come all the same."""
    picture = PNG + random.Random(5).randbytes(60_000)
    with RunningServer(tmp_path / "data", workers=1) as server:
        side = Server(int(server.url.rpartition(":")[2]), Board.__new__(Board))
        head = f"POST /v1/files HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(picture)}\r\n\r\n"
        (stored,) = ask(side, head.encode() + picture)
        sent = request(json.loads(stored.body)["address"], COMMON)
        worker = server.process.children()[-1]
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                assert ask(side, sent)[0].body == picture  # until the file is kept open
            numbers: set[int] = set()
            while not numbers or len(numbers) <= max(numbers):  # until no number is left between those in use
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", side.port), timeout=60))
                stream = stack.enter_context(connection.makefile("rb"))
                connection.sendall(f"GET /healthz HTTP/1.1\r\n{COMMON}\r\n\r\n".encode())
                receive(stream, "GET")
                numbers = {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
            _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (len(numbers), most))
            connection.sendall(sent)
            assert receive(stream, "GET").body == picture


def test_a_client_that_goes_away_is_recorded_as_gone(sides: Sides) -> None:
    """A client that hangs up without reading is recorded as 499, with fewer bytes than it asked for."""
    for size in (INLINE_BYTES, WINDOW_BYTES, 3 * 1024**2):
        name = f"gone.{size}"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", sides.fast.port))
            connection.sendall(request(sides.addresses[size], COMMON, f"X-Request-ID: {name}"))
            assert connection.recv(1000)
        timing = sides.fast.timing(name)
        assert timing.status == 499
        assert timing.bytes < size
    assert sides.fast.board.summary()["counters"]["errors"] == 0


def test_slow_readers_cost_no_memory_and_nobody_elses_time(tmp_path: Path, soak: bool) -> None:
    """Clients that ask, and ask again, and do not read hold next to no memory; others are answered meanwhile, and at
    last so are they.
    """
    size = 1024**3 if soak else 64 * 1024**2
    large_mp4(tmp_path / "movie.mp4", size)
    movie = (tmp_path / "movie.mp4").read_bytes()
    picture = PNG + random.Random(3).randbytes(INLINE_BYTES - len(PNG))
    with RunningServer(tmp_path / "data", workers=1) as server, contextlib.ExitStack() as stack:
        side = Server(int(server.url.rpartition(":")[2]), Board.__new__(Board))
        asks = []
        for data in (movie, picture):
            head = f"POST /v1/files HTTP/1.1\r\n{COMMON}\r\nContent-Length: {len(data)}\r\n\r\n"
            (stored,) = ask(side, head.encode() + data)
            asks.append(request(json.loads(stored.body)["address"], COMMON))
        ask(side, asks[1])
        before = memory_of(server.processes)
        idle = []
        for number in range(60):
            connection = stack.enter_context(socket.socket())
            if number:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", side.port))
            connection.settimeout(60)
            connection.sendall(asks[number % 2])
            connection.sendall(asks[1] * 20)
            idle.append(connection)
        for _ in range(50):
            assert ask(side, asks[1])[0].body == picture
        assert memory_of(server.processes) - before < 60 * 2 * INLINE_BYTES
        stream = idle[0].makefile("rb")
        assert hashlib.sha256(receive(stream, "GET").body).digest() == hashlib.sha256(movie).digest()
        for _ in range(20):
            assert receive(stream, "GET").body == picture
