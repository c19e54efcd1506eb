"""Threads for what the cache does on its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")

_THREADS = 16


class CacheThreads:
    """A pool of threads whose work is always waited for, so that no file is closed under it."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blob-cache")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns in a thread. A caller that is cancelled leaves when it is done."""
        running = asyncio.wrap_future(self.pool.submit(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with suppress(asyncio.CancelledError):  # cancelled again: it still has to wait
                    await asyncio.wait([running])
            if not running.cancelled():
                running.exception()
            raise

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.to_thread(self.pool.shutdown)
