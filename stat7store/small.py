"""Small files on their way in, kept many at a time: one thread writes, syncs and commits for all that wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from stat7store.catalog.base import Added, BulkCatalog, NewFile
from stat7store.errors import Stat7Error
from stat7store.record import FileRecord, Place
from stat7store.translate import blob_errors
from storage.base import BulkBlobs, Spool
from storage.group import GroupCommit

SMALL_BYTES = 64 * 1024
"""A file of up to this many bytes is small: hashing it takes 40 µs, less than a hop to a thread and back."""


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file in memory, whose bytes hash to ``record.address``; ``replaces`` is that of ``NewFile``."""

    record: FileRecord
    data: bytes
    media_type: str
    replaces: Place | None


class SmallFiles:
    """The way in for small files: a file costs its caller one hop, and those that wait share a sync and a commit.

    It makes the same promises as a spool that is put and then added to the catalog, one file at a time.
    """

    def __init__(self, catalog: BulkCatalog, blobs: BulkBlobs, backend: int) -> None:
        """``backend`` is the number of the backend in its store."""
        self._catalog = catalog
        self._blobs = blobs
        self._backend = backend
        self._group: GroupCommit[SmallFile, Added] = GroupCommit(self._keep, name="small files")

    async def keep(self, file: SmallFile) -> Added:
        """Make a file durable and known; say what the catalog has now. Raises ``NoSpace`` or ``Unavailable``."""
        return await self._group.do(file)

    async def close(self) -> None:
        """Finish what was begun; before the catalog and the blobs are closed."""
        await self._group.close()

    def _keep(self, files: Sequence[SmallFile]) -> list[Added | Stat7Error]:
        outcomes: dict[int, Added | Stat7Error] = {}
        with ExitStack() as open_spools:  # an open spool claims what was put: no sweep takes it for an orphan
            spooled: dict[int, Spool] = {}
            for number, file in enumerate(files):
                try:
                    spooled[number] = self._spooled(file, open_spools)
                except Stat7Error as error:
                    outcomes[number] = error
            with blob_errors():
                locations = self._blobs.put_all(
                    [(spool, files[number].record.address.hex()) for number, spool in spooled.items()]
                )
            # last: what the catalog knows is durable
            # protection: claim-small-file-until-known
            places = [Place(location, self._backend) for location in locations]
            added = self._catalog.add_each(
                [_new_file(files[number], place) for number, place in zip(spooled, places, strict=True)]
            )
        outcomes.update(zip(spooled, added, strict=True))
        return [outcomes[number] for number in range(len(files))]

    def _spooled(self, file: SmallFile, open_spools: ExitStack) -> Spool:
        with blob_errors():
            spool = open_spools.enter_context(closing(self._blobs.spool_now()))
            spool.append(file.data)
        return spool


def _new_file(file: SmallFile, place: Place) -> NewFile:
    return NewFile(file.record, len(file.data), file.media_type, place.location, place.backend, file.replaces)
