"""JSON in and out of the API, one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from stat7store.errors import Malformed, TooLarge

MAX_JSON_BYTES = 1024 * 1024
T = TypeVar("T")


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON answer, never kept by a cache: what it tells may change at any time."""
    head = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=msgspec.json.encode(value), headers=head)


async def json_body(request: web.Request, kind: type[T]) -> T:
    """Read a JSON body of the given type, of at most ``MAX_JSON_BYTES``.

    Raises ``Malformed`` naming what is wrong with it, ``TooLarge``.
    """
    if request.content_length is not None and request.content_length > MAX_JSON_BYTES:
        raise TooLarge(f"the JSON body is larger than {MAX_JSON_BYTES} bytes", max_size=MAX_JSON_BYTES)
    body = b""
    async for data in request.content.iter_any():
        body += data
        if len(body) > MAX_JSON_BYTES:
            raise TooLarge(f"the JSON body is larger than {MAX_JSON_BYTES} bytes", max_size=MAX_JSON_BYTES)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"the JSON body is not what this call takes: {error}") from error
