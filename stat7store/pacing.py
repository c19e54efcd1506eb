"""Bytes read at no more than a rate, and work in threads that is never left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress


class Pace:
    """Spreads reading out so that it takes no more than so many bytes a second, over all jobs."""

    def __init__(self, bytes_per_s: float) -> None:
        """``bytes_per_s`` may be infinite."""
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def spend(self, size: int) -> None:
        """Wait until so many bytes more may be read."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self._bytes_per_s
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


async def to_the_end(work: Callable[[bytes], None], data: bytes) -> None:
    """Do it in a thread; who is cancelled waits for the thread, which uses what he would close."""
    # no task, which a loop that ends would cancel while the thread still works
    working = asyncio.get_running_loop().run_in_executor(None, work, data)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):  # cancelled again: it still has to wait
                await asyncio.wait([working])
        raise
