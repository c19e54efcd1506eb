"""Standard error as servers write to it: from a thread, so that no request waits for whoever reads the log."""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from collections.abc import Iterator

MOST_WAITING_BYTES = 8 * 1024**2
_FILE_PIECE_BYTES = 256 * 1024
_PIPE_PIECE_BYTES = 4096  # PIPE_BUF of Linux: what a pipe takes whole, whoever else writes to it


class LogWriter:
    """Writes lines in the order they come to a descriptor, to which other processes may write as well.

    While it takes nothing, up to ``most_waiting`` bytes wait; what comes then is dropped, and counted in
    ``dropped``. So is what cannot be written, because a disk is full or the reader is gone.
    """

    def __init__(self, descriptor: int = 2, most_waiting: int = MOST_WAITING_BYTES) -> None:
        """Neither opens nor closes the descriptor. The thread starts with the first line."""
        self.dropped = 0
        self._descriptor = descriptor
        self._most_waiting = most_waiting
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def is_behind(self) -> bool:
        """Whether lines wait."""
        return self._waiting_bytes > 0

    def write(self, lines: bytes) -> None:
        """Have whole lines written; returns at once. Any thread may call it, until ``close``."""
        with self._changed:
            if self._closing or self._waiting_bytes + len(lines) > self._most_waiting:
                self.dropped += lines.count(b"\n")
                return
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def write_text(self, lines: str) -> None:
        """Have lines written that are not yet encoded. See ``write``."""
        self.write(lines.encode(errors="backslashreplace"))

    def close(self, timeout_s: float) -> None:
        """Take no more lines, and wait until all are written, for so many seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                lines = self._waiting.popleft()
            lost = self._write(lines)
            with self._changed:
                self._waiting_bytes -= len(lines)
                self.dropped += lost

    def _write(self, lines: bytes) -> int:
        """Write lines; return how many were lost."""
        lost = 0
        for piece in _pieces(lines, _PIPE_PIECE_BYTES if _is_pipe(self._descriptor) else _FILE_PIECE_BYTES):
            rest = memoryview(piece)
            try:
                while rest:
                    rest = rest[self._write_some(rest) :]
            except OSError:
                lost += piece.count(b"\n")
        return lost

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # someone else made the descriptor so; it is theirs as well
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0


def _pieces(lines: bytes, most: int) -> Iterator[bytes]:
    """Cut at ends of lines; a piece is longer than ``most`` only if it is a single line."""
    at = 0
    while at < len(lines):
        end = len(lines) if len(lines) - at <= most else lines.rfind(b"\n", at, at + most) + 1
        if end <= at:
            end = lines.find(b"\n", at) + 1 or len(lines)
        yield lines[at:end]
        at = end


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
