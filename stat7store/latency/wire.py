"""One kept-open HTTP/1.1 connection of the load generator: lean, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import cast

from stat7store.timing import now_ns
from storage.base import Span

_HEAD_END = b"\r\n\r\n"
_MOST_HEAD = 64 * 1024


class Exchange:
    """One request and what became of it. Moments are readings of ``now_ns``; 0 is not yet.

    ``intended`` is when it should have been sent; ``connect_ns`` what connecting took, if it was the
    first on its connection. ``error`` says in a word or two what went wrong, or is empty. ``span`` is
    the range that was asked for, of a file of ``file_bytes``; ``digest`` the SHA-256 of what came.
    """

    __slots__ = (
        "address",
        "body",
        "connect_ns",
        "digest",
        "error",
        "expected_bytes",
        "expected_status",
        "file_bytes",
        "first",
        "head",
        "intended",
        "last",
        "number",
        "reads",
        "received",
        "request",
        "sent",
        "span",
        "verified",
    )

    def __init__(self, number: int, request: bytes, address: bytes, *, reads: bool) -> None:
        """``request`` is all that is sent. ``reads``: a retrieval, not an upload."""
        self.number = number
        self.request = request
        self.address = address
        self.reads = reads
        self.expected_status = 200
        self.expected_bytes = 0
        self.intended = self.sent = self.first = self.last = self.connect_ns = 0
        self.received = 0
        self.head = b""
        self.body = b""
        self.span: Span | None = None
        self.file_bytes = 0
        self.digest = b""
        self.error = ""
        self.verified = False


class Wire(asyncio.Protocol):
    """Sends one exchange at a time and calls ``done`` with itself when it has ended, well or not.

    A body is hashed as it arrives, so memory stays bounded; the bytes of a whole file must hash to
    its address.
    """

    def __init__(self, done: Callable[[Wire, Exchange], None]) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._head = b""
        self._missing = -1
        self._hash = hashlib.sha256()
        self._close_after = False
        self.fresh_ns = 0

    @property
    def is_open(self) -> bool:
        """Whether it can send."""
        return self._transport is not None and not self._transport.is_closing()

    async def connect(self, host: str, port: int) -> None:
        """Connect. Raises ``OSError``."""
        begun = now_ns()
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        self.fresh_ns = now_ns() - begun

    def send(self, exchange: Exchange) -> None:
        """Send a request; nothing else may be under way here."""
        assert self._exchange is None
        assert self._transport is not None
        self._exchange = exchange
        self._head, self._missing = b"", -1
        exchange.connect_ns, self.fresh_ns = self.fresh_ns, 0
        exchange.sent = now_ns()
        self._transport.write(exchange.request)

    def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        exchange = self._exchange
        if exchange is None:
            self.close()  # bytes that nobody asked for: the connection is of no use any more
            return
        now = now_ns()
        if self._missing < 0:
            if not exchange.first:
                exchange.first = now
            data = self._head + data if self._head else data
            end = data.find(_HEAD_END)
            if end < 0:
                self._head = data
                if len(data) > _MOST_HEAD:
                    self._end("no HTTP answer")
                return
            exchange.head = data[:end]
            data = data[end + 4 :]
            if not self._begin(exchange):
                return
        self._missing -= len(data)
        exchange.received += len(data)
        if self._missing > 0:
            self._hash.update(data)
            return
        exchange.last = now
        self._hash.update(data)
        if not exchange.reads:
            exchange.body = data  # an upload's answer is short
        self._end(self._judged(exchange) if self._missing == 0 else "longer than announced")

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = None
        if self._exchange is not None:
            self._end("connection lost")

    def _begin(self, exchange: Exchange) -> bool:
        head = exchange.head.lower()
        at = head.find(b"\r\ncontent-length:")
        try:
            self._missing = int(head[at + 17 : (head + b"\r").find(b"\r", at + 17)])
        except ValueError:
            at = -1
        if at < 0:
            self._end("no content length")
            return False
        self._close_after = b"\r\nconnection: close" in head
        self._hash = hashlib.sha256()
        return True

    def _judged(self, exchange: Exchange) -> str:
        status = exchange.head[9:12]
        if exchange.reads:
            if status != b"%d" % exchange.expected_status:
                return f"status {status.decode(errors='replace')}"
            if exchange.received != exchange.expected_bytes:
                return "wrong length"
            exchange.digest = self._hash.digest()
            if exchange.expected_status == 200:
                if exchange.digest != exchange.address:
                    return "wrong bytes"
                exchange.verified = True
            return ""
        if status not in (b"200", b"201"):
            return f"status {status.decode(errors='replace')}"
        exchange.verified = exchange.address.hex().encode() in exchange.body
        return "" if exchange.verified else "stored under another address"

    def _end(self, error: str) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._exchange = None
        exchange.error = error
        exchange.last = exchange.last or now_ns()
        if error or self._close_after:
            self.close()
        self._done(self, exchange)
