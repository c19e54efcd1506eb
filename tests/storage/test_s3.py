"""The S3 backend holds to the contract, and does what S3 alone asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from storage.base import BlobDamaged, BlobStore, Location, Span
from storage.s3 import S3Blobs
from storage.s3_options import S3Options
from tests.storage.contract import BlobContract, fetch, keep, name_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """A moto server."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """An empty bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testtest")
    options = replace(
        S3Options.parse("s3://blobs/some/where"), endpoint_url=endpoint, region="us-east-1", path_style=True
    )
    client = connect(options)
    client.create_bucket(Bucket=options.bucket)
    yield options
    for entry in client.list_objects_v2(Bucket=options.bucket).get("Contents", ()):
        client.delete_object(Bucket=options.bucket, Key=entry["Key"])
    client.close()


def connect(options: S3Options) -> S3Client:
    """Return a client of the same server."""
    client: S3Client = boto3.session.Session().client("s3", endpoint_url=options.endpoint_url, region_name="us-east-1")
    return client


@pytest.fixture
async def blobs(options: S3Options, tmp_path: Path) -> AsyncIterator[S3Blobs]:
    """An empty store in a bucket."""
    store = S3Blobs(options, tmp_path / "spools")
    yield store
    await store.close()


class TestS3(BlobContract):
    """The contract, for blobs in a bucket."""

    kind = "s3"

    @pytest.fixture(autouse=True)
    def _at(self, options: S3Options) -> Iterator[None]:
        self.options = options
        self.client = connect(options)
        yield
        self.client.close()

    def _key(self, location: Location) -> str:
        return f"{self.options.folder}{location}"

    def _bytes(self, location: Location) -> bytes:
        return self.client.get_object(Bucket=self.options.bucket, Key=self._key(location))["Body"].read()

    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        data = self._bytes(location)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(location), Body=data[:size])

    def remove(self, blobs: BlobStore, location: Location) -> None:
        self.client.delete_object(Bucket=self.options.bucket, Key=self._key(location))

    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        first, second = self._bytes(one), self._bytes(other)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(one), Body=second)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(other), Body=first)

    def add_foreign(self, blobs: BlobStore) -> None:
        name = name_of(b"foreign")
        token = "0123456789abcdef"
        folder = f"{self.options.folder}{name[:3]}"
        other = f"{self.options.folder}{'000' if name[:3] != '000' else '001'}"
        for key in (
            "notes.txt",
            f"{self.options.folder}notes.txt",
            f"{self.options.folder}zzz",
            f"{folder}/",
            f"{folder}/{name}",
            f"{folder}/{name}.{token}~",
            f"{folder}/{name}.01",
            f"{folder}/{name.upper()}.{token}",
            f"{other}/{name}.{token}",
            f"{name[:3]}/{name}.{token}",
            f"{folder}/é",
        ):
            self.client.put_object(Bucket=self.options.bucket, Key=key, Body=b"foreign")

    @pytest.mark.parametrize("left", [0, 1, 4095, 4096, 99_999])
    async def test_a_truncated_blob_shows_its_real_size(self, blobs: BlobStore, left: int) -> None:
        """A blob cut off behind the store's back says so by its size, and is not opened, in whole or beyond the cut."""
        data = bytes(range(250)) * 400
        location = await keep(blobs, data)
        self.truncate(blobs, location, left)
        assert await blobs.stat(location) == left
        assert await fetch(blobs, location, Span(0, left // 2)) == data[: left // 2]
        for span in (None, Span(0, len(data))):
            with pytest.raises(BlobDamaged):
                await blobs.open(location, span)

    async def test_swapped_blobs_are_read_as_they_are(self, blobs: BlobStore) -> None:
        """A blob exchanged for another is found out: its bytes are not what its name says."""
        short, long = b"short", bytes(100_000)
        one, other = await keep(blobs, short), await keep(blobs, long)
        self.swap(blobs, one, other)
        assert await blobs.stat(one) == len(long)
        for location in (one, other):
            with pytest.raises(BlobDamaged):
                await blobs.open(location)
        assert await fetch(blobs, one, Span(5, 10)) == bytes(10)
