"""The blob backends of one store: each has a number, and new files go to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Protocol

from stat7store.errors import Unavailable
from storage.base import BlobStore, Claimable, Counted, Fronting, Planned


class Opener(Protocol):
    """Opens the backends that a store has, or gets while it runs."""

    def numbers(self) -> Collection[int]:
        """Return the numbers of all there are now. Raises ``Unavailable``."""

    async def open(self, number: int) -> BlobStore:
        """Open one; whoever made the opener closes it. Raises ``Unavailable`` if there is none."""


class Backends:
    """A store's backends by number, ``primary`` being the one for new files.

    The others are opened when something is first wanted of them, so that a backend that holds
    nothing any more need not even be there.
    """

    def __init__(self, opened: Mapping[int, BlobStore], primary: int = 0, opener: Opener | None = None) -> None:
        """``opened`` are open already, the primary one among them; without an opener they are all there are."""
        self.primary = primary
        self.blobs = opened[primary]
        self.planned = _planned(self.blobs)
        self._opened = dict(opened)
        self._opener = opener
        self._opening = asyncio.Lock()

    def numbers(self) -> list[int]:
        """Return the numbers of all backends, in order. Raises ``Unavailable``."""
        return sorted(self._opened if self._opener is None else {*self._opened, *self._opener.numbers()})

    def opened(self, number: int) -> BlobStore | None:
        """Return a backend if it is open; None if not."""
        return self._opened.get(number)

    async def of(self, number: int) -> BlobStore:
        """Return a backend, opening it if need be. Raises ``Unavailable``."""
        return self._opened.get(number) or await self._open(number)

    async def behind(self, number: int) -> BlobStore:
        """Return a backend as ``of`` does, without the cache that may stand in front of it."""
        blobs = await self.of(number)
        return blobs.behind if isinstance(blobs, Fronting) else blobs

    def counts(self) -> dict[str, int]:
        """Return what the open backends have counted, summed by name; see ``Counted``."""
        total: dict[str, int] = {}
        for blobs in self._opened.values():
            if isinstance(blobs, Counted):
                for name, count in blobs.counts().items():
                    total[name] = total.get(name, 0) + count
        return total

    async def _open(self, number: int) -> BlobStore:
        async with self._opening:
            if number not in self._opened:
                if self._opener is None:
                    raise Unavailable(f"the store has no backend {number}")
                self._opened[number] = await self._opener.open(number)
            return self._opened[number]


def _planned(blobs: BlobStore) -> Planned | None:
    """Return the backend as one that needs intents; None for one that tells living uploads by itself."""
    return blobs if isinstance(blobs, Planned) and not isinstance(blobs, Claimable) else None
