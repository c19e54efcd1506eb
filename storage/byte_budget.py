"""A bound on the bytes held in memory by many tasks at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """So many bytes may be held at once. One event loop; those that wait are served in their order."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, wanted: int) -> AsyncIterator[None]:
        """Hold so many bytes for the length of the context. What is more than all of them counts as all."""
        wanted = min(wanted, self._total)
        if self._waiting or wanted > self._free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.release(wanted)
                self._serve()
                raise
        else:
            self._free -= wanted
        try:
            yield
        finally:
            self.release(wanted)

    def try_hold(self, wanted: int) -> bool:
        """Hold so many bytes, to be released, if that is possible without waiting."""
        if self._waiting or wanted > self._free:
            return False
        self._free -= wanted
        return True

    def release(self, held: int) -> None:
        """Give back what was held."""
        self._free += held
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.done():  # else its caller gave up
                self._free -= wanted
                turn.set_result(None)
