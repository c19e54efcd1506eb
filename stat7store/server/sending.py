"""Sending bytes of memory, then of a file, without copying them, whenever the socket takes some."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from storage.base import ImmediateFile, LocalFile, Span


def send_at_once(outlet: socket.socket, head: bytes, file: ImmediateFile, span: Span) -> tuple[int, int]:
    """Send what the socket takes now of a head, then of a file; return how many bytes of each that was.

    The head alone is not pushed out: it leaves with the first of the file. Raises ``OSError`` if the client
    is gone, or the file cannot be read.
    """
    taken = 0
    try:
        taken = outlet.send(head, socket.MSG_MORE)
        if taken < len(head):
            return taken, 0
        return taken, os.sendfile(outlet.fileno(), file.fileno(), span.start, span.length)
    except BlockingIOError:
        return taken, 0


class Sending:
    """Bytes on their way into a socket that nothing else writes to meanwhile.

    ``sent`` counts the file's bytes that the kernel took, ``left`` are those of memory that it did not.
    What is sent of a file should be in memory: a ``sendfile`` that waits for disk holds up the event loop.
    """

    __slots__ = ("_end", "_ended", "_file", "_head", "_is_waiting", "_loop", "_next", "_socket", "sent")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outlet: socket.socket,
        head: bytes,
        file: ImmediateFile | LocalFile | None,
        span: Span,
        ended: Callable[[OSError | None], None],
    ) -> None:
        """``outlet`` is a socket of our own on the connection; ``head`` goes before the bytes of ``file``, if any.

        ``ended`` is called once, with what went wrong if something did; a file that is too short ends
        early, with ``sent`` below ``length``.
        """
        self._loop = loop
        self._socket = outlet
        self._head = memoryview(head)
        self._file = file
        self._next = span.start
        self._end = span.end
        self._ended = ended
        self._is_waiting = False
        self.sent = 0

    @property
    def left(self) -> int:
        """Bytes of memory still to be sent."""
        return len(self._head)

    def go(self) -> None:
        """Send what the socket takes now; then wait for it to take more."""
        try:
            more = socket.MSG_MORE if self._next < self._end else 0
            while self._head:
                self._head = self._head[self._socket.send(self._head, more) :]
            while self._file is not None and self._next < self._end:
                taken = os.sendfile(self._socket.fileno(), self._file.fileno(), self._next, self._end - self._next)
                if not taken:
                    break
                self._next += taken
                self.sent += taken
        except BlockingIOError:
            if not self._is_waiting:
                self._is_waiting = True
                self._loop.add_writer(self._socket, self.go)
            return
        except OSError as error:
            self.stop()
            self._ended(error)
            return
        self.stop()
        self._ended(None)

    def stop(self) -> None:
        """Send no more; ``ended`` is not called any more, unless it was."""
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._socket)
