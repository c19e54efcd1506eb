"""The policy that an S3 user of this server needs: docs/s3-policy.json, tried with a gateway that enforces it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from stat7store.client import Client
from storage.base import BlobUnavailable
from storage.s3 import S3Blobs
from storage.s3_options import S3Options
from tests.media import large_mp4
from tests.running import RunningServer
from tests.s3_servers import GUEST, OWNER, REGION, S3Server, keys_in, unfinished_in
from tests.storage.contract import fetch, keep

pytestmark = pytest.mark.real

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "s3-policy.json"
OUTSIDE = "some/where-else"


def policy_for(options: S3Options) -> dict[str, Any]:
    """Read the policy as a person would fill it in."""
    text = DOCUMENT.read_text().replace("BUCKET", options.bucket).replace("PREFIX", options.prefix)
    return dict(json.loads(text))


def actions() -> list[str]:
    """Everything that the policy grants."""
    return [action for statement in json.loads(DOCUMENT.read_text())["Statement"] for action in statement["Action"]]


@pytest.fixture
def bucket(rgw_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """A bucket of its owner's; the environment holds the keys of a guest."""
    for name, value in GUEST.environment.items():
        monkeypatch.setenv(name, value)
    with rgw_server.bucket() as options:
        yield options


@pytest.fixture
def grant(rgw_server: S3Server) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that gives the guest a policy."""
    iam = boto3.session.Session(OWNER.access, OWNER.secret, region_name=REGION).client(
        "iam", endpoint_url=rgw_server.endpoint
    )

    def give(policy: dict[str, Any]) -> None:
        iam.put_user_policy(UserName=GUEST.access, PolicyName="blobs", PolicyDocument=json.dumps(policy))

    yield give
    iam.delete_user_policy(UserName=GUEST.access, PolicyName="blobs")
    iam.close()


@pytest.fixture
async def blobs(bucket: S3Options, tmp_path: Path) -> AsyncIterator[S3Blobs]:
    """The guest's store in the bucket."""
    store = S3Blobs(bucket, tmp_path / "spools")
    yield store
    await store.close()


async def test_the_policy_is_enough(
    rgw_server: S3Server, bucket: S3Options, grant: Callable[[dict[str, Any]], None], tmp_path: Path, samples: Path
) -> None:
    """A server whose user has this policy and nothing else stores, serves, deletes and sweeps, large files too."""
    grant(policy_for(bucket))
    large_mp4(tmp_path / "clip.mp4", 20_000_000)
    with RunningServer(tmp_path / "data", workers=1, bucket=bucket, keys=GUEST) as server:
        async with Client(server.url) as client:
            for path in (samples / "rocket.jpg", tmp_path / "clip.mp4"):
                stored = await client.put(path)
                async with client.open(stored.address) as body:
                    assert b"".join([piece async for piece in body]) == path.read_bytes()
            assert len(server.stored()) == 2
            await client.delete(stored.address)
        for _ in range(1200):
            if len(server.stored()) == 1:
                break
            await asyncio.sleep(0.1)
        assert len(server.stored()) == 1
        assert server.stop() == 0


@pytest.mark.parametrize("missing", actions())
async def test_nothing_in_it_is_too_much(
    rgw_server: S3Server,
    bucket: S3Options,
    blobs: S3Blobs,
    grant: Callable[[dict[str, Any]], None],
    missing: str,
) -> None:
    """Without any one of the actions the server cannot check, store, serve or sweep, and says what it needs."""
    owner = rgw_server.client()
    owner.create_multipart_upload(Bucket=bucket.bucket, Key=f"{bucket.folder}{blobs.plan('a' * 64)}")

    async def work() -> None:
        await blobs.check()
        location = await keep(blobs, b"granted")
        assert await fetch(blobs, location) == b"granted"
        await blobs.delete(location)
        await blobs.abort_unfinished(-5)  # the server's clock is in whole seconds

    policy = policy_for(bucket)
    # not only left out: a gateway lets users do as they please with objects of their own
    policy["Statement"].append({"Effect": "Deny", "Action": [missing], "Resource": "arn:aws:s3:::*"})
    grant(policy)
    with pytest.raises(BlobUnavailable, match=missing):
        await work()
    assert len(unfinished_in(owner, bucket.bucket)) == 1
    grant(policy_for(bucket))
    await work()
    assert unfinished_in(owner, bucket.bucket) == []
    left = keys_in(owner, bucket.bucket)
    if missing == "s3:DeleteObject":  # so that the check could not clean up
        left = [key for key in left if not key.startswith(f"{bucket.folder}check.")]
    assert left == []
    owner.close()


def test_what_it_does_not_grant_is_refused(
    rgw_server: S3Server, bucket: S3Options, grant: Callable[[dict[str, Any]], None]
) -> None:
    """Objects beside the prefix, the bucket itself, and other buckets stay out of reach."""
    grant(policy_for(bucket))
    owner, guest = rgw_server.client(), rgw_server.client(GUEST)
    owner.put_object(Bucket=bucket.bucket, Key=OUTSIDE, Body=b"not for guests")
    with rgw_server.bucket() as other:
        refused: list[Callable[[], object]] = [
            lambda: guest.get_object(Bucket=bucket.bucket, Key=OUTSIDE),
            lambda: guest.put_object(Bucket=bucket.bucket, Key=OUTSIDE, Body=b""),
            lambda: guest.delete_object(Bucket=bucket.bucket, Key=OUTSIDE),
            lambda: guest.delete_bucket(Bucket=bucket.bucket),
            lambda: guest.get_bucket_acl(Bucket=bucket.bucket),
            lambda: guest.list_objects_v2(Bucket=other.bucket),
            lambda: guest.put_object(Bucket=other.bucket, Key=f"{other.folder}a", Body=b""),
        ]
        for request in refused:
            with pytest.raises(ClientError, match="AccessDenied"):
                request()
    assert keys_in(owner, bucket.bucket) == [OUTSIDE]
    owner.close()
    guest.close()
