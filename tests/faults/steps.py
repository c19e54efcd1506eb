"""A small program that does all that changes a store, one step after the other, to be broken at any system call."""

from __future__ import annotations

import asyncio
import ctypes
import io
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from stat7store.address import Address
from stat7store.catalog.base import Query
from stat7store.errors import Stat7Error
from stat7store.media.sniff import sniff
from stat7store.opening import open_store
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.translate import blob_errors
from tests.media import distinct_jpeg, sample

_SET_PTRACER = 0x59616D61  # PR_SET_PTRACER; with -1 any process of the same user may trace this one

KEPT, DOOMED, CUT, GARBAGE, ORPHAN, SMALL, LARGE, LAST = (
    "kept",  # there from the start
    "doomed",  # there from the start, and deleted
    "cut",  # there from the start, but its blob is cut off; an upload heals it
    "garbage",  # deleted before the start, and not yet swept
    "orphan",  # put before the start, and never committed
    "small",  # uploaded: goes in memory
    "large",  # uploaded: goes by a spool
    "last",  # uploaded at the end
)
UPLOADS = (SMALL, LARGE, CUT, LAST)
ROLES = (KEPT, DOOMED, CUT, GARBAGE, ORPHAN, SMALL, LARGE, LAST)


class Said(NamedTuple):
    """What the program said of a step: the name of its error's class, or ``""`` if it was done."""

    step: str
    failure: str


@cache
def photo(role: str) -> bytes:
    """Return the bytes of a file."""
    if role == LARGE:
        return distinct_jpeg(sample("rocket.jpg").read_bytes(), ROLES.index(role))
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "jpeg")
    return distinct_jpeg(picture.getvalue(), ROLES.index(role))


def address_of(role: str) -> Address:
    """Return the address of a file."""
    return Address.of(photo(role))


async def upload(store: Store, role: str) -> None:
    """Store a file."""
    async with store.upload(f"{role}.jpg") as taking:
        await taking.write(photo(role))
        await taking.commit()


async def fetch(store: Store, role: str) -> bytes:
    """Return all bytes of a file."""
    clock, address = StageClock(), address_of(role)
    entry = await store.find(address, clock)
    reader = await store.open(address, entry.locator, None, clock)
    try:
        pieces = []
        with blob_errors():
            while piece := await reader.read(1 << 20):
                pieces.append(piece)
        return b"".join(pieces)
    finally:
        reader.close()


def run(connection: Connection, data: Path) -> None:
    """Open the store, name the threads, wait to be told, then do every step and say of each how it went."""
    ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    asyncio.run(_run(connection, data))


async def _run(connection: Connection, data: Path) -> None:
    # one thread, not as many as there happen to be turns for: so each run has the same threads, by name
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="asyncio"))
    async with open_store(Settings(data=data)) as store:
        await _start_threads(store)
        connection.send({thread.name: thread.native_id for thread in threading.enumerate()})
        connection.recv()
        steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            (SMALL, lambda: upload(store, SMALL)),
            (LARGE, lambda: upload(store, LARGE)),
            (CUT, lambda: upload(store, CUT)),
            ("read", lambda: _read(store)),
            (DOOMED, lambda: store.delete(address_of(DOOMED))),
            ("sweep", store.sweep_garbage),
            ("sweep orphans", store.sweep_orphans),
            ("sweep again", store.sweep_garbage),
            (LAST, lambda: upload(store, LAST)),
        ]
        for step, work in steps:
            try:
                await work()
            except Stat7Error as error:
                connection.send(Said(step, type(error).__name__))
            else:
                connection.send(Said(step, ""))


async def _start_threads(store: Store) -> None:
    """Start what would start later, so that it can be traced from the first step on; read what the steps read."""
    for role in ROLES:
        sniff(photo(role))
    await asyncio.to_thread(int)
    await store.check()
    await store.query(Query(), 1)
    await asyncio.sleep(0.01)  # they say that they are free only after they are


async def _read(store: Store) -> None:
    assert await fetch(store, KEPT) == photo(KEPT)
