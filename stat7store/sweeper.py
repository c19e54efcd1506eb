"""The sweeper: deletes what the catalog calls garbage, and finds what crashes left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from stat7store.address import Address
from stat7store.backends import Backends
from stat7store.catalog.base import Catalog
from stat7store.errors import Damaged, NotFound, Stat7Error
from stat7store.record import Place
from stat7store.translate import blob_errors
from storage.base import BlobStore, Claimable, Planned, Unfinished

_BATCH = 256


class Sweeper:
    """Sweeps of one kind go one at a time. Everything is idempotent: it may stop at any point and be done again."""

    def __init__(self, catalog: Catalog, backends: Backends) -> None:
        self._catalog = catalog
        self._backends = backends
        self._counts = dict.fromkeys(("garbage_deleted", "intents_expired", "orphans_found", "uploads_expired"), 0)

    def counts(self) -> dict[str, int]:
        """Return what was swept so far.

        ``garbage_deleted``: blobs of the garbage queue; ``intents_expired``: intents of dead uploads;
        ``orphans_found``: blobs that nothing pointed at; ``uploads_expired``: what else dead uploads left.
        """
        return dict(self._counts)

    async def sweep_garbage(self) -> int:
        """Delete the blobs of the garbage queue; see ``Store.sweep_garbage``."""
        swept = 0
        failures: dict[int, Stat7Error] = {}
        while places := await self._catalog.garbage(_BATCH, failures.keys()):
            results = await asyncio.gather(*map(self._delete, places), return_exceptions=True)
            gone: list[Place] = []
            for place, error in zip(places, results, strict=True):
                if error is None:
                    gone.append(place)
                elif isinstance(error, Stat7Error):
                    # protection: garbage-queued-until-gone
                    failures.setdefault(place.backend, error)
                else:
                    raise error
            await self._catalog.forget_garbage(gone)
            swept += len(gone)
            self._counts["garbage_deleted"] += len(gone)
        if failures:
            raise next(iter(failures.values()))
        return swept

    async def sweep_intents(self, before: int) -> int:
        """Withdraw the intents from before a moment (milliseconds since 1970); return how many.

        A wrong clock harms nothing: an upload that lives after all finds its intent gone, is told
        ``Unavailable``, and nothing of it was acknowledged.
        """
        stale = await self._catalog.intents(before)
        expired = sum(await asyncio.gather(*(self._catalog.withdraw_intent(intent.place) for intent in stale)))
        self._counts["intents_expired"] += expired
        return expired

    async def sweep_orphans(self, older_than_s: float) -> int:
        """Queue the orphans on all backends; return how many. The first failure is raised at the end.

        Uploads that a backend never finished are dropped if they are older than that many seconds.
        """
        swept = 0
        failures: list[Stat7Error] = []
        for number in self._backends.numbers():
            try:
                blobs = await self._backends.of(number)
                with blob_errors():
                    swept += await self._sweep(blobs, number, older_than_s)
            except Stat7Error as error:  # the other backends are swept for all that
                failures.append(error)
        if failures:
            raise failures[0]
        return swept

    async def _sweep(self, blobs: BlobStore, number: int, older_than_s: float) -> int:
        swept = await blobs.abort_unfinished(older_than_s) if isinstance(blobs, Unfinished) else 0
        self._counts["uploads_expired"] += swept
        if isinstance(blobs, Claimable):
            claimable = blobs

            async def discard(place: Place) -> bool:
                with claimable.claim(place.location) as claimed:
                    return claimed and await self._catalog.discard(place)

            return swept + await self._discard_orphans(blobs, number, discard)
        if isinstance(blobs, Planned):
            # Before anything was put there was an intent, and it goes only in the transaction that
            # makes the entry. So what has neither now has no upload that could still add it.
            return swept + await self._discard_orphans(blobs, number, self._catalog.discard)
        return swept

    async def _discard_orphans(self, blobs: BlobStore, number: int, discard: Callable[[Place], Awaitable[bool]]) -> int:
        swept = 0
        async for orphans in self.unreferenced(blobs, number):
            found = sum(await asyncio.gather(*map(discard, orphans)))
            self._counts["orphans_found"] += found
            swept += found
        return swept

    async def unreferenced(self, blobs: BlobStore, number: int) -> AsyncIterator[list[Place]]:
        """Yield, some at a time, the places of blobs on a backend that no entry points at."""
        found: list[Place] = []
        async for location in blobs.list():
            place = Place(location, number)
            if not await self._is_referenced(place):
                found.append(place)
            if len(found) == _BATCH:
                yield found
                found = []
        yield found

    async def _is_referenced(self, place: Place) -> bool:
        try:
            return (await self._catalog.lookup(Address.parse(place.location.name))).place == place
        except NotFound:
            return False
        except Damaged:  # an index entry that cannot be read may well point here
            # protection: unreadable-entry-keeps-blob
            return True

    async def _delete(self, place: Place) -> None:
        blobs = await self._backends.of(place.backend)
        with blob_errors():
            await blobs.delete(place.location)
