"""Messages between two processes of one machine: bytes and open files, whole or not at all."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence

MOST_FILES = 253  # of one message: linux/net/scm.h, SCM_MAX_FD
_BESIDE = socket.CMSG_SPACE(MOST_FILES * array("i").itemsize)
_LONGEST = 160 * 1024  # the kernel takes some more at once, unless it was told otherwise


class Channel:
    """One end of a connection. When either process ends, however it ends, the other is told."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor, to wait until there is something to receive."""
        return self._end.fileno()

    def send(self, message: bytes, files: Sequence[int] = ()) -> None:
        """Send a message of at least one byte, and files, which stay open here. Blocks while the other end lags far
        behind. Raises ``OSError``, among others if there is no other end any more.
        """
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))] if files else []
        self._end.sendmsg([message], beside, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[bytes, list[int]]:
        """Wait for a message; return it and its files, for the caller to close. ``b""``: the other end is closed."""
        try:
            # ``socket.recv_fds`` of Python 3.11 would leave the files open over an exec
            message, beside, flags, _ = self._end.recvmsg(_LONGEST, _BESIDE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return b"", []
        files = [file for _, _, data in beside for file in array("i", data)]
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for file in files:
                os.close(file)
            raise OSError("a message was cut: no more files may be open, or it is too long")
        return message, files

    def close(self) -> None:
        """Close this end; repeats are harmless."""
        self._end.close()
