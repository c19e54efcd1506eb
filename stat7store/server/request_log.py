"""One log line for each request, written in batches: a call into the log costs more than a small answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from stat7store.server.board import Board
from stat7store.server.log import Log, facts_of, is_console
from stat7store.server.log_writer import LogWriter
from stat7store.settings import Settings

_WRITE_EVERY_S = 0.05
_MOST_LINES = 512
_QUIET = frozenset({"warning", "error"})


class RequestLog:
    """The lines of one worker: JSON that this object puts together, or the log's own form on a terminal.

    JSON lines are handed over a twentieth of a second later at most, and by ``flush``. The compiled lane puts
    its lines together itself (see ``facts``), in the same form; they are fetched from it.
    """

    def __init__(self, settings: Settings, log: Log, writer: LogWriter, board: Board) -> None:
        """``log`` gives its facts to every line, and writes by ``writer``, too; ``board`` counts what is lost."""
        self.enabled = settings.access_log and settings.log_level not in _QUIET
        self._log = log
        self._is_console = is_console(settings)
        self._facts = facts_of(log)
        self._encode = msgspec.json.Encoder().encode
        self._writer = writer
        self._board = board
        self._lines: list[bytes] = []
        self._fetch: Callable[[], bytes] = bytes
        self._handing_over: asyncio.TimerHandle | None = None
        self._counted = self._told = 0

    @property
    def facts(self) -> bytes | None:
        """What every JSON line begins with, up to its first comma; None if there are no such lines."""
        if not self.enabled or self._is_console:
            return None
        return self._encode(self._facts)[:-1] + b"," if self._facts else b"{"

    def fetch_from(self, fetch: Callable[[], bytes]) -> None:
        """Have lines that someone else puts together fetched by ``fetch``, in time; see ``lines_wait``."""
        self._fetch = fetch

    def lines_wait(self, urgent: bool) -> None:
        """Learn that lines are to be fetched: at once, or within a twentieth of a second."""
        if urgent:
            self.flush()
        elif self._handing_over is None:
            self._handing_over = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self.flush)

    def add(
        self,
        *,
        method: str,
        path: str,
        status: int,
        ms: float,
        request_id: str,
        client: str | None,
        stages: dict[str, float],
    ) -> None:
        """Log a request that took ``ms`` milliseconds; ``stages`` are its legs, in milliseconds too."""
        if not self.enabled:
            return
        facts = {
            "method": method,
            "path": path,
            "status": status,
            "ms": round(ms, 4),
            "request_id": request_id,
            "client": client,
            **stages,
        }
        if self._is_console:
            self._log.info("request", **facts)
            return
        self._lines.append(self._fetch())  # they are earlier
        line = {**self._facts, **facts, "event": "request", "level": "info", "timestamp": datetime.now(UTC)}
        self._lines.append(self._encode(line) + b"\n")
        self.lines_wait(len(self._lines) >= 2 * _MOST_LINES)

    def flush(self) -> None:
        """Hand over the lines that wait, to be written."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            self._handing_over = None
        self._lines.append(self._fetch())
        if lines := b"".join(self._lines):
            self._writer.write(lines)
        self._lines.clear()
        self._tell_of_losses()

    def _tell_of_losses(self) -> None:
        dropped = self._writer.dropped
        self._board.count("log_lines_dropped", dropped - self._counted)
        self._counted = dropped
        if dropped == self._told:
            return
        if self._writer.is_behind:  # this line would be lost as well
            self.lines_wait(urgent=False)
        else:
            lost, self._told = dropped - self._told, dropped
            self._log.warning("lines of the log were lost: standard error took them too slowly", lines=lost)


REQUEST_LOG = web.AppKey("request_log", RequestLog)
