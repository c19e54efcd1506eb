"""How many connections a worker takes, and what becomes of those beyond."""

from __future__ import annotations

import asyncio
import errno
import resource
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import msgspec

from stat7store.errors import Unavailable
from stat7store.server.log import Log

LEAST_OPEN_FILES = 128
_FILES_A_CONNECTION = 3  # its socket, another on it while a file is sent, and the file
_OTHER_FILES = 64
_SHARE_OF_KEPT_FILES = 4  # small files stay open for their next readers: see storage/filesystem.py
_MOST_KEPT_FILES = 4096
_LEAST_IDLE_S = 1.0
_CLOSED_AT_ONCE = 0.02  # of the limit, so that a flood does not look for one idle connection each time
_LINGER_S = 1.0
_TOLD_EVERY_S = 10.0
_MOST_LINGERING = 64
_REFUSAL = msgspec.json.encode(
    {
        "type": f"/problems/{Unavailable.slug}",
        "title": Unavailable.title,
        "status": 503,
        "detail": "as many connections are open as the server takes (--max-connections); try again soon",
    }
)
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)


def most_connections(wanted: int, workers: int) -> int:
    """Return how many connections one of so many workers takes at most.

    It is a worker's share of those wanted, or fewer if the open files it may have do not suffice.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    share = max(1, wanted // workers)
    if files == resource.RLIM_INFINITY:
        return share
    kept = min(_MOST_KEPT_FILES, files // _SHARE_OF_KEPT_FILES)
    return max(1, min(share, (files - kept - _OTHER_FILES) // _FILES_A_CONNECTION))


def raise_open_files() -> None:
    """Take all the open files this process may have: each connection and each upload needs some.

    Raises ``Unavailable`` if they are too few to serve at all.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError):  # as many as there are will have to do
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise Unavailable(
            f"only {most} open files are allowed, and a server needs {LEAST_OPEN_FILES} at least; "
            "allow more with: ulimit -n, or LimitNOFILE in a systemd unit"
        )


class OutOfFiles:
    """Handles the event loop's errors: that no file can be opened for a new connection is said once in a while.

    asyncio says it a thousand times a second, and tries again by itself.
    """

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """See ``loop.set_exception_handler``."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif self._clock() - self._told > _TOLD_EVERY_S:
            self._told = self._clock()
            self._log.error("no more files may be open: new connections wait", reason=str(error))


class Idle(Protocol):
    """A connection that may be idle."""

    @property
    def is_open(self) -> bool:
        """Whether it was not told to close."""

    @property
    def idle_since(self) -> float | None:
        """When the last request was answered or the connection was made; None while one is being answered."""

    def close_idle(self) -> None:
        """Close it."""


class Door:
    """Lets connections in, and closes those that have been idle for longest when it gets crowded."""

    def __init__(self, most: int, loop: asyncio.AbstractEventLoop) -> None:
        """``most``: connections that are inside at once."""
        self._most = most
        self._loop = loop
        self._lingering: set[asyncio.BaseTransport] = set()

    def admit(self, transport: asyncio.Transport, inside: Collection[Idle]) -> bool:
        """Tell whether one more may come in; one that may not is answered 503, and is no concern of the caller's."""
        # those that are told to close stay among them until the loop comes round
        if len(inside) < self._most or self._is_room(each for each in inside if each.is_open):
            return True
        if len(self._lingering) >= _MOST_LINGERING:
            transport.abort()
        else:
            transport.set_protocol(_Refusal(self._loop, transport, self._lingering))
        return False

    def _is_room(self, inside: Iterable[Idle]) -> bool:
        living = [*inside]
        return len(living) < self._most or self._close_longest_idle(living)

    def _close_longest_idle(self, inside: Collection[Idle]) -> bool:
        """Close some, if there are any; return whether there were."""
        before = self._loop.time() - _LEAST_IDLE_S
        idle = [(since, each) for each in inside if (since := each.idle_since) is not None and since < before]
        idle.sort(key=lambda one: one[0])
        for _, each in idle[: max(1, int(self._most * _CLOSED_AT_ONCE))]:
            each.close_idle()
        return bool(idle)


class _Refusal(asyncio.Protocol):
    """Says no, and lets the client read it: to close at once would take the answer back with what it sent."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, lingering: set[asyncio.BaseTransport]
    ) -> None:
        self._lingering = lingering
        self._transport = transport
        lingering.add(transport)
        transport.write(_ANSWER)
        if transport.can_write_eof():
            transport.write_eof()
        self._end = loop.call_later(_LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        self._end.cancel()
        self._lingering.discard(self._transport)
