"""A server between a client and moto that breaks what it is told to break."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Asked(NamedTuple):
    """One request as it came, and the status that moto answered with (0 if it was not passed on)."""

    method: str
    path: str
    headers: dict[str, str]
    status: int


class Fault(NamedTuple):
    """What to do to the next request that matches.

    ``before``: answer with this status and S3 error code, or with nothing at all for status 0, and
    pass nothing on. ``lost``: pass it on and give no answer. ``cut``: end the body after so many
    bytes. ``alter``: change one byte of the body. ``silent_s``: wait so long before answering.
    """

    matches: Callable[[Asked], bool]
    before: tuple[int, str] | None = None
    lost: bool = False
    cut: int | None = None
    alter: int | None = None
    silent_s: float = 0.0


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away."""


class BreakingServer:
    """Passes requests on to another server on this machine, and keeps a list of them."""

    def __init__(self, target: str) -> None:
        """``target``: the other server's ``host:port``."""
        self.target = target
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault_for(self, asked: Asked) -> Fault | None:
        """Take the first fault that matches off the list."""
        with self.lock:
            for fault in self.faults:
                if fault.matches(asked):
                    self.faults.remove(fault)
                    return fault
        return None

    def stop(self) -> None:
        """End it."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = Asked(self.command, self.path, dict(self.headers.items()), 0)
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = server.fault_for(asked)
                if fault is not None and fault.before is not None:
                    server.asked.append(asked)
                    self.refuse(*fault.before)
                    return
                if fault is not None and fault.silent_s:
                    server.stopping.wait(fault.silent_s)
                answer, body = self.passed_on(data)
                server.asked.append(asked._replace(status=answer.status))
                if fault is not None and fault.lost:
                    self.close_connection = True
                    return
                self.give(answer, body, fault)

            do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

            def passed_on(self, data: bytes) -> tuple[http.client.HTTPResponse, bytes]:
                connection = http.client.HTTPConnection(server.target, timeout=60)
                try:
                    connection.request(self.command, self.path, data, dict(self.headers.items()))
                    answer = connection.getresponse()
                    return answer, answer.read()
                finally:
                    connection.close()

            def give(self, answer: http.client.HTTPResponse, body: bytes, fault: Fault | None) -> None:
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if fault is not None and fault.alter is not None:
                    body = body[: fault.alter] + bytes([body[fault.alter] ^ 1]) + body[fault.alter + 1 :]
                if fault is not None and fault.cut is not None:
                    body = body[: fault.cut]
                    self.close_connection = True
                self.wfile.write(body)

            def refuse(self, status: int, code: str) -> None:
                self.close_connection = True
                if not status:
                    return
                body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
                self.send_response_only(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler
