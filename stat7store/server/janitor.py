"""The janitor process: deletes garbage, finds orphans, and keeps the catalog tidy."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from stat7store.errors import Stat7Error
from stat7store.opening import open_store
from stat7store.server.housekeeping import told
from stat7store.server.log import Log
from stat7store.server.scrub import LOOK_EVERY_S, scrubbing
from stat7store.server.tallies import Tallies
from stat7store.settings import Settings
from stat7store.store import Store
from storage.base import BlobError

_GARBAGE_EVERY_S = 1.0
_MAINTAIN_EVERY_S = 30.0


async def tidy(settings: Settings, tallies: Tallies, log: Log, ready: Callable[[], None]) -> None:
    """Tidy until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_store(settings) as store:
        ready()
        counts: Counter[str] = Counter()
        telling = asyncio.create_task(tallies.keep_telling(told(lambda: {**store.counts(), **counts}, log)))
        async with asyncio.TaskGroup() as tasks:
            for chore, every in _chores(store, settings, log, counts):
                tasks.create_task(_repeat(chore, every, stop, log, counts))
        telling.cancel()
        await asyncio.wait([telling])


def _chores(
    store: Store, settings: Settings, log: Log, counts: Counter[str]
) -> list[tuple[Callable[[], Awaitable[object]], float]]:
    chores: list[tuple[Callable[[], Awaitable[object]], float]] = [
        (store.maintain, _MAINTAIN_EVERY_S),
        (store.sweep_garbage, _GARBAGE_EVERY_S),
        (store.sweep_orphans, settings.sweep_every),
    ]
    if settings.scrub_every:
        scrub = scrubbing(store, settings.data, settings.scrub_every, settings.scrub_rate, log, counts)
        chores.append((scrub, LOOK_EVERY_S))
    return chores


async def _repeat(
    chore: Callable[[], Awaitable[object]], every: float, stop: asyncio.Event, log: Log, counts: Counter[str]
) -> None:
    """Do a chore now and then; what fails is counted, logged, and tried again."""
    stopped = asyncio.create_task(stop.wait())
    told = ""
    while not stop.is_set():
        doing = asyncio.ensure_future(chore())
        await asyncio.wait([doing, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()  # every chore may stop at any point and be done again
            await asyncio.wait([doing])
        elif error := doing.exception():
            if not isinstance(error, Exception):
                raise error
            counts["chore_failures"] += 1
            if str(error) != told:  # it may go on failing for hours, a second at a time
                trace = None if isinstance(error, Stat7Error | BlobError | OSError) else error
                log.error("a chore failed; it is tried again", chore=chore.__name__, reason=str(error), exc_info=trace)
            told = str(error)
        else:
            told = ""
        await asyncio.wait([stopped], timeout=every)
