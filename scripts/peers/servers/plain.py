"""An aiohttp server of two routes around a library: GET an address, POST a body. As many processes as it is told."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

Find = Callable[[str], Path | bytes | None]
Keep = Callable[[bytes], str]


def serve(find: Find, keep: Keep, port: int, workers: int) -> None:
    """Serve at this port of 127.0.0.1 until the process is told to end."""
    context = multiprocessing.get_context("fork")
    for _ in range(workers - 1):
        context.Process(target=_work, args=(find, keep, port), daemon=True).start()
    _work(find, keep, port)


def _work(find: Find, keep: Keep, port: int) -> None:
    async def get(request: web.Request) -> web.StreamResponse:
        found = find(request.match_info["address"])
        if found is None:
            raise web.HTTPNotFound
        return web.FileResponse(found) if isinstance(found, Path) else web.Response(body=found)

    async def post(request: web.Request) -> web.Response:
        data = await request.read()
        return web.Response(text=await asyncio.to_thread(keep, data), status=201)

    application = web.Application(client_max_size=1024**3)
    application.add_routes([web.get("/{address}", get), web.post("/", post)])
    web.run_app(application, host="127.0.0.1", port=port, reuse_port=True, access_log=None, print=None)
