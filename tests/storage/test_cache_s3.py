"""A cache in front of a bucket holds to the contract of the bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.base import BlobDamaged, BlobStore, Planned, Presigned, Span, Unfinished
from storage.cache import CachedBlobs
from storage.s3 import S3Blobs
from storage.s3_options import S3Options
from tests.storage import test_s3
from tests.storage.contract import fetch, keep
from tests.storage.test_cache import settled
from tests.storage.test_s3 import client, options, server  # noqa: F401 - fixtures


@pytest.fixture
async def blobs(options: S3Options, tmp_path: Path) -> AsyncIterator[CachedBlobs]:  # noqa: F811
    """An empty cache in front of an empty bucket."""
    store = CachedBlobs(S3Blobs(options, tmp_path / "spools"), tmp_path / "cache", 64 << 20)
    yield store
    await store.close()


class TestCacheOverS3(test_s3.TestS3):
    """The contract, for a cache in front of a bucket."""

    @pytest.mark.parametrize("left", [0, 1, 4095, 4096, 99_999])
    async def test_a_truncated_blob_shows_its_real_size(self, blobs: BlobStore, left: int) -> None:
        """A blob cut off in the bucket shows its size, and is opened neither whole nor in part."""
        location = await keep(blobs, bytes(range(250)) * 400)
        self.truncate(blobs, location, left)
        assert await blobs.stat(location) == left
        for span in (None, Span(0, 100_000), Span(0, left // 2)):
            with pytest.raises(BlobDamaged):
                await blobs.open(location, span)

    async def test_swapped_blobs_are_read_as_they_are(self, blobs: BlobStore) -> None:
        """A blob exchanged for another in the bucket is found out, in whole and in part."""
        one, other = await keep(blobs, b"short"), await keep(blobs, bytes(100_000))
        self.swap(blobs, one, other)
        for location in (one, other):
            for span in (None, Span(1, 2)):
                with pytest.raises(BlobDamaged):
                    await blobs.open(location, span)


async def test_asks_the_bucket_once(blobs: CachedBlobs) -> None:
    """The second read of a blob sends no request, and its source is the cache."""
    location = await keep(blobs, b"fetched once")
    first = await blobs.open(location)
    assert first.source == "s3"
    assert await first.read(100) == b"fetched once"
    first.close()
    await settled(blobs)
    before = blobs.counts()["s3_requests"]
    assert await fetch(blobs, location) == b"fetched once"
    second = await blobs.open(location)
    assert second.source == "cache"
    second.close()
    assert blobs.counts()["s3_requests"] == before
    assert blobs.counts()["cache_hits"] == 2


async def test_lends_what_a_bucket_can_do(blobs: CachedBlobs) -> None:
    """Intents, presigned addresses and the sweep of unfinished uploads reach the bucket."""
    assert isinstance(blobs, Planned)
    assert isinstance(blobs, Presigned)
    assert isinstance(blobs, Unfinished)
    assert await blobs.abort_unfinished(0) == 0
