"""One worker process: an event loop that serves, until it is told to drain."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from stat7store.opening import open_store
from stat7store.room import Pledges
from stat7store.server.access import Access, LoopbackAccess, OpenAccess
from stat7store.server.app import make_app
from stat7store.server.board import Board
from stat7store.server.connection import Runner
from stat7store.server.fastlane import FastLane
from stat7store.server.housekeeping import told
from stat7store.server.limits import Door, OutOfFiles, most_connections
from stat7store.server.log import Log
from stat7store.server.log_writer import LogWriter
from stat7store.server.node import Node
from stat7store.server.request_log import REQUEST_LOG
from stat7store.server.tallies import Tallies
from stat7store.settings import Settings
from storage.linux import give_back_free_memory

BACKLOG = 1024
THREADS = 32  # they wait for disks and hashes, both of which let go of the GIL
_ROLL_EVERY_S = 5.0


@asynccontextmanager
async def serving(node: Node, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on a bound socket for the length of the context; leaving it drains what is in flight."""
    app = make_app(node)
    log = app[REQUEST_LOG]
    # elsewhere is not where the lane sends anyone
    immediate = node.store.immediate if node.settings.fast_path and not node.settings.redirect else None
    lane = FastLane(node, log, *immediate) if immediate else None
    workers = len(node.board.connections_of_all())
    door = Door(most_connections(node.settings.max_connections, workers), asyncio.get_running_loop())
    runner = Runner(
        app,
        lane,
        partial(node.board.count_request, ""),
        door,
        access_log=None,
        keepalive_timeout=node.settings.idle_timeout,
        auto_decompress=False,
        shutdown_timeout=node.settings.drain_timeout,
    )
    await runner.setup()
    rolling = asyncio.create_task(_roll(node.board))
    trimming = asyncio.create_task(_trim())
    telling = asyncio.create_task(node.tallies.keep_telling(told(partial(_counts, node, runner), node.log)))
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
        if lane is not None:
            lane.close()
        for task in (rolling, trimming, telling):
            task.cancel()
        log.flush()


def _counts(node: Node, runner: Runner) -> dict[str, int]:
    node.board.connections = 0 if runner.server is None else len(runner.server.connections)
    return node.store.counts()


async def _roll(board: Board) -> None:
    while True:
        board.roll()
        await asyncio.sleep(_ROLL_EVERY_S)


async def _trim() -> None:
    """Keep a burst of uploads from costing memory for ever."""
    while True:
        await asyncio.sleep(_ROLL_EVERY_S)
        await asyncio.to_thread(give_back_free_memory)


async def work(
    settings: Settings,
    board: Board,
    tallies: Tallies,
    listener: socket.socket,
    number: int,
    log: Log,
    writer: LogWriter,
    ready: Callable[[], None],
    pledges: Pledges,
) -> None:
    """Serve until SIGTERM, as worker ``number``."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(OutOfFiles(log))
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="worker"))
    async with open_store(settings, pledges) as store:
        node = Node(settings, store, board, access_of(settings), log, number, tallies, writer)
        async with serving(node, listener):
            # what is there now stays: without this, every full collection would walk all imported modules
            gc.collect()
            gc.freeze()
            ready()
            await stop.wait()


def access_of(settings: Settings) -> Access:
    """Choose who is admitted: this machine, or with ``--open`` everyone."""
    return (OpenAccess if settings.open else LoopbackAccess)(settings.allowed_hosts)
