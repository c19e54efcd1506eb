"""What the server tells of itself: timings, statistics, health."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from stat7store.errors import Malformed, NotFound, Unavailable
from stat7store.server.answers import json_response
from stat7store.server.housekeeping import DEED_NAMES
from stat7store.server.node import NODE

MAX_TIMINGS = 10_000
_READY_TIMEOUT_S = 5.0
# A retrieval is recorded right after its last byte, and a client with that byte may be quicker.
_PATIENCE_S = (0.002, 0.01, 0.05, 0.1)


class TimingsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query parameters of ``GET /v1/timings``."""

    limit: Annotated[int, Meta(ge=1, le=MAX_TIMINGS)] = 100
    slowest: bool = False


async def recent_timings(request: web.Request) -> web.Response:
    """Return whole records of recent retrievals, newest or slowest first, of all workers."""
    try:
        asked = msgspec.convert(dict(request.query), TimingsQuery, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(
            f"a parameter is not what is accepted: {str(error).replace('$.', '')}", expected=["limit", "slowest"]
        ) from error
    board = request.app[NODE].board
    # many take up to 60 ms, which no other request should wait for
    return json_response({"timings": await asyncio.to_thread(board.recent, asked.limit, slowest=asked.slowest)})


async def one_timing(request: web.Request) -> web.Response:
    """Return the whole record of one retrieval, by its request id."""
    request_id = request.match_info["request_id"]
    for pause in (*_PATIENCE_S, None):
        timing = request.app[NODE].board.find(request_id)
        if timing is not None:
            return json_response(timing)
        if pause is not None:
            await asyncio.sleep(pause)
    raise NotFound(
        f"no retrieval with the request id {request_id[:128]!r} among the last {MAX_TIMINGS}; "
        "only GET and HEAD of files that exist are timed"
    )


async def stats(request: web.Request) -> web.Response:
    """Return totals, and where the time goes: since start and over the last minute."""
    node = request.app[NODE]
    counters = await node.store.counters()
    summary = node.board.summary()
    node.tallies.tell(node.store.counts())  # the others' are at most a second old
    counted = node.tallies.total()
    return json_response(
        {
            "files": counters.files,
            "bytes": counters.bytes,
            "by_realm": {realm: {"files": files, "bytes": size} for realm, (files, size) in counters.by_realm.items()},
            "garbage": counters.garbage,
            "damaged": counters.damaged,
            "backend": node.store.backend,
            "workers": summary["workers"],
            "counters": summary["counters"],
            "backend_counters": {name: count for name, count in counted.items() if name not in DEED_NAMES},
            "housekeeping": {name: counted.get(name, 0) for name in sorted(DEED_NAMES)},
            "uptime_s": summary["since_start"].seconds,
            "stages": {period: summary[period].stages for period in ("since_start", "last_minute")},
        }
    )


async def healthz(request: web.Request) -> web.Response:
    """Alive: the worker answers."""
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Able to serve: catalog and blobs answer."""
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await request.app[NODE].store.check()
    except TimeoutError as error:
        raise Unavailable(f"catalog or blobs did not answer within {_READY_TIMEOUT_S:g} seconds") from error
    return json_response({"status": "ready"})
