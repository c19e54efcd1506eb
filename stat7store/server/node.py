"""What every handler of one worker shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from stat7store.server.access import Access
from stat7store.server.board import Board
from stat7store.server.log import Log
from stat7store.server.log_writer import LogWriter
from stat7store.server.tallies import Tallies, TalliesMemory
from stat7store.settings import Settings
from stat7store.store import Store


@dataclass(frozen=True, slots=True)
class Node:
    """One worker's view of its node. ``worker`` is its number, from 1."""

    settings: Settings
    store: Store
    board: Board
    access: Access
    log: Log
    worker: int = 1
    tallies: Tallies = field(default_factory=lambda: Tallies(TalliesMemory(["server"]), 0))
    log_writer: LogWriter = field(default_factory=LogWriter)


NODE = web.AppKey("node", Node)
REQUEST_ID = web.RequestKey("request_id", str)
STAGE_TIMES = web.RequestKey("stage_times", dict[str, float])  # for the log line, under the stages' own names
