"""Blobs copied from one place to another, compared with their address on the way, and what was counted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stat7store.address import Address, Hasher
from stat7store.errors import Damaged, NotFound
from stat7store.pacing import Pace, to_the_end
from stat7store.translate import blob_errors
from storage.base import (
    BlobDamaged,
    BlobMissing,
    BlobStore,
    BlobUnavailable,
    BlobUnreadable,
    Location,
    Reader,
    Spool,
)

BLOCK_BYTES = 1 << 20
PAGE = 512  # entries at a time


class Copies(msgspec.Struct):
    """How far a backup or a restore is; ``bytes`` are those of blobs, and ``read`` may be ahead of ``copied_bytes``.

    ``files`` and ``bytes`` count what the catalog names. ``held`` were there already. ``gone`` were
    deleted meanwhile. ``failed`` could not be read as they were stored, and are not in the copy.
    ``removed`` blobs were of no more use.
    """

    files: int = 0
    bytes: int = 0
    held: int = 0
    held_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    read: int = 0
    gone: int = 0
    failed: int = 0
    removed: int = 0
    seconds: float = 0.0


class Unreadable(Damaged):
    """The bytes could not be read this time; nothing says that they are not there."""


class Copier:
    """Copies single blobs to one place."""

    def __init__(self, target: BlobStore, copies: Copies, pace: Pace) -> None:
        """Every byte that is read is counted in ``copies``, and waits for ``pace``."""
        self._target = target
        self._copies = copies
        self._pace = pace

    async def copy(self, source: BlobStore, location: Location, address: Address, size: int) -> Location:
        """Copy a blob whose hash and size are known; return where it is, durable.

        Raises ``NotFound`` or ``Damaged`` for what the source has, ``NoSpace`` or ``Unavailable`` if the
        target takes no more; nothing is kept then.
        """
        with blob_errors():
            spool = await self._target.spool()
        try:
            found, read = await self._spool(source, location, spool)
            if (found, read) != (address, size):
                raise Damaged(f"the stored bytes are not those of the address: {read} bytes that hash to {found}")
            with blob_errors():
                return await self._target.put(spool, str(address))
        finally:
            spool.close()

    async def _spool(self, source: BlobStore, location: Location, spool: Spool) -> tuple[Address, int]:
        hasher = Hasher()

        def absorb(data: bytes) -> None:
            hasher.update(data)
            with blob_errors():
                spool.append(data)

        reader = await _opened(source, location)
        try:
            while data := await _next(reader):
                await to_the_end(absorb, data)
                self._copies.read += len(data)
                await self._pace.spend(len(data))
        finally:
            reader.close()
        return hasher.address(), hasher.size


async def _opened(source: BlobStore, location: Location) -> Reader:
    try:
        return await source.open(location)
    except BlobMissing as error:
        raise NotFound("the stored bytes are missing") from error
    except (BlobDamaged, BlobUnavailable) as error:
        raise _unreadable(error) from error


async def _next(reader: Reader) -> bytes:
    try:
        return await reader.read(BLOCK_BYTES)
    except BlobMissing as error:
        raise NotFound("the stored bytes are missing") from error
    except (BlobDamaged, BlobUnavailable) as error:
        raise _unreadable(error) from error


def _unreadable(error: BlobDamaged | BlobUnavailable) -> Damaged:
    broken = isinstance(error, BlobDamaged | BlobUnreadable)
    return (Damaged if broken else Unreadable)(f"the stored bytes cannot be read: {error}")


class Held:
    """What a place holds, asked for in the order of the names, so that one listing answers everything."""

    def __init__(self, blobs: BlobStore) -> None:
        self._locations = blobs.list()
        self._next: Location | None = None

    async def among(self, addresses: Sequence[Address]) -> dict[Address, Location]:
        """Return one location for each of the addresses that is there; each call goes on behind the last one."""
        wanted = {str(address): address for address in addresses}
        last = str(addresses[-1])
        found: dict[Address, Location] = {}
        with blob_errors():
            while (location := await self._peek()) is not None and location.name <= last:
                if location.name in wanted:
                    found.setdefault(wanted[location.name], location)
                self._next = None
        return found

    async def _peek(self) -> Location | None:
        if self._next is None:
            self._next = await anext(self._locations, None)
        return self._next
