"""The cache holds to the contract, in front of any backend, and to what a cache alone promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.base import BlobStore, Location
from storage.cache import CachedBlobs
from storage.memory import MemoryBlobs
from tests.storage.contract import ClaimContract

LIMIT = 64 << 20


@pytest.fixture
def behind() -> MemoryBlobs:
    """The backend behind."""
    return MemoryBlobs()


@pytest.fixture
async def blobs(behind: MemoryBlobs, tmp_path: Path) -> AsyncIterator[CachedBlobs]:
    """An empty cache in front of an empty store."""
    store = CachedBlobs(behind, tmp_path / "cache", LIMIT)
    yield store
    await store.close()


class TestCacheOverMemory(ClaimContract):
    """The contract, for a cache in front of blobs in memory."""

    kind = "memory"

    @pytest.fixture(autouse=True)
    def _over(self, behind: MemoryBlobs) -> None:
        self.inside = behind._blobs

    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        self.inside[location] = self.inside[location][:size]

    def remove(self, blobs: BlobStore, location: Location) -> None:
        del self.inside[location]

    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        self.inside[one], self.inside[other] = self.inside[other], self.inside[one]

    def add_foreign(self, blobs: BlobStore) -> None:
        """Nobody but the store reaches its memory."""
