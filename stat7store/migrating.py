"""Moving the blobs of a store to another backend, while it serves: copied, verified, re-pointed, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from stat7store.address import Address, Hasher
from stat7store.backends import Backends
from stat7store.catalog.base import Catalog
from stat7store.errors import Damaged, NotFound, Stat7Error, Unavailable
from stat7store.keeping import Keeper
from stat7store.pacing import to_the_end
from stat7store.record import Locator
from stat7store.room import Promise, Room
from stat7store.sweeper import Sweeper
from stat7store.translate import blob_errors
from storage.base import BlobStore, BlobUnreadable, Location, Spool

BLOCK_BYTES = 1 << 20
_PAGE = 512
_MOST_MOVES = 3


class Moves(msgspec.Struct):
    """How far a migration is; ``bytes`` are those of blobs, and ``copied`` may be ahead of ``moved_bytes``.

    ``files`` and ``bytes`` count what was not on the target when it began. ``gone`` were deleted, or
    moved by someone else, in the meantime.
    """

    files: int = 0
    bytes: int = 0
    moved: int = 0
    moved_bytes: int = 0
    copied: int = 0
    gone: int = 0
    failed: int = 0


class Migration:
    """Moves every file that is not on the primary backend of ``backends`` to it.

    It may be killed at any point and be run again: what was moved is passed over, what was copied
    in vain is swept. An entry points at its old blob until the copy is durable and has the right
    hash, and changes over in one transaction; the old blob becomes garbage in the same one.
    """

    def __init__(
        self,
        catalog: Catalog,
        backends: Backends,
        keeper: Keeper,
        *,
        source: int | None,
        jobs: int,
        failed: Callable[[Address, Stat7Error], None],
        room: Room | None = None,
    ) -> None:
        """``source``: only from this backend; None: from all. ``jobs`` files are copied at a time.

        ``failed`` is told of every file that stays where it is. ``room`` is what there is for copies.
        """
        self.moves = Moves()
        self._catalog = catalog
        self._backends = backends
        self._keeper = keeper
        self._source = source
        self._jobs = jobs
        self._failed = failed
        self._room = room or Room()

    async def run(self) -> None:
        """Move them all. Raises ``Unavailable`` or ``NoSpace`` if the target takes no more.

        To be cancelled at any point; what was moved by then stays so.
        """
        await self._count()
        waiting: asyncio.Queue[tuple[Address, Locator] | None] = asyncio.Queue(2 * self._jobs)

        async def work() -> None:
            while (file := await waiting.get()) is not None:
                await self._try(*file)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._jobs):
                    group.create_task(work())
                async for file in self._elsewhere():
                    await waiting.put(file)
                for _ in range(self._jobs):
                    await waiting.put(None)
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__
        # the janitor of a server does so too, but there may be none
        await Sweeper(self._catalog, self._backends).sweep_garbage()

    async def _count(self) -> None:
        async for _, locator in self._elsewhere():
            self.moves.files += 1
            self.moves.bytes += locator.size

    async def _elsewhere(self) -> AsyncIterator[tuple[Address, Locator]]:
        after = None
        while True:
            page = await self._catalog.elsewhere(self._backends.primary, _PAGE, after)
            for address, locator in page.files:
                if self._source in (None, locator.backend):
                    yield address, locator
            if page.reached is None:
                return
            after = page.reached

    async def _try(self, address: Address, locator: Locator) -> None:
        try:
            moved = await self._follow(address, locator)
        except NotFound:
            self.moves.gone += 1
        except Damaged as error:
            self.moves.failed += 1
            self._failed(address, error)
        else:
            self.moves.moved += moved
            self.moves.gone += not moved
            self.moves.moved_bytes += locator.size if moved else 0

    async def _follow(self, address: Address, locator: Locator) -> bool:
        """Move a file from wherever it is by now; return False if it is there. Raises ``NotFound``."""
        for _ in range(_MOST_MOVES):
            try:
                return await self._move(address, locator)
            except NotFound:  # the blob; what of the file?
                current = await self._catalog.lookup(address)
            if current.backend == self._backends.primary:
                return False
            if current.place == locator.place:
                raise Damaged("the stored bytes are missing; uploading the file again heals it")
            locator = current
        raise Unavailable("the stored bytes kept moving while they were copied")

    async def _move(self, address: Address, locator: Locator) -> bool:
        if locator.damaged:
            raise Damaged("the stored bytes are known to be damaged; uploading the file again heals them")
        with self._room.promise(locator.size) as promise:
            return await self._copied(address, locator, promise)

    async def _copied(self, address: Address, locator: Locator, promise: Promise) -> bool:
        blobs = await self._backends.of(locator.backend)
        with blob_errors():
            spool = await self._backends.blobs.spool()
        try:
            with blob_errors():
                try:
                    hasher = await self._copy(blobs, locator.location, spool, promise)
                except BlobUnreadable as error:
                    await blobs.check()  # raises if the disk fails as a whole: that says nothing of this file
                    await self._catalog.mark_damaged(address, locator.place)
                    raise Damaged("the disk cannot read the bytes; uploading the file again heals them") from error
            if hasher.size != locator.size or hasher.address() != address:
                await self._catalog.mark_damaged(address, locator.place)
                raise Damaged("the stored bytes are not those of the address; uploading the file again heals them")
            async with self._keeper.kept(spool, str(address)) as (place, intended):
                return await self._catalog.relocate(address, locator.place, place, intended=intended)
        finally:
            spool.close()

    async def _copy(self, blobs: BlobStore, location: Location, spool: Spool, promise: Promise) -> Hasher:
        hasher = Hasher()

        def absorb(data: bytes) -> None:
            hasher.update(data)
            spool.append(data)
            promise.wrote(len(data))

        reader = await blobs.open(location)
        try:
            while data := await reader.read(BLOCK_BYTES):
                promise.take(len(data))
                await to_the_end(absorb, data)
                self.moves.copied += len(data)
        finally:
            reader.close()
        return hasher
