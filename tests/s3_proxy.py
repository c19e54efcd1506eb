"""A proxy before an S3 server that checks like S3, counts, and fails in all the ways that S3 and networks do."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.s3_checks import Parts, Refused, check_body

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Fault(Enum):
    """What can go wrong with one request."""

    INTERNAL_ERROR = "500 InternalError, not applied"
    SLOW_DOWN = "503 SlowDown, not applied"
    SLOW = "answered after a while"
    RESET_BEFORE = "the connection is reset, not applied"
    RESET_AFTER = "the connection is reset, applied"
    TRUNCATED = "the body of the answer ends halfway"
    ALTERED_ANSWER = "a byte of the answer's body is wrong"
    ALTERED_REQUEST = "a byte of the request's body is wrong"
    STALLED = "applied, and answered never, or only half"


class Asked(NamedTuple):
    """A request that came, with a body of ``sent`` bytes.

    ``key`` is empty for one on the bucket, ``range`` where none was asked for.
    """

    method: str
    key: str
    query: Mapping[str, str]
    range: str
    sent: int

    @property
    def is_get(self) -> bool:
        """Whether it wants bytes of an object."""
        return self.method == "GET" and bool(self.key)


Faults = Callable[[Asked], Fault | None]


def can_meet(asked: Asked, fault: Fault) -> bool:
    """Tell whether there is anything in a request or its answer that the fault could change."""
    if fault in (Fault.TRUNCATED, Fault.ALTERED_ANSWER):
        return asked.method == "GET"
    return fault is not Fault.ALTERED_REQUEST or asked.sent > 0


def calm(_: Asked) -> None:
    """Let everything go well."""


class Deck:
    """Faults by their share: ``rates`` gives each its share of all requests, ``seed`` makes their order repeatable.

    ``may`` refuses a fault for a request where it would prove nothing; it then meets the next one it may.
    """

    _CARDS = 100

    def __init__(
        self, seed: int, rates: Mapping[Fault, float], may: Callable[[Asked, Fault], bool] = lambda *_: True
    ) -> None:
        self._random = random.Random(seed)
        faults = [fault for fault, rate in rates.items() for _ in range(round(rate * self._CARDS))]
        self._all: list[Fault | None] = [*faults, *[None] * (self._CARDS - len(faults))]
        self._left: list[Fault | None] = []
        self._waiting: list[Fault] = []
        self._may = may

    def __call__(self, asked: Asked) -> Fault | None:
        if not self._left:
            self._left = self._random.sample(self._all, len(self._all))
        drawn = self._left.pop()
        if drawn is not None:
            self._waiting.append(drawn)
        for fault in self._waiting:
            if can_meet(asked, fault) and self._may(asked, fault):
                self._waiting.remove(fault)
                return fault
        return None


class Script:
    """Faults in a given order, for the requests that ``concerned`` tells; all goes well after the last."""

    def __init__(self, faults: Iterable[Fault | None], concerned: Callable[[Asked], bool] = lambda _: True) -> None:
        self._faults = list(faults)
        self._concerned = concerned

    def __call__(self, asked: Asked) -> Fault | None:
        return self._faults.pop(0) if self._faults and self._concerned(asked) else None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: CIMultiDict[str]
    body: bytes


class S3Proxy:
    """The proxy. ``faults`` may be exchanged at any time; ``asked`` and ``given`` tell what happened."""

    def __init__(self, endpoint: str, faults: Faults = calm, slow_s: float = 0.2) -> None:
        self.endpoint = ""
        """Where it serves."""
        self.faults = faults
        self.slow_s = slow_s
        """Seconds that a slow answer takes."""
        self.asked: list[Asked] = []
        self.given: Counter[Fault] = Counter()
        """Faults that happened."""
        self.refused: Counter[str] = Counter()
        """Requests that failed a check, by the code they were answered with."""
        self._target = endpoint
        self._parts = Parts()
        self._until = asyncio.Event()
        self._session: aiohttp.ClientSession

    def count(self, concerned: Callable[[Asked], bool]) -> int:
        """Return how many such requests came."""
        return sum(map(concerned, self.asked))

    async def serve(self, listener: socket.socket) -> None:
        """Answer requests until ``stop``."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            runner = web.ServerRunner(
                web.Server(self._handle, access_log=None), handler_cancellation=True, shutdown_timeout=0.1
            )
            await runner.setup()
            await web.SockSite(runner, listener).start()
            await self._until.wait()
            await runner.cleanup()

    def stop(self) -> None:
        """End ``serve``; in its thread."""
        self._until.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._pass(request)
        except ConnectionError:  # the client has gone
            return _reset(request)

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        _, _, key = request.path.removeprefix("/").partition("/")
        body = await request.content.read()
        asked = Asked(request.method, key, dict(request.query), request.headers.get("Range", ""), len(body))
        self.asked.append(asked)
        fault = self.faults(asked)
        if fault is not None:
            self.given[fault] += 1
        if fault is Fault.INTERNAL_ERROR:
            return _problem(500, "InternalError")
        if fault is Fault.SLOW_DOWN:
            return _problem(503, "SlowDown")
        if fault is Fault.RESET_BEFORE:
            return _reset(request)
        if fault is Fault.ALTERED_REQUEST:
            body = _altered(body)
        try:
            self._check(asked, request, body)
        except Refused as refused:
            self.refused[refused.code] += 1
            return _problem(400, refused.code)
        answer = await self._forward(request, body)
        return await self._answer(request, answer, fault)

    def _check(self, asked: Asked, request: web.BaseRequest, body: bytes) -> None:
        count = check_body({name.lower(): value for name, value in request.headers.items()}, body)
        if body and not count:
            raise Refused("InvalidRequest", "a body without any checksum")
        upload, number = asked.query.get("uploadId"), asked.query.get("partNumber")
        if upload and number:
            self._parts.keep(upload, number, request.headers.get("x-amz-checksum-sha256"))
        elif upload and asked.method == "POST":
            self._parts.check(upload, body)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> _Answer:
        headers = CIMultiDict((n, v) for n, v in request.headers.items() if n.lower() not in _HOP_BY_HOP)
        async with self._session.request(
            request.method,
            URL(f"{self._target}{request.raw_path}", encoded=True),
            data=io.BytesIO(body) if body else None,
            headers=headers,
            allow_redirects=False,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            kept = CIMultiDict((n, v) for n, v in answer.headers.items() if n.lower() not in _HOP_BY_HOP)
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            kept["Date"] = answer.headers.get("Date", "")
            return _Answer(answer.status, kept, await answer.read())

    async def _answer(self, request: web.BaseRequest, answer: _Answer, fault: Fault | None) -> web.StreamResponse:
        body = answer.body
        if fault is Fault.SLOW:
            await asyncio.sleep(self.slow_s)
        if fault is Fault.RESET_AFTER:
            return _reset(request)
        if fault is Fault.STALLED and not body:
            await self._until.wait()
            return _reset(request)
        if fault is Fault.ALTERED_ANSWER and body:
            body = _altered(body)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if request.method != "HEAD":
            response.content_length = len(body)
        await response.prepare(request)
        if fault in (Fault.TRUNCATED, Fault.STALLED) and body:
            await response.write(body[: len(body) // 2])
            if fault is Fault.STALLED:
                await self._until.wait()
            assert request.transport is not None
            request.transport.close()
            return response
        if body:
            await response.write(body)
        await response.write_eof()
        return response


@contextmanager
def s3_proxy(endpoint: str, faults: Faults = calm, slow_s: float = 0.2) -> Iterator[S3Proxy]:
    """Run a proxy before the server at ``endpoint``, in a thread of its own."""
    proxy = S3Proxy(endpoint, faults, slow_s)
    loop = asyncio.new_event_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        proxy.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(listener),), name="s3-proxy")
        thread.start()
        try:
            yield proxy
        finally:
            loop.call_soon_threadsafe(proxy.stop)
            thread.join()
            loop.close()


def _altered(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _problem(status: int, code: str) -> web.Response:
    document = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return web.Response(status=status, text=document, content_type="application/xml")


def _reset(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        raw = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
