"""One client connection: aiohttp's protocol, with what timing and clear errors need.

- Each request is stamped with the time its last header byte was read (the start of *queue*).
- The write buffer limit is 0 and TCP_NOTSENT_LOWAT is set, so that bytes accepted have nearly left.
- A stop lets uploads in flight finish as well as downloads.
- A client that ends its side, even in the middle of a body, still gets its answer.
- What aiohttp refuses by itself (malformed HTTP) becomes a problem document too.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler

from stat7store.errors import Malformed
from stat7store.server.problems import problem, problem_of_bug
from stat7store.timing import now_ns

NOT_SENT_LOWAT_BYTES = 128 * 1024
_CUT_OFF_S = 0.5  # for a handler that did not end in time to take notice of being cancelled
ARRIVED = web.RequestKey("arrived", int)


class Connection(RequestHandler):
    """aiohttp's request handler with arrival times; made by ``ConnectionServer`` only."""

    __slots__ = ("arrivals", "ended", "newest_body")

    def __init__(self, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.arrivals: deque[int] = deque()
        self.ended = False
        self.newest_body: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up before the first request."""
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            transport.set_write_buffer_limits(high=0)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse what came in; whatever requests are complete now have arrived now."""
        arrived = now_ns()
        before = len(self._messages)
        if self._close and self.newest_body is not None and not self.newest_body.is_eof():
            self._close = False  # aiohttp would drop what is still to come of a body it waits for
            super().data_received(data)
            self._close = True
        else:
            super().data_received(data)
        for _ in range(len(self._messages) - before):
            self.arrivals.append(arrived)
            self.newest_body = self._messages[-1][1]

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature; aiohttp narrows it
        """Answer what is still to be answered, rather than hang up on a client that only ended its side."""
        body = self.newest_body
        is_idle = body is None or (self._waiter is not None and not self._waiter.done())
        if is_idle:
            return False
        if body is not None and not body.is_eof():
            # in this order: the end alone would wake a handler that waits, and pass for the end of the body
            body.set_exception(Malformed("the body ended before its announced length"))
            body.feed_eof()
        self.ended = True
        self.close_after_last()
        return True

    def close_after_last(self) -> None:
        """Close after the request now being answered if the client ended its side and no other waits."""
        if self.ended and not self._messages:
            self.close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's signature
        """Let the request in progress end, its body still coming in; then close."""
        self.close()
        if self._request_in_progress:
            self._handler_waiter = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._handler_waiter
            except TimeoutError:
                self._handler_waiter = None
        await super().shutdown(_CUT_OFF_S)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler (malformed HTTP), and close."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("there is nobody to answer, or an answer is under way already") from exc
        if status == HTTPStatus.BAD_REQUEST:
            response = problem(400, "malformed", Malformed.title, f"not a well-formed HTTP request: {message}")
        else:
            self.log_exception("unhandled error", exc_info=exc)
            response = problem_of_bug()
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes a ``Connection`` for each client, and hands each request its arrival time."""

    def __init__(self, server: web.Server) -> None:
        """Take over from the server that ``web.AppRunner`` made."""
        super().__init__(
            server.request_handler, request_factory=server.request_factory, loop=server._loop, **server._kwargs
        )
        make_request = server.request_factory

        def make_stamped_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            request = make_request(message, payload, protocol, writer, task)
            request[ARRIVED] = protocol.arrivals.popleft() if protocol.arrivals else 0
            protocol.close_after_last()
            return request

        self.request_factory = make_stamped_request

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on ``Connection``."""

    async def _make_server(self) -> web.Server:
        return ConnectionServer(await super()._make_server())
