"""One connection of the client: requests out, answers in, no copy of a body on either way."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

Buffer = bytes | memoryview
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_BODILESS = (b"204", b"304")
_MOST_HEAD = 65_536


class Answer(NamedTuple):
    """An answer whose body has come in whole: its status, the bytes of its body, and its head."""

    status: int
    size: int
    head: bytes


class Connection:
    """A connection to 127.0.0.1 that sends one request at a time, watched by ``poll``."""

    def __init__(self, port: int, poll: select.epoll, buffer: bytearray) -> None:
        self.answered: Callable[[Answer], None] = lambda answer: None
        self._poll = poll
        self._buffer = buffer  # shared by all: what is in it is used at once
        self._unsent: list[memoryview] = []
        self._head = b""
        self._status = 0
        self._size = 0
        self._missing = -1  # bytes of the body still to come; -1: the head is not whole
        self._bodiless = False
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        poll.register(self.socket, select.EPOLLIN)

    def send(self, pieces: Sequence[Buffer], *, bodiless: bool = False) -> None:
        """Send a request; ``answered`` is called when its answer is there. ``bodiless``: the request is a HEAD."""
        self._head, self._missing, self._bodiless = b"", -1, bodiless
        try:
            sent = self.socket.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        self._keep(pieces, sent)
        if self._unsent:
            self._poll.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def ready(self, event: int) -> None:
        """Go on with what the kernel is ready for. Raises ``ConnectionError`` or ``ValueError``."""
        if event & select.EPOLLOUT and self._unsent:
            self._keep(self._unsent, self.socket.sendmsg(self._unsent))
            if not self._unsent:
                self._poll.modify(self.socket, select.EPOLLIN)
        if event & ~select.EPOLLOUT:
            count = self.socket.recv_into(self._buffer)
            if not count:
                raise ConnectionResetError("the server closed the connection")
            self._take(count)

    def close(self) -> None:
        """Close it; nothing is answered any more."""
        self._poll.unregister(self.socket)
        self.socket.close()

    def _keep(self, pieces: Sequence[Buffer], sent: int) -> None:
        rest: list[memoryview] = []
        for piece in pieces:
            if sent < len(piece):
                rest.append(memoryview(piece)[sent:])
            sent = max(sent - len(piece), 0)
        self._unsent = rest

    def _take(self, count: int) -> None:
        if self._missing < 0:
            before = len(self._head)
            self._head += self._buffer[: min(count, _MOST_HEAD)]
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) >= _MOST_HEAD:
                    raise ValueError("a head without an end")
                return
            came = before + count - (end + 4)
            self._head = self._head[: end + 2]
            self._status = int(self._head[9:12])
            self._size = 0 if self._bodiless or self._head[9:12] in _BODILESS else self._length()
            self._missing = self._size - came
        else:
            self._missing -= count
        if self._missing < 0:
            raise ValueError("more bytes than the head announced")
        if self._missing == 0:
            self.answered(Answer(self._status, self._size, self._head))

    def _length(self) -> int:
        found = _LENGTH.search(self._head)
        if found is None:
            raise ValueError(f"no Content-Length in {self._head[:200]!r}")
        return int(found[1])
