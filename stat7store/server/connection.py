"""One client connection: aiohttp's protocol, with what timing and clear errors need.

- A request in its commonest shape is answered ahead of aiohttp: see ``fastlane.py``. A connection that asks
  for nothing else is parked: the lane then listens for it, until it says something else or is closed.
- Each request is stamped with the time its last header byte was read (the start of *queue*).
- The write buffer limit is 0 and TCP_NOTSENT_LOWAT is set, so that bytes accepted have nearly left.
- A stop lets uploads in flight finish as well as downloads.
- A client that ends its side, even in the middle of a body, still gets its answer.
- There are only so many connections: see ``limits.py``.
- What aiohttp refuses by itself (malformed HTTP) becomes a problem document too.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.web_protocol import RequestHandler

from stat7store.errors import Malformed
from stat7store.server.limits import Door
from stat7store.server.problems import problem, problem_of_bug
from stat7store.server.sending import Sending, send_at_once
from stat7store.timing import now_ns
from storage.base import ImmediateFile, LocalFile, Span

if TYPE_CHECKING:
    from stat7store.server.fastlane import FastLane

NOT_SENT_LOWAT_BYTES = 128 * 1024
_CUT_OFF_S = 0.5  # for a handler that did not end in time to take notice of being cancelled
ARRIVED = web.RequestKey("arrived", int)


class Connection(RequestHandler):
    """aiohttp's request handler with arrival times; made by ``ConnectionServer`` only."""

    __slots__ = (
        "_at_start",
        "_count_refusal",
        "_door",
        "_lane",
        "_outlet",
        "_parked",
        "_parking",
        "_sending",
        "_when_written",
        "_window",
        "arrivals",
        "client",
        "ended",
        "newest_body",
        "socket_number",
    )

    def __init__(
        self,
        manager: ConnectionServer,
        lane: FastLane | None,
        count_refusal: Callable[[int], None],
        door: Door,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, **kwargs)
        self._door = door
        self._lane = lane
        self._parking = None if lane is None else lane.parking
        self._count_refusal = count_refusal
        self._at_start = True  # whether aiohttp's parser stands at the start of a request
        self._parked = False
        self._outlet: socket.socket | None = None
        self._sending: Sending | None = None
        self._window: asyncio.Future[OSError | None] | None = None
        self._when_written: Callable[[bool], None] | None = None
        self.client: str | None = None
        self.socket_number = -1
        self.arrivals: deque[int] = deque()
        self.ended = False
        self.newest_body: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up before the first request, if it may come in."""
        if isinstance(transport, asyncio.Transport):
            assert isinstance(self._manager, ConnectionServer)
            if not self._door.admit(transport, self._manager.inside):
                self._count_refusal(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else str(peer)
        if raw is not None:
            self.socket_number = raw.fileno()
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Answer what came in at once, or parse it; whatever requests are complete now have arrived now."""
        arrived = now_ns()
        if self._lane is not None and self._is_free() and self._lane.answer(self, data, arrived):
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self._park()
            return
        self._parse(data, arrived)

    def hear(self, data: bytes | None, arrived: int) -> None:
        """Take what the lane heard while this was parked, and did not answer; ``b""``: its end, None: it broke."""
        if data and self._lane is not None and self._lane.answer_first(self, data, arrived):
            return
        self._unpark()
        if data:
            self._parse(data, arrived)
        elif data is None:
            self.abort()

    def _parse(self, data: bytes, arrived: int) -> None:
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
        # then what follows the head of the last request can only be empty lines
        self._at_start = (
            len(self._messages) > before
            and self.newest_body is EMPTY_PAYLOAD
            and data.endswith(b"\r\n\r\n")
            and not self._buffer_paused
            and not self._upgraded
        )

    def _park(self) -> None:
        """Have the lane listen, if all is answered and sent."""
        if self._parking is None or self._parked or self._request_in_progress or self.transport is None:
            return
        self._parked = self._is_free() and self._parking.park(self)
        if self._parked:
            self.transport.pause_reading()

    def _unpark(self) -> None:
        """Listen again, unless the connection is lost."""
        if self._parked and self._parking is not None:
            self._parked = False
            self._next_keepalive_close_time = self._parking.unpark(self) + self._keepalive_timeout
            if self.transport is not None:
                self.transport.resume_reading()

    def _is_free(self) -> bool:
        """Tell whether nothing is being answered, waits to be, or came in part."""
        waiter = self._waiter
        return self._at_start and waiter is not None and not waiter.done() and not self._paused

    @property
    def idle_since(self) -> float | None:
        """See ``Idle``; a request whose head came in part only is none."""
        waiter = self._waiter  # done from the moment a request comes or the connection is closed
        if waiter is None or waiter.done() or self._request_in_progress or self._messages:
            return None
        if self._parked and self._parking is not None:
            return self._parking.last_use(self)
        return self._next_keepalive_close_time - self._keepalive_timeout

    @property
    def is_open(self) -> bool:
        """See ``Idle``."""
        return self.transport is not None

    def close_idle(self) -> None:
        """See ``Idle``."""
        self.force_close()

    def close(self) -> None:
        """Close when all that was asked for is answered."""
        self._unpark()
        super().close()

    def force_close(self) -> None:
        """Close at once."""
        self._unpark()
        super().force_close()

    def write_rest(self, data: bytes, written: Callable[[bool], None]) -> None:
        """Send the last of an answer that did not fit at once; nothing is read until it is with the kernel.

        ``written`` is then called, with whether all of it was taken.
        """
        assert self.transport is not None
        self._unpark()
        self._request_in_progress = True
        self._when_written = written
        self.transport.pause_reading()
        self.transport.write(data)
        if not self._paused:
            self._end_writing(not self.transport.is_closing())

    def can_send_files(self) -> bool:
        """Tell whether ``send_file`` can be used: not if no more files may be open."""
        try:
            self._own_socket()
        except OSError:
            return False
        return True

    def send_file(self, head: bytes, file: ImmediateFile, span: Span, written: Callable[[int], None]) -> None:
        """Send a head and bytes of an open file that are in memory; nothing is read until the kernel has them.

        ``written`` is then called with how many of the file's bytes the kernel took.
        """
        try:
            head_sent, sent = send_at_once(self._own_socket(), head, file, span)
        except OSError:
            written(0)
            return
        if sent == span.length:  # as it most often is
            written(sent)
            return
        rest = Span(span.start + sent, span.length - sent)
        self.send_rest_of_file(head[head_sent:], file, rest, lambda more: written(sent + more))

    def send_rest_of_file(self, head: bytes, file: ImmediateFile, span: Span, written: Callable[[int], None]) -> None:
        """Send what the kernel did not take at once. See ``send_file``."""
        assert self.transport is not None
        self._unpark()
        self._request_in_progress = True
        sending = self._send(head, file, span, lambda _: self._end_writing(True))
        self._when_written = lambda _: written(sending.sent)
        sending.go()
        if self._sending is sending:
            self.transport.pause_reading()

    async def send_window(self, file: LocalFile, span: Span, count: Callable[[int], None]) -> None:
        """Send bytes of an open file that are in memory, after all that was written so far.

        ``count`` is told how many of them the kernel took, however it ends; fewer than asked for if the
        file is shorter. Raises ``ConnectionError`` if the client went away.
        """
        await self._send_all(b"", file, span, lambda sending: count(sending.sent))

    async def send_bytes(self, data: bytes, count: Callable[[int], None]) -> None:
        """Send these bytes without a copy, after all that was written so far. See ``send_window``."""
        await self._send_all(data, None, Span(0, 0), lambda sending: count(len(data) - sending.left))

    async def _send_all(
        self, head: bytes, file: LocalFile | None, span: Span, count: Callable[[Sending], None]
    ) -> None:
        await self._drain_helper()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client went away")
        ended: asyncio.Future[OSError | None] = self._loop.create_future()
        sending = self._send(head, file, span, ended.set_result)
        self._window = ended
        try:
            sending.go()
            error = await ended
        finally:
            sending.stop()
            self._sending = self._window = None
            count(sending)
        if error is not None:
            raise ConnectionResetError("the client went away") from error

    def _send(
        self, head: bytes, file: ImmediateFile | LocalFile | None, span: Span, ended: Callable[[OSError | None], None]
    ) -> Sending:
        self._sending = Sending(self._loop, self._own_socket(), head, file, span, ended)
        return self._sending

    def _own_socket(self) -> socket.socket:
        """Return a socket of our own on the connection: one that the event loop lets anyone wait for."""
        if self._outlet is None:
            self._outlet = socket.socket(fileno=os.dup(self.socket_number))
        return self._outlet

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading; aiohttp asks for it at every piece of a body, and goes through its parser each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def resume_writing(self) -> None:
        """Go on after the kernel took everything."""
        super().resume_writing()
        if self._when_written is not None and self._sending is None:
            self._end_writing(True)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything."""
        self.transport = None  # so that nobody listens again
        self._unpark()
        if self._sending is not None:
            self._sending.stop()
        if self._window is not None and not self._window.done():
            self._window.set_result(ConnectionResetError("the connection was lost"))
        super().connection_lost(exc)
        if self._when_written is not None:
            self._end_writing(False)
        if self._outlet is not None:
            self._outlet.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._unpark()
        if self.transport is not None:
            self.transport.abort()

    def _end_writing(self, complete: bool) -> None:
        written, self._when_written, self._sending = self._when_written, None, None
        assert written is not None
        written(complete)
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self.transport is not None and not self.transport.is_closing():
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self.transport.resume_reading()

    def _process_keepalive(self) -> None:
        if self._parked and self._parking is not None:
            self._next_keepalive_close_time = self._parking.last_use(self) + self._keepalive_timeout
        elif self._when_written is not None:  # an answer is still under way
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature; aiohttp narrows it
        """Answer what is still to be answered, rather than hang up on a client that only ended its side."""
        body = self.newest_body
        is_idle = body is None or (self._waiter is not None and not self._waiter.done())
        if is_idle:
            return False
        if body is not None and not body.is_eof():
            # in this order: the end alone would wake a handler that waits, and pass for the end of the body
            # protection: fault-before-end-of-body
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
        self._count_refusal(response.status)
        return response


class ConnectionServer(web.Server):
    """Makes a ``Connection`` for each client, and hands each request its arrival time."""

    def __init__(
        self, server: web.Server, lane: FastLane | None, count_refusal: Callable[[int], None], door: Door
    ) -> None:
        """Take over from the server that ``web.AppRunner`` made."""
        super().__init__(
            server.request_handler, request_factory=server.request_factory, loop=server._loop, **server._kwargs
        )
        self._lane = lane
        self._count_refusal = count_refusal
        self._door = door
        make_request = server.request_factory

        def make_stamped_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            request = make_request(message, payload, protocol, writer, task)
            request[ARRIVED] = protocol.arrivals.popleft() if protocol.arrivals else 0
            protocol.close_after_last()
            return request

        self.request_factory = make_stamped_request

    @property
    def inside(self) -> Collection[Connection]:
        """The connections that are open."""
        return cast("list[Connection]", self.connections)

    def __call__(self) -> RequestHandler:
        return Connection(self, self._lane, self._count_refusal, self._door, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on ``Connection``."""

    def __init__(
        self,
        app: web.Application,
        lane: FastLane | None,
        count_refusal: Callable[[int], None],
        door: Door,
        **kwargs: Any,
    ) -> None:
        """``lane``: what answers ahead of the application, if anything does. ``door`` lets connections in.

        ``count_refusal`` is called with the status of each answer that never reached the application.
        """
        super().__init__(app, **kwargs)
        self._door = door
        self._lane = lane
        self._count_refusal = count_refusal

    async def _make_server(self) -> web.Server:
        return ConnectionServer(await super()._make_server(), self._lane, self._count_refusal, self._door)
