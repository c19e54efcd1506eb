"""A peer of a few lines for tests: it keeps files in memory, and can be told to misbehave."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil

from scripts.peers.files import MIB, File
from scripts.peers.work import Writing


@dataclass
class FakePeer:
    """A server in this process.

    ``spoil`` changes a byte of every answer. ``dribble`` sends each answer byte by byte. ``stall_s`` is how
    long the answer to the first request takes; ranges begin ``range_shift`` bytes too early. ``asked`` counts
    GETs; ``digests`` are those of uploads in two steps.
    """

    name: str = "fake"
    spoil: bool = False
    dribble: bool = False
    stall_s: float = 0.0
    range_shift: int = 0
    writing: Writing | None = field(default_factory=lambda: Writing("POST", "/"))
    durable: bool = False
    remark: str = "keeps all in memory"
    path: str = "/{address}"
    most_written: int = MIB
    files: dict[str, bytes] = field(default_factory=dict)
    asked: int = 0
    digests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "0"

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        folder.mkdir()
        return False

    @contextmanager
    def serving(self, folder: Path, port: int, workers: int, cores: Sequence[int]) -> Iterator[list[psutil.Process]]:
        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        handler = type("BoundHandler", (Handler,), {"peer": self})
        with Server(("127.0.0.1", port), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield [psutil.Process()]
            finally:
                server.shutdown()
                thread.join()

    def blobs(self, folder: Path) -> Path | None:
        return None


class Handler(BaseHTTPRequestHandler):
    """Answers for a ``FakePeer``."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    peer: FakePeer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with a file, or a part of it."""
        self.peer.asked += 1
        with self.peer.lock:  # one at a time: a stalled one holds up all others
            stall, self.peer.stall_s = self.peer.stall_s, 0.0
            time.sleep(stall)
        data = self.peer.files[self.path.strip("/")]
        if self.peer.spoil:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, data)
        else:
            start, end = map(int, wanted.removeprefix("bytes=").split("-"))
            self._answer(206, data[start - self.peer.range_shift : end + 1 - self.peer.range_shift])

    def do_POST(self) -> None:
        """Take a file, or begin an upload in two steps."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.peer.writing is not None and self.peer.writing.in_two_steps:
            self._answer(202, b"", Location=f"http://127.0.0.1/{len(self.peer.files)}?state=1")
        else:
            self._keep(data)

    def do_PUT(self) -> None:
        """End an upload in two steps."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.peer.digests += parse_qs(urlsplit(self.path).query)["digest"]
        self._keep(data)

    def _keep(self, data: bytes) -> None:
        with self.peer.lock:
            self.peer.files[hashlib.sha256(data).hexdigest()] = data
        self._answer(201, b"")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Fine", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        answer = "\r\n".join([*lines, "", ""]).encode() + body
        for piece in [answer[n : n + 1] for n in range(len(answer))] if self.peer.dribble else [answer]:
            self.wfile.write(piece)
            self.wfile.flush()
