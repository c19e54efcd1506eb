"""The bytes of one retrieval on their way in: timed, resumed where they break off, verified."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from stat7store.address import Address, Hasher
from stat7store.client.connection import BROKEN, Connection, Legs
from stat7store.client.ranges import ByteRange, span_of
from stat7store.errors import DigestMismatch, Unavailable
from stat7store.timing import now_ns
from storage.base import Span

MOST_BREAKS = 5
FIRST_PAUSE_S = 0.1  # before going on after a break; doubled each time


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One retrieval as the client saw it.

    ``connect_ms`` is the time a new connection took, 0 where a kept one served; ``first_byte_ms``
    is from the request until the head of its answer was here, ``total_ms`` until the last byte
    was. ``breaks`` counts how often the body broke off and was resumed. The server's own record of
    it is found under ``request_id`` (see ``Client.timing``).
    """

    address: Address
    request_id: str
    span: Span
    connect_ms: float
    first_byte_ms: float
    total_ms: float
    breaks: int


class Body:
    """The bytes of a file, or of a range of it, as they arrive: ``async for data in body``.

    ``size`` is that of the whole file in bytes, ``span`` what of it comes; ``media_type`` and
    ``disposition`` are the headers of those names. To be iterated once, to the end.
    """

    def __init__(self, connection: Connection, address: Address, asked: ByteRange | None) -> None:
        """Made by ``Client.open``."""
        self.address = address
        self.size = 0
        self.span = Span(0, 0)
        self.media_type = ""
        self.disposition = ""
        self.retrieval: Retrieval | None = None
        self._connection = connection
        self._asked = asked
        self._legs = Legs()
        self._request_id = secrets.token_hex(16)
        self._first_byte = 0
        self._breaks = 0
        self._response: aiohttp.ClientResponse | None = None
        self._exchange = AsyncExitStack()

    async def begin(self) -> None:
        """Ask for the bytes, and read the head of the answer."""
        response = await self._ask({"Range": self._asked.header} if self._asked else {}, self._request_id, self._legs)
        self._first_byte = now_ns()
        self.media_type = response.headers.get("Content-Type", "")
        self.disposition = response.headers.get("Content-Disposition", "")
        self.span, self.size = self._held(response)

    async def close(self) -> None:
        """Let go of the connection; one whose bytes were not all read is closed."""
        await self._exchange.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes in order, in pieces of up to some MiB.

        A body that breaks off is resumed where it broke, up to ``MOST_BREAKS`` times. Raises
        ``Unavailable`` if it breaks again, and at the end of a whole body ``DigestMismatch`` if the
        bytes are not those of the address.
        """
        hasher = Hasher() if self._asked is None else None
        position = self.span.start
        while position < self.span.end:
            try:
                response = self._response or await self._resume(position)
                async for data in response.content.iter_any():
                    if hasher is not None:
                        hasher.update(data)
                    position += len(data)
                    yield data
                if position < self.span.end:
                    raise aiohttp.ClientPayloadError("the body ended early")
            except (*BROKEN, Unavailable) as error:
                await self._pause(position, error)
        ended = now_ns()
        await self.close()
        # protection: client-compares-address
        if hasher is not None and (actual := hasher.address()) != self.address:
            raise DigestMismatch(
                "the bytes that came are not those of the address", expected=str(self.address), actual=str(actual)
            )
        self.retrieval = Retrieval(
            address=self.address,
            request_id=self._request_id,
            span=self.span,
            connect_ms=self._legs.connect / 1e6,
            first_byte_ms=(self._first_byte - self._legs.started) / 1e6,
            total_ms=(ended - self._legs.started) / 1e6,
            breaks=self._breaks,
        )

    async def _ask(self, headers: dict[str, str], request_id: str, legs: Legs) -> aiohttp.ClientResponse:
        self._response = await self._exchange.enter_async_context(
            self._connection.request(
                "GET", f"/v1/files/{self.address}", headers={**headers, "X-Request-ID": request_id}, legs=legs
            )
        )
        return self._response

    async def _pause(self, position: int, error: Exception) -> None:
        await self.close()
        self._response = None
        self._breaks += 1
        if self._breaks > MOST_BREAKS:
            raise Unavailable(
                f"the connection broke {self._breaks} times, the last time after {position - self.span.start} "
                f"of {self.span.length} bytes: {error}"
            ) from error
        await asyncio.sleep(FIRST_PAUSE_S * 2 ** (self._breaks - 1))

    async def _resume(self, position: int) -> aiohttp.ClientResponse:
        rest = ByteRange(position, self.span.end - 1)
        response = await self._ask({"Range": rest.header}, secrets.token_hex(16), Legs())
        if self._held(response) != (Span(position, self.span.end - position), self.size):
            raise Unavailable("the server did not go on where the body broke off")
        return response

    def _held(self, response: aiohttp.ClientResponse) -> tuple[Span, int]:
        """Return which span of the file an answer holds, and the size of the whole."""
        if response.status == 206:
            held = span_of(response.headers.get("Content-Range", ""))
        else:
            size = response.content_length
            held = None if size is None or self._asked else (Span(0, size), size)
        if held is None:
            raise Unavailable("the server's answer does not say which bytes it holds, or they are not those asked for")
        return held
