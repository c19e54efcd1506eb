"""Keeping a blob so that, whatever crashes when, it is known to the catalog or it is swept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from stat7store.backends import Backends
from stat7store.catalog.base import Catalog, Intent
from stat7store.errors import Stat7Error
from stat7store.record import Place
from stat7store.translate import blob_errors
from storage.base import Planned, Spool


class Kept(NamedTuple):
    """Where a blob was put, and whether an intent says so to the catalog."""

    place: Place
    intended: bool


class Keeper:
    """Puts blobs on the primary backend.

    One that can tell a living upload from a dead one (``Claimable``) needs no more than the spool
    staying open. For any other an intent is committed first; it becomes the entry, or is withdrawn.
    """

    def __init__(self, catalog: Catalog, backends: Backends, *, now: Callable[[], int], owner: str) -> None:
        """``now`` is the wall clock in milliseconds; ``owner`` is named in the intents."""
        self._catalog = catalog
        self._backends = backends
        self._now = now
        self._owner = owner

    @asynccontextmanager
    async def kept(self, spool: Spool, name: str) -> AsyncIterator[Kept]:
        """Put what was spooled; within the context, tell the catalog of it. The spool stays open.

        Raises ``NoSpace`` or ``Unavailable``. If anything fails, what was put is swept.
        """
        planned = self._backends.planned
        if planned is not None:
            async with self._intended(planned, spool, name) as place:
                yield Kept(place, intended=True)
            return
        with blob_errors():
            location = await self._backends.blobs.put(spool, name)
        yield Kept(Place(location, self._backends.primary), intended=False)

    @asynccontextmanager
    async def _intended(self, planned: Planned, spool: Spool, name: str) -> AsyncIterator[Place]:
        place = Place(planned.plan(name), self._backends.primary)
        # protection: intent-before-bytes
        await self._catalog.intend(Intent(place, self._now(), self._owner))  # first: a crash leaves a trace
        try:
            with blob_errors():
                await planned.put_at(spool, place.location)
            yield place
        except BaseException:
            # if the file was added for all that, there is no intent any more, and nothing is withdrawn
            with suppress(Stat7Error):
                await self._catalog.withdraw_intent(place)
            raise
