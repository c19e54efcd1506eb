"""Into a store's folder, which a server may be serving meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from stat7store.address import Address, Hasher
from stat7store.bulk import Incoming
from stat7store.errors import Damaged, Unavailable
from stat7store.importer.files import Facts, Found, Source
from stat7store.importer.names import filename_of
from stat7store.importer.outcome import Outcome
from stat7store.importer.reading import failure, read_each
from stat7store.record import FileRecord
from stat7store.room import Promise
from stat7store.store import Store
from stat7store.translate import blob_errors
from storage.base import Spool
from storage.group import GroupCommit

BATCHES_AT_ONCE = 32  # share a sync and a transaction


class Taken(NamedTuple):
    """A file whose bytes wait to be made durable, and its outcome if they turn out to be there."""

    outcome: Outcome
    incoming: Incoming


class Whole(NamedTuple):
    """A small file, read to its end; ``data`` is all of it."""

    found: Found
    facts: Facts
    address: Address
    media_type: str
    data: bytes


class DirectDestination:
    """A ``Destination`` in a folder. Threads read, hash and spool; one more makes durable what waits."""

    def __init__(
        self,
        store: Store,
        data: Path,
        *,
        tags: Sequence[str],
        threads: ThreadPoolExecutor,
        stop: threading.Event,
        read: Callable[[int], None],
    ) -> None:
        self.name = destination_of_folder(data, tags)
        self._store = store
        self._bulk = store.bulk()
        self._tags = tuple(tags)
        self._threads = threads
        self._stop = stop
        self._read = read
        self._commits: GroupCommit[list[Incoming], list[bool]] = GroupCommit(
            self._commit, name="import-commits", limit=BATCHES_AT_ONCE
        )

    async def present(self, addresses: list[Address]) -> set[Address]:
        """See ``Destination``."""
        return await self._store.present(addresses)

    async def take(self, files: list[Found]) -> list[Outcome]:
        """See ``Destination``."""
        done: list[Taken | Outcome] = []
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._spool_all, files, done)
            waiting = [one.incoming for one in done if isinstance(one, Taken)]
            created = iter(await self._commits.do(waiting) if waiting else ())
        finally:
            for one in done:
                if isinstance(one, Taken):
                    one.incoming.close()
        outcomes = [_settled(one, created=next(created)) if isinstance(one, Taken) else one for one in done]
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

    def _spool_all(self, files: list[Found], done: list[Taken | Outcome]) -> None:
        """Read the files and spool those that are not stored; what is added to ``done`` is the caller's to close."""
        read: list[Whole | Taken | Outcome] = []
        try:
            read_each(files, self._read_one, read)
        finally:
            done += [one for one in read if not isinstance(one, Whole)]
        self._spool_new([one for one in read if isinstance(one, Whole)], done)

    def _read_one(self, found: Found) -> Whole | Taken | Outcome:
        with Source(found, self._stop, self._read) as source:
            head = source.head()
            media_type = self._bulk.judge(head, source.facts.size)
            if len(head) == source.facts.size:
                source.check()
                return Whole(found, source.facts, Address.of(head), media_type, head)
            hasher = Hasher()
            hasher.update(head)
            promise = self._bulk.promise(source.facts.size)
            with ExitStack() as unless_taken:
                unless_taken.callback(promise.close)
                spool = unless_taken.enter_context(closing(self._bulk.spool()))
                with blob_errors():
                    spool.append(head)
                    promise.wrote(len(head))
                    for block in source.rest():
                        hasher.update(block)
                        spool.append(block)
                        promise.wrote(len(block))
                source.check()
                unless_taken.pop_all()
        return self._taken(found, source.facts, hasher.address(), media_type, spool, promise)

    def _spool_new(self, files: list[Whole], done: list[Taken | Outcome]) -> None:
        """Spool small files, after one look at the catalog for all of them."""
        try:
            held = self._bulk.held([file.address for file in files])
        except Damaged as error:
            if len(files) == 1:
                done.append(failure(files[0].found, error))
                return
            for file in files:  # one of them it is, and the others must not suffer
                self._spool_new([file], done)
            return
        for file in files:
            if file.address in held:
                done.append(Outcome(file.found, "there", file.address, facts=file.facts))
                continue
            promise = self._bulk.promise(len(file.data))
            with ExitStack() as unless_taken:
                unless_taken.callback(promise.close)
                spool = self._bulk.spool()
                done.append(self._taken(file.found, file.facts, file.address, file.media_type, spool, promise))
                unless_taken.pop_all()
            with blob_errors():
                spool.append(file.data)
            promise.wrote(len(file.data))

    def _taken(
        self, found: Found, facts: Facts, address: Address, media_type: str, spool: Spool, promise: Promise
    ) -> Taken:
        incoming = Incoming(spool, address, media_type, filename_of(found.name), self._tags, promise)
        return Taken(Outcome(found, "there", address, facts=facts), incoming)

    def _commit(self, batches: Sequence[list[Incoming]]) -> list[list[bool]]:
        created = iter(self._bulk.keep([file for batch in batches for file in batch]))
        return [[next(created) for _ in batch] for batch in batches]

    def _tagged(self, record: FileRecord) -> FileRecord:
        return msgspec.structs.replace(record, tags=tuple(sorted({*record.tags, *self._tags})))


def destination_of_folder(data: Path, tags: Sequence[str]) -> str:
    """Return what the journal calls an import into this folder with these tags."""
    return "\n".join([f"folder {os.path.abspath(data)}", *tags])


def _settled(taken: Taken, *, created: bool) -> Outcome:
    return msgspec.structs.replace(taken.outcome, kind="stored") if created else taken.outcome
