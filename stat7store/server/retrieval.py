"""GET and HEAD of a file's bytes: whole, by ranges or not at all, and timed stage by stage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from aiohttp import web

from stat7store.address import Address
from stat7store.errors import Damaged, PreconditionFailed, Stat7Error
from stat7store.record import Entry
from stat7store.server.conditions import Verdict, evaluate, range_applies
from stat7store.server.connection import ARRIVED, Connection
from stat7store.server.head import file_headers
from stat7store.server.headers import server_timing
from stat7store.server.node import NODE, REQUEST_ID, STAGE_TIMES, Node
from stat7store.server.outgoing import CLIENT_GONE, COPY_BYTES, INLINE_BYTES, WINDOW_BYTES, stage_times, unsent
from stat7store.server.paths import address_in
from stat7store.server.problems import STATUS, problem_of
from stat7store.server.ranges import Multipart, Unsatisfiable, content_range, parse_range, unsatisfied_range
from stat7store.timing import StageClock, now_ns
from stat7store.translate import blob_errors
from storage.base import LocalFile, Reader, Span

_LINK_LASTS_S = 300  # long enough to begin a download; S3 lets one that has begun go on
_SITE = "Sec-Fetch-Site"  # where a browser's request comes from (W3C Fetch Metadata)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Answer with the bytes of a file, and keep the record of where the time went."""
    node = request.app[NODE]
    clock = StageClock(request[ARRIVED])
    address = address_in(request)
    entry = await node.store.find(address, clock)
    return await Retrieval(request, node, clock, address, entry).answer()


class _Bytes(web.StreamResponse):
    """A response whose head waits for the first of its body, so that both leave in one write."""

    _send_headers_immediately = False


class Retrieval:
    """One retrieval of a file that was found."""

    def __init__(self, request: web.Request, node: Node, clock: StageClock, address: Address, entry: Entry) -> None:
        self._request = request
        self._node = node
        self._clock = clock
        self._address = address
        self._entry = entry
        self._size = entry.locator.size
        self._status = CLIENT_GONE
        self._sent = 0
        self._source: str | None = None

    async def answer(self) -> web.StreamResponse:
        """Answer the request; whatever comes of it is recorded under its request id."""
        try:
            response = await self._respond()
            self._status = response.status
            return response
        except Stat7Error as error:
            self._status = STATUS[type(error)]
            raise
        finally:
            self._clock.end()
            self._request[STAGE_TIMES] = stage_times(self._clock)
            self._node.board.record(
                clock=self._clock,
                request_id=self._request[REQUEST_ID],
                address=self._address,
                method=self._request.method,
                status=self._status,
                bytes=self._sent,
                range=self._request.headers.get("Range"),
                source=self._source,
                backend=self._node.store.backend_of(self._entry.locator),
                unsent=self._unsent(),
            )

    async def _respond(self) -> web.StreamResponse:
        asked, tag, modified = self._request.headers, str(self._address), self._entry.record.stored_at // 1000
        verdict = evaluate(asked, tag, modified)
        if verdict is Verdict.FAILED:
            raise PreconditionFailed("If-Match or If-Unmodified-Since does not hold for this file", address=tag)
        if verdict is Verdict.NOT_MODIFIED:
            response = _Bytes(status=304, headers=self._headers())
            await self._begin(response)
            await self._write_last(response)
            return response
        if (elsewhere := await self._link()) is not None:
            return await self._redirect(elsewhere)
        try:
            spans = parse_range(asked.get("Range"), self._size) if range_applies(asked, tag, modified) else None
        except Unsatisfiable as error:
            refusal = problem_of(error)
            refusal.headers["Content-Range"] = unsatisfied_range(self._size)
            return refusal
        if spans is None:
            return await self._send(_Bytes(headers=self._headers()), [(b"", Span(0, self._size))])
        if len(spans) == 1:
            response = _Bytes(status=206, headers=self._headers())
            response.headers["Content-Range"] = content_range(spans[0], self._size)
            return await self._send(response, [(b"", spans[0])])
        parts = Multipart(spans, self._size, self._entry.locator.media_type)
        response = _Bytes(status=206, headers=self._headers())
        response.headers["Content-Type"] = parts.content_type
        return await self._send(response, [*zip(parts.preambles, spans, strict=True)], parts.closing)

    async def _link(self) -> str | None:
        """Return where the client is to fetch the bytes itself; None if it gets them here."""
        request = self._request
        # our own page may load from this origin only
        if not self._node.settings.redirect or request.method != "GET" or request.headers.get(_SITE) == "same-origin":
            return None
        headers = self._headers()
        return await self._node.store.link(
            self._entry.locator,
            self._clock,
            seconds=_LINK_LASTS_S,
            media_type=headers["Content-Type"],
            disposition=headers["Content-Disposition"],
        )

    async def _redirect(self, url: str) -> web.StreamResponse:
        self._source = self._node.store.backend_of(self._entry.locator)
        response = _Bytes(status=307, headers={"Location": url, "Cache-Control": "no-store"})
        response.content_length = 0
        await self._begin(response)
        await self._write_last(response)
        return response

    async def _send(
        self, response: web.StreamResponse, segments: list[tuple[bytes, Span]], closing: bytes = b""
    ) -> web.StreamResponse:
        """Send each segment's preamble and span, then the closing."""
        response.content_length = sum(len(preamble) + span.length for preamble, span in segments) + len(closing)
        reader = await self._open(segments[0][1])
        if self._request.method == "HEAD":
            reader.close()
            await self._begin(response)
            await self._write_last(response)
        elif response.content_length <= INLINE_BYTES:
            await self._send_at_once(response, reader, segments, closing)
        else:
            await self._send_streaming(response, reader, segments, closing)
        return response

    async def _send_at_once(
        self, response: web.StreamResponse, reader: Reader, segments: list[tuple[bytes, Span]], closing: bytes
    ) -> None:
        parts = []
        for number, (preamble, span) in enumerate(segments):
            if number:
                reader = await self._open(span)
            try:
                parts += [preamble, *[data async for data in self._read(reader)]]
            finally:
                reader.close()
        await self._begin(response)
        await self._write_last(response, parts[1] if len(parts) == 2 and not parts[0] else b"".join((*parts, closing)))

    async def _send_streaming(
        self, response: web.StreamResponse, reader: Reader, segments: list[tuple[bytes, Span]], closing: bytes
    ) -> None:
        for number, (preamble, span) in enumerate(segments):
            if number:
                reader = await self._open(span)
            try:
                if isinstance(reader, LocalFile):
                    await self._send_file(response, reader, span, preamble)
                else:
                    await self._copy(response, reader, preamble)
            finally:
                reader.close()
        await self._write_last(response, closing)

    async def _send_file(self, response: web.StreamResponse, file: LocalFile, span: Span, preamble: bytes) -> None:
        """Send a span without copying it: each window is made resident (disk), then sent (network)."""
        for start in range(span.start, span.end, WINDOW_BYTES):
            length = min(WINDOW_BYTES, span.end - start)
            begun = now_ns()
            with blob_errors():
                await file.warm(start, length)
            self._clock.disk += now_ns() - begun
            self._source = file.source
            await self._begin(response)
            begun = now_ns()
            try:
                await response.write(preamble)  # even an empty one: the head goes out with it
                self._sent += len(preamble)
                preamble = b""
                await self._send_window(file, start, length)
            finally:
                self._clock.network += now_ns() - begun

    async def _send_window(self, file: LocalFile, start: int, length: int) -> None:
        connection = cast("Connection", self._request.protocol)
        before = self._sent
        await connection.send_window(file, Span(start, length), self._count)
        if self._sent < before + length:
            raise Damaged("the file ended before its recorded size")

    def _count(self, sent: int) -> None:
        self._sent += sent

    async def _copy(self, response: web.StreamResponse, reader: Reader, preamble: bytes) -> None:
        """Send what a reader gives, chunk by chunk."""
        async for data in self._read(reader, COPY_BYTES):
            await self._begin(response)
            begun = now_ns()
            try:
                await response.write(preamble)  # even an empty one: the head goes out with it
                self._sent += len(preamble)
                preamble = b""
                await cast("Connection", self._request.protocol).send_bytes(data, self._count)
            finally:
                self._clock.network += now_ns() - begun

    def _headers(self) -> dict[str, str]:
        return file_headers(self._entry, "attachment" if "download" in self._request.query else "inline")

    def _unsent(self) -> int:
        """Bytes that the kernel had accepted but not yet sent when the retrieval ended."""
        transport = self._request.transport
        raw = transport.get_extra_info("socket") if transport is not None else None
        return unsent(raw.fileno()) if raw else 0

    async def _open(self, span: Span) -> Reader:
        return await self._node.store.open(self._address, self._entry.locator, span, self._clock)

    async def _read(self, reader: Reader, limit: int = INLINE_BYTES) -> AsyncIterator[bytes]:
        while True:
            begun = now_ns()
            try:
                with blob_errors():
                    data = await reader.read(limit)
            finally:
                self._clock.disk += now_ns() - begun
            self._source = reader.source
            if not data:
                return
            yield data

    async def _begin(self, response: web.StreamResponse) -> None:
        """Put the head together, once the first byte of the body is ready; it is sent with that."""
        if not response.prepared:
            self._clock.first_byte()
            response.headers["Server-Timing"] = server_timing(self._clock, self._source)
            await response.prepare(self._request)

    async def _write_last(self, response: web.StreamResponse, data: bytes = b"") -> None:
        begun = now_ns()
        try:
            await response.write_eof(data)
            self._sent += len(data)
        finally:
            self._clock.network += now_ns() - begun
