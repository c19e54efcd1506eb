"""Request bodies as they stream in, with every way they can break told apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from stat7store.errors import Malformed, NotAccepted, TooLarge, TooSlow
from stat7store.server.node import NODE


def refuse_early(request: web.Request) -> None:
    """Refuse what the head alone shows cannot be stored, before any of the body is read.

    Raises ``NotAccepted`` for a content coding (bytes are stored as they are, so they must come as
    they are), ``TooLarge`` for an announced length beyond the limit.
    """
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise NotAccepted(
            f"the body comes in the content coding {coding[:40]!r}; send the file's bytes as they are",
            found=coding[:40],
            accepted=["identity"],
        )
    limit = request.app[NODE].settings.max_upload_size
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(
            f"the body has {request.content_length} bytes; this store takes {int(limit)}", max_size=int(limit)
        )


async def expect_nothing_yet(request: web.Request) -> None:
    """Leave the answer to ``Expect: 100-continue`` (RFC 9110 §10.1.1) until the body is wanted."""


async def ask_for_body(request: web.Request) -> None:
    """Tell a client that waits with its body to send it; to be called once nothing speaks against it."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


@asynccontextmanager
async def reading(request: web.Request) -> AsyncIterator[None]:
    """A context for reading the next of a body: raises ``TooSlow`` and ``Malformed`` for its faults."""
    limit = request.app[NODE].settings.body_timeout
    try:
        async with asyncio.timeout(limit):
            with _well_framed():
                yield
    except TimeoutError as error:
        raise TooSlow(f"nothing of the body came for {limit:g} seconds") from error


@contextmanager
def _well_framed() -> Iterator[None]:
    try:
        yield
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise Malformed(f"the body is malformed: {error}") from error


async def raw_body(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises ``TooSlow`` and ``Malformed``."""
    body = request.content
    while True:
        with _well_framed():
            data = body.read_nowait()
        if not data and not body.at_eof():  # only what is waited for can be late, and a timer costs more than a look
            async with reading(request):
                data = await body.readany()
        if not data:
            return
        yield data
