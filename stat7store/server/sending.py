"""Sending a run of a file's bytes without copying them, whenever the socket takes some."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from storage.base import ImmediateFile, LocalFile


class Sending:
    """Bytes of a file on their way into a socket that nothing else writes to meanwhile.

    ``sent`` counts the file's bytes that the kernel took. What is sent should be in memory: a
    ``sendfile`` that has to wait for disk holds up the event loop.
    """

    __slots__ = ("_end", "_ended", "_file", "_head", "_is_waiting", "_loop", "_next", "_socket", "sent")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outlet: socket.socket,
        head: bytes,
        file: ImmediateFile | LocalFile,
        start: int,
        length: int,
        ended: Callable[[OSError | None], None],
    ) -> None:
        """``outlet`` is a socket of our own on the connection; ``head`` goes before the bytes of ``file``.

        ``ended`` is called once, with what went wrong if something did; a file that is too short ends
        early, with ``sent`` below ``length``.
        """
        self._loop = loop
        self._socket = outlet
        self._head = head
        self._file = file
        self._next = start
        self._end = start + length
        self._ended = ended
        self._is_waiting = False
        self.sent = 0

    def go(self) -> None:
        """Send what the socket takes now; then wait for it to take more."""
        try:
            while self._head:
                self._head = self._head[self._socket.send(self._head, socket.MSG_MORE) :]
            while self._next < self._end:
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
