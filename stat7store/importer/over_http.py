"""Over HTTP to a server: asked first what it has, sent only what it has not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stat7store.address import Address
from stat7store.client import Client, StoredFile
from stat7store.errors import Conflict, Damaged, DigestMismatch, NoSpace, Stat7Error, Unavailable
from stat7store.importer.files import Changed, Facts, Found, Source, Stopped
from stat7store.importer.gauge import Gauge
from stat7store.importer.names import filename_of
from stat7store.importer.outcome import Outcome
from stat7store.importer.reading import CHANGING, Hashed, failure, hash_source, read_each
from stat7store.upload import refuse_empty

T = TypeVar("T")

_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # before a request is tried again
_TRIES = 3


class HttpDestination:
    """A ``Destination`` behind a server.

    ``always_send``: have the server compare the bytes even where it knows the address.
    """

    def __init__(
        self,
        client: Client,
        *,
        tags: Sequence[str],
        always_send: bool,
        threads: ThreadPoolExecutor,
        gauge: Gauge,
    ) -> None:
        self.name = "\n".join([f"server {client.url}", *tags])
        self._client = client
        self._tags = tuple(tags)
        self._always_send = always_send
        self._threads = threads
        self._gauge = gauge

    async def present(self, addresses: list[Address]) -> set[Address]:
        """See ``Destination``."""
        answer = await _patiently(lambda: self._client.exists(addresses))
        return set(map(Address.parse, answer.present))

    async def take(self, files: list[Found]) -> list[Outcome]:
        """See ``Destination``."""
        done: list[Hashed | Outcome] = []
        await asyncio.get_running_loop().run_in_executor(self._threads, read_each, files, self._hash, done)
        hashed = [one for one in done if isinstance(one, Hashed)]
        ask = hashed and not self._always_send
        present = await self.present([one.address for one in hashed]) if ask else set[Address]()
        brought = await asyncio.gather(
            *(self._bring(one, present=one.address in present) for one in hashed), return_exceptions=True
        )
        outcomes = [one for one in done if isinstance(one, Outcome)]
        for outcome in brought:
            if isinstance(outcome, Outcome):
                outcomes.append(outcome)
            elif not isinstance(outcome, Stopped):
                raise outcome
        return outcomes

    def _hash(self, found: Found) -> Hashed:
        with Source(found, self._gauge) as source:
            return hash_source(found, source, judge_by_size)

    async def _bring(self, file: Hashed, *, present: bool) -> Outcome:
        try:
            stored = None if present else await _patiently(lambda: self._send(file))
            if self._tags:
                await self._tag(file.address, stored)
        except (Changed, DigestMismatch):
            return Outcome(file.found, "failed", reason=CHANGING)
        except Unavailable:
            raise
        except (OSError, Damaged) as error:
            return failure(file.found, error)
        except Stat7Error as error:
            return Outcome(file.found, "refused", reason=str(error))
        created = stored is not None and stored.created is True
        return Outcome(file.found, "stored" if created else "there", file.address, facts=file.facts)

    async def _send(self, file: Hashed) -> StoredFile:
        return await self._client.put(
            self._blocks(file.found, file.facts) if file.data is None else file.data,
            filename=filename_of(file.found.name),
            address=file.address,
            size=file.facts.size,
        )

    async def _blocks(self, found: Found, facts: Facts) -> AsyncIterator[bytes]:
        """Yield the bytes of a large file, if they are still those that were hashed. Raises ``Changed``."""
        with Source(found, self._gauge, counted=False) as source:  # it was counted when it was hashed
            if source.facts != facts:
                raise Changed
            blocks = _copied(source)
            loop = asyncio.get_running_loop()
            while block := await loop.run_in_executor(self._threads, next, blocks, b""):
                yield block
            source.check()

    async def _tag(self, address: Address, stored: StoredFile | None) -> None:
        for _ in range(_TRIES):
            record = await _patiently(lambda: self._client.metadata(address)) if stored is None else stored
            tags = sorted({*record.tags, *self._tags})
            if tags == record.tags:
                return
            try:
                await self._client.update(address, revision=record.revision, tags=tags)
            except Conflict:  # someone else was faster: look again
                stored = None
            else:
                return
        raise Conflict("the record kept changing while it was tagged")


def judge_by_size(head: bytes, size: int) -> None:
    """Refuse what no server takes; the rest only the server can judge. Raises ``Malformed``."""
    refuse_empty(size)


def _copied(source: Source) -> Iterator[bytes]:
    yield source.head()
    for block in source.rest():
        yield bytes(block)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call returns; while the server is unavailable, try again some times."""
    for pause in _PAUSES_S:
        try:
            return await call()
        except NoSpace:
            raise
        except Unavailable:
            await asyncio.sleep(pause)
    return await call()
