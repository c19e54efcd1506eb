"""Into a store's folder, which a server may be serving meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from stat7store.address import Address
from stat7store.bulk import Incoming
from stat7store.errors import Unavailable
from stat7store.importer.files import Found
from stat7store.importer.names import filename_of
from stat7store.importer.outcome import Kind, Outcome
from stat7store.importer.spoolers import Batch, Spoolers
from stat7store.importer.spooling import Brought
from stat7store.record import FileRecord
from stat7store.store import Store
from storage.base import PassedOn
from storage.group import GroupCommit

BATCHES_AT_ONCE = 16  # share a sync and a transaction


class DirectDestination:
    """A ``Destination`` in a folder. Other processes read, hash and spool; a thread makes durable what waits."""

    def __init__(self, store: Store, name: str, *, tags: Sequence[str], spoolers: Spoolers) -> None:
        self.name = name
        self._store = store
        self._bulk = store.bulk()
        self._tags = tuple(tags)
        self._spoolers = spoolers
        self._commits: GroupCommit[list[Incoming], list[bool]] = GroupCommit(
            self._commit, name="import-commits", limit=BATCHES_AT_ONCE
        )

    async def present(self, addresses: list[Address]) -> set[Address]:
        """See ``Destination``. What is known to be damaged is not there, and so is healed."""
        if (await self._store.counters()).damaged:
            return await asyncio.to_thread(self._bulk.held, addresses)
        return await self._store.present(addresses)

    async def take(self, files: list[Found]) -> list[Outcome]:
        """See ``Destination``."""
        batch = await self._spoolers.spool(files)
        incoming = [self._incoming(files[one.place], one, batch) for one in batch.files if one.kind == "stored"]
        try:
            created = iter(await self._commits.do(incoming) if incoming else ())
        finally:
            batch.spooler.settle(batch.number)
        outcomes = [_outcome(files[one.place], one, created) for one in batch.files]
        if self._tags:
            there = [one.address for one in outcomes if one.kind == "there" and one.address is not None]
            await asyncio.gather(*(self._store.update(address, self._tagged) for address in there))
        return outcomes

    async def tidy(self, *, orphans: bool) -> None:
        """Delete blobs that are not needed: equal files that came at once, and with ``orphans`` what a crash left.

        What cannot be swept now, the janitor of the store's server sweeps.
        """
        with suppress(Unavailable):  # of another backend, which is no concern of the import
            if orphans:
                await self._store.sweep_orphans()
            await self._store.sweep_garbage()

    async def close(self) -> None:
        """Finish what was begun."""
        await self._commits.close()

    def _incoming(self, found: Found, one: Brought, batch: Batch) -> Incoming:
        spool = self._bulk.take_over(PassedOn(batch.spools[one.spool], one.spool_name, one.facts.size))
        address = Address.of_digest(one.address)
        return Incoming(spool, address, one.media_type, filename_of(found.name), self._tags)

    def _commit(self, batches: Sequence[list[Incoming]]) -> list[list[bool]]:
        files = [file for batch in batches for file in batch]
        try:
            created = iter(self._bulk.keep(files))
        finally:
            for file in files:
                file.spool.close()
        return [[next(created) for _ in batch] for batch in batches]

    def _tagged(self, record: FileRecord) -> FileRecord:
        return msgspec.structs.replace(record, tags=tuple(sorted({*record.tags, *self._tags})))


def destination_of_folder(data: Path, tags: Sequence[str]) -> str:
    """Return what the journal calls an import into this folder with these tags."""
    return "\n".join([f"folder {os.path.abspath(data)}", *tags])


def _outcome(found: Found, one: Brought, created: Iterator[bool]) -> Outcome:
    """Return what became of a file; of those that were spooled ``created`` tells in turn whether they were new."""
    if not one.address:
        return Outcome(found, one.kind, reason=one.reason)
    kind: Kind = "there" if one.kind == "stored" and not next(created) else one.kind
    return Outcome(found, kind, Address.of_digest(one.address), facts=one.facts)
