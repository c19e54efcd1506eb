"""The proxy itself: what is sound passes whole, what is not is refused, and each fault is what its name says."""

from __future__ import annotations

import hashlib
import io
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from storage.s3_options import S3Options
from tests.s3_proxy import Fault, S3Proxy, Script, s3_proxy
from tests.s3_servers import OWNER, REGION, S3Server, keys_in

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

DATA = os.urandom(100_000)


@pytest.fixture
def options(moto_server: S3Server) -> Iterator[S3Options]:
    """An empty bucket."""
    with moto_server.bucket() as options:
        yield options


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[S3Proxy]:
    """A proxy before it."""
    with s3_proxy(moto_server.endpoint) as proxy:
        yield proxy


class Rig:
    """boto3's client behind the proxy, which sends each request once.

    ``impatient`` is another that soon gives an answer up, for those that never come.
    """

    def __init__(self, proxy: S3Proxy, options: S3Options) -> None:
        self.proxy = proxy
        self.bucket = options.bucket
        self.client = self._client(60)
        self.impatient = self._client(2)

    def _client(self, read_timeout_s: int) -> S3Client:
        config = Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout_s, s3={"addressing_style": "path"})
        session = boto3.session.Session(OWNER.access, OWNER.secret, region_name=REGION)
        client: S3Client = session.client("s3", endpoint_url=self.proxy.endpoint, config=config)
        return client

    def client_for(self, fault: Fault) -> S3Client:
        """Return the client that meets this fault."""
        return self.impatient if fault is Fault.STALLED else self.client

    def put(self, key: str, data: bytes = DATA, *, client: S3Client | None = None, **more: str) -> None:
        """Put an object with the SHA-256 of its bytes."""
        sha256 = more.get("sha256", b64encode(hashlib.sha256(data).digest()).decode())
        (client or self.client).put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumSHA256=sha256)

    def get(self, key: str, client: S3Client | None = None) -> bytes:
        """Get an object."""
        return (client or self.client).get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def next(self, *faults: Fault | None) -> None:
        """Say what happens to the next requests."""
        self.proxy.faults = Script(faults)


@pytest.fixture
def rig(proxy: S3Proxy, options: S3Options) -> Iterator[Rig]:
    """A client behind the proxy."""
    rig = Rig(proxy, options)
    yield rig
    rig.client.close()
    rig.impatient.close()


def test_what_is_sound_passes(rig: Rig) -> None:
    """Without faults the proxy is not there: objects, ranges, heads, lists, uploads in parts and in chunks."""
    rig.put("a/b c+é")
    assert rig.get("a/b c+é") == DATA
    body = rig.client.get_object(Bucket=rig.bucket, Key="a/b c+é", Range="bytes=10-19")["Body"]
    assert body.read() == DATA[10:20]
    assert rig.client.head_object(Bucket=rig.bucket, Key="a/b c+é")["ContentLength"] == len(DATA)
    rig.client.upload_fileobj(io.BytesIO(DATA * 120), rig.bucket, "parts")
    assert rig.get("parts") == DATA * 120
    assert keys_in(rig.client, rig.bucket) == ["a/b c+é", "parts"]
    rig.client.delete_object(Bucket=rig.bucket, Key="parts")
    with pytest.raises(rig.client.exceptions.NoSuchKey):
        rig.get("parts")
    assert not rig.proxy.refused
    assert rig.proxy.count(lambda asked: asked.is_get) == 4


def test_what_is_altered_on_its_way_is_refused(rig: Rig) -> None:
    """A body that differs from a checksum sent with it is refused, and nothing of it is kept."""
    rig.next(Fault.ALTERED_REQUEST, Fault.ALTERED_REQUEST)
    with pytest.raises(ClientError):
        rig.put("a")
    with pytest.raises(ClientError):
        rig.client.upload_fileobj(io.BytesIO(DATA), rig.bucket, "a")
    with pytest.raises(ClientError, match="BadDigest"):
        rig.put("a", sha256=b64encode(bytes(32)).decode())
    assert sum(rig.proxy.refused.values()) == 3
    assert keys_in(rig.client, rig.bucket) == []


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        (Fault.INTERNAL_ERROR, ClientError, False),
        (Fault.SLOW_DOWN, ClientError, False),
        (Fault.RESET_BEFORE, (ConnectionClosedError, EndpointConnectionError), False),
        (Fault.RESET_AFTER, (ConnectionClosedError, EndpointConnectionError), True),
        (Fault.STALLED, ReadTimeoutError, True),
    ],
)
def test_a_put_fails_before_or_after_it_is_applied(
    rig: Rig, fault: Fault, error: type[Exception] | tuple[type[Exception], ...], applied: bool
) -> None:
    """Each fault of a put shows as it would with S3, and the object is there or is not."""
    rig.next(fault)
    with pytest.raises(error):
        rig.put("a", client=rig.client_for(fault))
    assert keys_in(rig.client, rig.bucket) == (["a"] if applied else [])
    assert rig.proxy.given == {fault: 1}


def test_answers_end_early_stall_or_are_wrong(rig: Rig) -> None:
    """A body of an answer breaks off halfway, stops halfway, or comes with one byte wrong."""
    rig.put("a")
    for fault in (Fault.TRUNCATED, Fault.STALLED):
        rig.next(fault)
        with pytest.raises(BotoCoreError):
            rig.get("a", rig.client_for(fault))
    rig.next(Fault.ALTERED_ANSWER)
    got = rig.client.get_object(Bucket=rig.bucket, Key="a")["Body"]._raw_stream.read()  # type: ignore[attr-defined]  # past the check of boto3
    assert sum(one != other for one, other in zip(got, DATA, strict=True)) == 1


def test_slow_answers_are_late(rig: Rig) -> None:
    """A slow answer comes no sooner than it should, and is right."""
    rig.put("a")
    rig.next(Fault.SLOW)
    begun = time.monotonic()
    assert rig.get("a") == DATA
    assert time.monotonic() - begun >= rig.proxy.slow_s
