"""Log lines on standard error: for people on a terminal, JSON for programs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress

from stat7store.settings import Settings

# At its import structlog.dev would load rich and all that it colours code by: a fifth of a start, for tracebacks
# that are written plain here. Where rich is loaded already, or wanted later, nothing changes.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's way to say: not to be had
    import structlog

    del sys.modules["rich"]
else:
    import structlog

Log = structlog.typing.FilteringBoundLogger


def write_lines(text: str) -> None:
    """Write whole lines to standard error; what cannot be written, because a disk is full, is lost."""
    with suppress(OSError):  # a request must not fail for its log line
        sys.stderr.write(text)
        sys.stderr.flush()


def is_console(settings: Settings) -> bool:
    """Tell whether the lines are for people."""
    return settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())


def make_log(settings: Settings, write: Callable[[str], None] = write_lines, **facts: object) -> Log:
    """Return a log that writes ``facts`` on every line, in the form the settings ask for, by calling ``write``."""
    form: list[structlog.typing.Processor] = (
        [
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if is_console(settings)
        else [
            structlog.processors.TimeStamper("iso", utc=True),
            # without local variables: they hold other people's bytes, and fill pages
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    )
    log: Log = structlog.wrap_logger(
        _Writing(write),
        processors=[structlog.processors.add_log_level, *form],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        cache_logger_on_first_use=True,
    )
    return log.bind(**facts)


def facts_of(log: Log) -> dict[str, object]:
    """Return the facts that a log writes on every line."""
    return dict(structlog.get_context(log))


class _Writing:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def msg(self, message: str) -> None:
        self._write(f"{message}\n")

    debug = info = warning = error = critical = exception = msg
