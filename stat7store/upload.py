"""One file on its way in: hashed and spooled as it streams by, then committed once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from stat7store.address import Address, Hasher
from stat7store.backends import Backends
from stat7store.catalog.base import Added, Catalog, NewFile
from stat7store.errors import DigestMismatch, Malformed, NotAccepted, NotFound, TooLarge, Unavailable
from stat7store.keeping import Keeper
from stat7store.media.sniff import HEAD_BYTES, accepts, realm_of, sniff
from stat7store.record import Entry, FileRecord, Locator, Place
from stat7store.room import Promise
from stat7store.small import SMALL_BYTES, SmallFile, SmallFiles
from stat7store.translate import blob_errors
from storage.base import BlobUnreadable, Spool

BLOCK_BYTES = 256 * 1024  # hashed and written in one thread hop: 150 µs of work for 50 µs of hop


class Upload:
    """Takes bytes with ``write``, then ``commit`` makes them durable. A context that ``Store.upload`` makes.

    Memory is bounded: at most two blocks wait, one being absorbed while the next arrives. A small
    file stays in memory until it is committed, unless too much waits there. Whatever is not
    committed leaves nothing behind.
    """

    def __init__(
        self,
        catalog: Catalog,
        backends: Backends,
        keeper: Keeper,
        small: SmallFiles | None,
        promise: Promise,
        *,
        shared: bool,
        filename: str,
        expected: Address | None,
        accepted: Sequence[str],
        max_size: int,
        stored_at: int,
    ) -> None:
        """``shared``: the promise is not this upload's alone, and so not to be closed with it."""
        self.filename = filename
        self.size = 0
        self._spool: Spool | None = None
        self._catalog = catalog
        self._backends = backends
        self._keeper = keeper
        self._small = small
        self._promise = promise
        self._shared = shared
        self._expected = expected
        self._accepted = accepted
        self._max_size = max_size
        self._stored_at = stored_at
        self._hasher = Hasher()
        self._in_memory = False  # true once a small file is hashed; it is then never spooled here
        self._head = b""
        self._media_type: str | None = None
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._absorbing: asyncio.Future[None] | None = None
        self._committing: asyncio.Task[Added] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        finally:
            if not self._shared:
                self._promise.close()

    async def write(self, data: bytes) -> None:
        """Take the next bytes of the file.

        Raises ``TooLarge``, ``NotAccepted`` as soon as the first bytes show what the file is,
        ``NoSpace`` or ``Unavailable``.
        """
        self.size += len(data)
        refuse_too_large(self.size, self._max_size)
        if self._media_type is None:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self._judge()
        self._promise.take(len(data))
        self._waiting.append(data)
        self._waiting_size += len(data)
        self._promise.wait(len(data))
        if self._waiting_size >= BLOCK_BYTES:
            await self._hand_over()
        elif self._promise.is_crowded:
            await self._hand_over()
            await self._absorbed()

    async def finish(self) -> Address:
        """Return the address, all bytes being here and nothing yet kept.

        Raises ``Malformed`` for an empty file, ``NotAccepted`` and ``DigestMismatch``.
        """
        refuse_empty(self.size)
        self._judge()
        if not self._in_memory:
            await self._hand_over()
            await self._absorbed()
        address = self._hasher.address()
        # protection: compare-declared-address
        if self._expected is not None and address != self._expected:
            raise DigestMismatch(
                "the bytes do not hash to the declared address; they were altered or cut on the way",
                expected=str(self._expected),
                actual=str(address),
            )
        return address

    async def commit(self) -> Added:
        """Make the file durable and known; return its entry and whether the address is new.

        Raises what ``finish`` does, ``NoSpace`` or ``Unavailable``. A caller that is cancelled
        leaves the commit running; ``close`` waits for it, but for that of a small file, which needs
        nothing of what is closed.
        """
        if self._stays_in_memory():
            return await self._commit()
        self._committing = asyncio.create_task(self._commit())
        return await asyncio.shield(self._committing)

    async def close(self) -> None:
        """Let go of the spool, once no thread uses it any more."""
        for task in (self._absorbing, self._committing):
            if task is not None:
                if not task.done():
                    await asyncio.wait([task])
                task.cancelled() or task.exception()  # an error that nobody waits for is no news
        if self._spool is not None:
            self._spool.close()
        self._promise.wait(-self._waiting_size)
        self._waiting, self._waiting_size = [], 0

    async def _commit(self) -> Added:
        # who calls ``finish`` first may hold many files at once, and memory is not the place for them
        if self._stays_in_memory():
            self._hash_in_memory()
        address = await self.finish()
        standing, replaces = await self._standing(address)
        if standing is not None:
            return Added(standing, created=False)
        media_type = self._judge()
        record = FileRecord(
            address=address, stored_at=self._stored_at, filename=self.filename, realm=realm_of(media_type)
        )
        if self._small is not None and self._in_memory:
            return await self._small.keep(SmallFile(record, b"".join(self._waiting), media_type, replaces))
        assert self._spool is not None  # ``finish`` saw to it
        async with self._keeper.kept(self._spool, str(address)) as (place, intended):
            # last: what the catalog knows is durable
            return await self._catalog.add(
                NewFile(record, self.size, media_type, place.location, place.backend, replaces, intended)
            )

    def _stays_in_memory(self) -> bool:
        return self._small is not None and self._spool is None and self.size <= SMALL_BYTES

    async def _standing(self, address: Address) -> tuple[Entry | None, Place | None]:
        """Return the entry that holds these bytes whole, or else the place that does not."""
        try:
            locator = await self._catalog.lookup(address)
            if await self._is_whole(locator):
                return Entry(locator, await self._catalog.record(address, locator)), None
        except NotFound:
            return None, None
        return None, locator.place

    async def _is_whole(self, locator: Locator) -> bool:
        blobs = await self._backends.of(locator.backend)
        try:
            with blob_errors():
                # protection: heal-cut-or-marked
                return not locator.damaged and await blobs.stat(locator.location) == locator.size
        except NotFound:
            # protection: heal-missing
            return False
        except Unavailable as error:
            if isinstance(error.__cause__, BlobUnreadable):  # not even its inode: what has come now takes its place
                return False
            raise

    def _judge(self) -> str:
        if self._media_type is None:
            self._media_type = accepted_type(self._head, self._accepted)
        return self._media_type

    def _hash_in_memory(self) -> None:
        for data in self._waiting:
            self._hasher.update(data)
        self._in_memory = True

    async def _hand_over(self) -> None:
        await self._absorbed()
        if self._spool is None:
            with blob_errors():
                self._spool = await self._backends.blobs.spool()
        block, self._waiting, self._waiting_size = self._waiting, [], 0
        # no task, which a loop that ends would cancel while its thread still writes to the spool
        self._absorbing = asyncio.get_running_loop().run_in_executor(None, self._absorb, self._spool, block)

    async def _absorbed(self) -> None:
        if self._absorbing is not None:
            with blob_errors():
                await asyncio.shield(self._absorbing)
            self._absorbing = None

    def _absorb(self, spool: Spool, block: list[bytes]) -> None:
        size = sum(map(len, block))
        try:
            for data in block:
                self._hasher.update(data)
                spool.append(data)
        finally:
            self._promise.wait(-size)
        self._promise.wrote(size)


def accepted_type(head: bytes, accepted: Sequence[str]) -> str:
    """Return the media type that the first bytes of a file show. Raises ``NotAccepted``."""
    found = sniff(head)
    if not accepts(accepted, found):
        raise NotAccepted(
            f"the file was found to be {found}; accepted are {', '.join(accepted)}",
            found=found,
            accepted=list(accepted),
        )
    return found


def refuse_empty(size: int) -> None:
    """Raise ``Malformed`` for a file without bytes."""
    if not size:
        raise Malformed("the file is empty; an image or a movie has at least one byte")


def refuse_too_large(size: int, max_size: int) -> None:
    """Raise ``TooLarge`` for a file of more than ``max_size`` bytes."""
    if size > max_size:
        raise TooLarge(f"the file is larger than the {max_size} bytes this store takes", max_size=max_size)
