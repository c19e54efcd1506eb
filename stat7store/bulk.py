"""Many files at once, from threads: fewer steps a file than an ``Upload``, and the same promises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from stat7store.address import Address
from stat7store.catalog.base import BulkCatalog, NewFile
from stat7store.media.sniff import HEAD_BYTES, realm_of
from stat7store.record import FileRecord, Locator, Place
from stat7store.room import Promise, Room
from stat7store.translate import blob_errors
from stat7store.upload import accepted_type, refuse_empty, refuse_too_large
from storage.base import BulkBlobs, PassedOn, Spool


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A file whose bytes are all in its spool, and hash to its address."""

    spool: Spool
    address: Address
    media_type: str
    filename: str
    tags: tuple[str, ...] = ()


class Bulk:
    """The way in for many files at once. Every method blocks, and may be called from any thread.

    ``keep`` is for one thread at a time, so that no bytes are put twice.
    """

    def __init__(
        self,
        catalog: BulkCatalog,
        backends: Mapping[int, BulkBlobs],
        primary: int,
        room: Room,
        *,
        accepted: Sequence[str],
        max_size: int,
        now: Callable[[], int],
    ) -> None:
        """Made by ``Store.bulk``. ``backends`` are those that take many blobs in one go, by number."""
        self._catalog = catalog
        self._backends = backends
        self._primary = primary
        self._blobs = backends[primary]
        self._room = room
        self._accepted = accepted
        self._max_size = max_size
        self._now = now

    def judge(self, head: bytes, size: int) -> str:
        """Return the media type of a file of ``size`` bytes that begins with ``head``.

        Raises ``Malformed`` for an empty one, ``TooLarge`` or ``NotAccepted``.
        """
        return judge(self._accepted, self._max_size, head, size)

    def promise(self, size: int) -> Promise:
        """Hold room for a file, for the caller to close. Raises ``NoSpace``."""
        promise = Promise(self._room)
        promise.take(size)
        return promise

    def spool(self) -> Spool:
        """Return a new, empty spool. Raises ``NoSpace`` or ``Unavailable``."""
        with blob_errors():
            return self._blobs.spool_now()

    def pass_on(self, spool: Spool) -> PassedOn:
        """Let go of a spool without closing it, for ``take_over`` in another process; its file is the caller's."""
        return self._blobs.pass_on(spool)

    def take_over(self, spool: PassedOn) -> Spool:
        """Return a spool that was passed on; its file is the spool's from then on."""
        return self._blobs.take_over(spool)

    def held(self, addresses: Collection[Address]) -> set[Address]:
        """Return those of these files that are stored, and all of them. Raises ``Damaged`` or ``Unavailable``.

        On a backend that can only be asked for one file at a time, the catalog's word is taken for it.
        """
        found = self._catalog.lookup_many(addresses) if addresses else {}
        return {address for address, locator in found.items() if self._is_whole(locator)}

    def keep(self, files: Sequence[Incoming]) -> list[bool]:
        """Make the files durable and known, all or none; say of each whether its bytes were new.

        The spools stay open, and so claim what was put, until the caller closes them. Raises
        ``NoSpace``, ``Unavailable`` or ``Damaged``.
        """
        wanted = {file.address: file for file in reversed(files)}  # of equal files, the first
        new = self._not_whole(wanted)
        with blob_errors():
            locations = self._blobs.put_all([(wanted[address].spool, str(address)) for address in new])
        now = self._now()
        rows = [
            _new_file(wanted[address], now, Place(location, self._primary), replaces)
            for (address, replaces), location in zip(new.items(), locations, strict=True)
        ]
        rows.sort(key=lambda row: row.record.address)  # as the catalog likes it
        added = self._catalog.add_many(rows) if rows else []  # last: what the catalog knows is durable
        created = {outcome.entry.record.address for outcome in added if outcome.created}
        return [file.address in created and wanted[file.address] is file for file in files]

    def _not_whole(self, addresses: Iterable[Address]) -> dict[Address, Place | None]:
        """Return the addresses whose bytes are wanted, each with the place where they should have been."""
        asked = list(addresses)
        found = self._catalog.lookup_many(asked)
        return {
            address: locator.place if (locator := found.get(address)) is not None else None
            for address in asked
            if (locator := found.get(address)) is None or not self._is_whole(locator)
        }

    def _is_whole(self, locator: Locator) -> bool:
        blobs = self._backends.get(locator.backend)
        with blob_errors():
            return not locator.damaged and (blobs is None or blobs.holds(locator.location, locator.size))


def judge(accepted: Sequence[str], max_size: int, head: bytes, size: int) -> str:
    """Return the media type of a file; see ``Bulk.judge``."""
    refuse_empty(size)
    refuse_too_large(size, max_size)
    return accepted_type(head[:HEAD_BYTES], accepted)


def _new_file(file: Incoming, now: int, place: Place, replaces: Place | None) -> NewFile:
    record = FileRecord(
        address=file.address, stored_at=now, filename=file.filename, realm=realm_of(file.media_type), tags=file.tags
    )
    return NewFile(record, file.spool.size, file.media_type, place.location, place.backend, replaces)
