"""One log line for each request, written in batches: a call into the log costs more than a small answer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from stat7store.server.log import Log, facts_of, is_console, write_lines
from stat7store.settings import Settings

_WRITE_EVERY_S = 0.05
_MOST_LINES = 512
_QUIET = frozenset({"warning", "error"})


class RequestLog:
    """The lines of one worker: JSON that this object puts together, or the log's own form on a terminal.

    JSON lines are written a twentieth of a second later at most, and by ``flush``.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        """``log`` gives its facts to every line."""
        self.enabled = settings.access_log and settings.log_level not in _QUIET
        self._log = log if is_console(settings) else None
        self._facts = facts_of(log)
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._writing: asyncio.TimerHandle | None = None

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
            "ms": round(ms, 3),
            "request_id": request_id,
            "client": client,
            **stages,
        }
        if self._log is not None:
            self._log.info("request", **facts)
            return
        line = {**self._facts, **facts, "event": "request", "level": "info", "timestamp": datetime.now(UTC)}
        self._lines.append(self._encode(line))
        if len(self._lines) >= _MOST_LINES:
            self.flush()
        elif self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if self._lines:
            lines, self._lines = self._lines, []
            write_lines(b"\n".join((*lines, b"")).decode())


REQUEST_LOG = web.AppKey("request_log", RequestLog)
