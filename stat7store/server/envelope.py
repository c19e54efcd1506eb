"""What surrounds every request: its id, access, errors as problem documents, one log line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from stat7store.errors import Damaged, Stat7Error, TooSlow
from stat7store.server.connection import ARRIVED
from stat7store.server.headers import request_id
from stat7store.server.node import NODE, REQUEST_ID, STAGE_TIMES, Node
from stat7store.server.outgoing import CLIENT_GONE
from stat7store.server.problems import problem_of, problem_of_bug, problem_of_http
from stat7store.server.request_log import REQUEST_LOG
from stat7store.timing import now_ns

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every request, whatever comes of it, and log it."""
    node = request.app[NODE]
    begun = request[ARRIVED] or now_ns()
    request[REQUEST_ID] = request_id(request.headers.get("X-Request-ID"))
    try:
        response = await _answer(node, request, handler)
    except ConnectionError:
        _log(request, CLIENT_GONE, begun)
        raise
    _log(request, response.status, begun)
    return response


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put the headers that every answer carries on it, before its head is sent."""
    response.headers["X-Request-ID"] = request[REQUEST_ID]
    response.headers["Server"] = "STAT7 Store"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


async def _answer(node: Node, request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        node.access.admit(request.method, request.headers)
        return await handler(request)
    except Stat7Error as error:
        response = problem_of(error)
        if isinstance(error, TooSlow):
            response.force_close()
            request.content.feed_eof()  # or the connection would wait for the rest of the body
        if isinstance(error, Damaged):
            node.board.count("damaged")
        if response.status >= 500:
            node.log.error(str(error), request_id=request[REQUEST_ID], path=request.path, exc_info=error)
    except web.HTTPException as error:
        response = problem_of_http(error)
    except ConnectionError:
        raise
    except Exception as error:
        node.log.exception("unexpected error", request_id=request[REQUEST_ID], path=request.path, exc_info=error)
        response = problem_of_bug()
    if response.status >= 500:
        node.board.count("errors")
    if request.writer.output_size:  # the head is out: only a broken connection can still tell of the error
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")
    return response


def _log(request: web.Request, status: int, begun: int) -> None:
    request.app[NODE].board.count_request(request.method, status)
    request.app[REQUEST_LOG].add(
        method=request.method,
        path=request.path,
        status=status,
        ms=(now_ns() - begun) / 1e6,
        request_id=request[REQUEST_ID],
        client=request.remote,
        stages=request.get(STAGE_TIMES, {}),
    )
