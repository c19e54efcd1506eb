"""HTTP to one server: a pool of connections, its errors as the project's, its legs timed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from stat7store.client.answers import error_of
from stat7store.errors import Malformed, Unavailable
from stat7store.timing import now_ns

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 75.0  # longer than the server waits for what it waits for
READ_BUFFER_BYTES = 1024 * 1024

# what a connection that breaks, or a server that falls silent, comes up as
BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError)


class Legs:
    """When one request started and how long its connection took to make (0 for a kept one), in nanoseconds."""

    __slots__ = ("connect", "connecting", "started")

    def __init__(self) -> None:
        self.started = now_ns()
        self.connecting = self.connect = 0


class Connection:
    """A pool of up to ``limit`` connections to one server."""

    def __init__(self, url: str, limit: int) -> None:
        """``url`` is that of the server's root. Raises ``Malformed``."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Malformed(f"{url[:80]!r} is not the URL of a server", expected="one such as http://127.0.0.1:7377")
        self.url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
            # the bytes are to come as they are stored
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            trace_configs=[_connect_trace()],
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        legs: Legs | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the answer, its body not yet read; a refusal is raised as the project's error."""
        with self._reaching():
            response = await self._session.request(
                method,
                f"{self.url}{path}",
                headers=headers,
                params=params,
                data=data,
                trace_request_ctx=legs,
                allow_redirects=method == "GET",  # a server may send us to S3 for the bytes
                max_redirects=3,
            )
        async with response:
            if response.status >= 300:
                with self._reaching():
                    body = await response.read()
                raise error_of(response.status, body)
            yield response

    async def call(self, method: str, path: str, **details: Any) -> bytes:
        """Return the body of an answer."""
        async with self.request(method, path, **details) as response:
            with self._reaching():
                return await response.read()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(
                f"cannot reach {self.url} ({_reason(error)}); `stat7store serve` starts a server"
            ) from error
        except BROKEN as error:
            raise Unavailable(f"the connection to {self.url} broke ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no host of that name"
    return str(error) or type(error).__name__


def _connect_trace() -> aiohttp.TraceConfig:
    async def begin(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.connecting = now_ns()

    async def end(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object) -> None:
        legs = context.trace_request_ctx
        if legs is not None:
            legs.connect = now_ns() - legs.connecting

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(begin)
    trace.on_connection_create_end.append(end)
    return trace
