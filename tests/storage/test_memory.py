"""The reference backend holds to the contract."""

from __future__ import annotations

import pytest

from storage.base import BlobStore, Location
from storage.memory import MemoryBlobs
from tests.storage.contract import ClaimContract


class TestMemory(ClaimContract):
    """The contract, for blobs in memory."""

    kind = "memory"

    @pytest.fixture
    def blobs(self) -> MemoryBlobs:
        """An empty store."""
        return MemoryBlobs()

    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        _inside(blobs)[location] = _inside(blobs)[location][:size]

    def remove(self, blobs: BlobStore, location: Location) -> None:
        del _inside(blobs)[location]

    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        inside = _inside(blobs)
        inside[one], inside[other] = inside[other], inside[one]

    def add_foreign(self, blobs: BlobStore) -> None:
        """Nobody but the store reaches its memory."""


def _inside(blobs: BlobStore) -> dict[Location, bytes]:
    assert isinstance(blobs, MemoryBlobs)
    return blobs._blobs
