"""What the catalog keeps of a file: a dense locator, and a record of everything else."""

from __future__ import annotations

import msgspec

from stat7store.address import Address
from storage.base import Location

HORIZONS = ("genesis", "emergence", "peak", "decay", "crystallization")


class Media(msgspec.Struct, array_like=True, frozen=True, omit_defaults=False):
    """What is known of the decoded image or movie; None where it is not known (yet).

    Sizes in pixels, ``duration_s`` in seconds. Fields may only be appended, with defaults.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    duration_s: float | None = None
    codec: str | None = None


class FileRecord(msgspec.Struct, array_like=True, frozen=True):
    """The metadata of one file. Frozen: a change makes a new record with the next ``revision``.

    ``stored_at`` is in milliseconds since 1970-01-01 UTC. The coordinates are those of a file as
    the STAT7 design defines them: ``lineage`` ≥ 0, ``resonance`` and ``velocity`` in −1…1,
    ``density`` in 0…1, ``horizon`` one of ``HORIZONS``, ``adjacency`` sorted addresses.
    Stored as an array, so fields may only be appended, with defaults.
    """

    address: bytes
    stored_at: int
    filename: str
    realm: str
    revision: int = 1
    lineage: int = 1
    adjacency: tuple[bytes, ...] = ()
    horizon: str = "genesis"
    resonance: float = 0.0
    velocity: float = 0.0
    density: float = 1.0
    media: Media = Media()
    tags: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a store keeps one blob: a location, and the number of the backend it is on."""

    location: Location
    backend: int = 0


class Locator(msgspec.Struct, frozen=True, gc=False):
    """The index's answer for an address: enough to send the bytes without reading the record.

    ``number`` is the record's number in this catalog (never reused); ``size`` is in bytes;
    ``backend`` says which blob backend holds the bytes (0: the one the store was made with);
    ``damaged`` marks bytes that were found altered and must not be served.
    """

    number: int
    size: int
    media_type: str
    location: Location
    backend: int = 0
    damaged: bool = False

    @property
    def place(self) -> Place:
        return Place(self.location, self.backend)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """All the catalog knows of one file."""

    locator: Locator
    record: FileRecord

    @property
    def address(self) -> Address:
        return Address(self.record.address)
