"""A backend in memory that, as a remote one, cannot tell a living upload from a dead one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from storage.base import BlobMissing, BlobUnavailable, Location, Reader, Span, Spool
from storage.memory import MemoryReader, MemorySpool


class PlannedBlobs:
    """A ``BlobStore``, ``Planned``, ``Unfinished`` and ``Counted``. Down while ``down`` is set."""

    kind = "planned"

    def __init__(self) -> None:
        self.blobs: dict[Location, bytes] = {}
        self.down = False
        self.unfinished = 0
        self.puts = 0

    async def spool(self) -> Spool:
        return MemorySpool()

    def plan(self, name: str) -> Location:
        return Location(name, secrets.token_bytes(8))

    async def put_at(self, spool: Spool, location: Location) -> None:
        self._refuse_if_down()
        assert isinstance(spool, MemorySpool)
        self.blobs[location] = spool.hand_over()
        self.puts += 1

    async def put(self, spool: Spool, name: str) -> Location:
        location = self.plan(name)
        await self.put_at(spool, location)
        return location

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        data = self._found(location)
        return MemoryReader(data, span or Span(0, len(data)))

    async def stat(self, location: Location) -> int:
        return len(self._found(location))

    async def delete(self, location: Location) -> None:
        self._refuse_if_down()
        self.blobs.pop(location, None)

    async def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        self._refuse_if_down()
        for location in sorted(self.blobs):
            if after is None or location > after:
                yield location

    async def abort_unfinished(self, older_than_s: float) -> int:
        dropped, self.unfinished = self.unfinished, 0
        return dropped

    def counts(self) -> dict[str, int]:
        return {"planned_puts": self.puts}

    async def check(self) -> None:
        self._refuse_if_down()

    async def close(self) -> None:
        self.down = True

    def _found(self, location: Location) -> bytes:
        self._refuse_if_down()
        if location not in self.blobs:
            raise BlobMissing(location)
        return self.blobs[location]

    def _refuse_if_down(self) -> None:
        if self.down:
            raise BlobUnavailable("the backend is down")
