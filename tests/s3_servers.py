"""Real S3 servers for tests: moto in this process, and a RADOS Gateway; a bucket of its own for each test."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
import pytest

from storage.s3_options import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

REGION = "us-east-1"
_SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "rgw.sh"
_COMMANDS = ("ceph", "ceph-mon", "ceph-osd", "curl", "radosgw")
_PACKAGES = "ceph-mon ceph-osd radosgw ceph-common curl"


class Keys(NamedTuple):
    """Credentials of an S3 user."""

    access: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables in which boto3 looks for them first."""
        return {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": REGION}


# The users that scripts/rgw.sh makes; moto takes anyone.
OWNER = Keys("test", "testtest")
GUEST = Keys("guest", "guestguest")


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server."""

    name: str
    endpoint: str

    def client(self, keys: Keys = OWNER) -> S3Client:
        """Return a client of boto3's own; whoever asked for it closes it."""
        client: S3Client = boto3.session.Session(keys.access, keys.secret, region_name=REGION).client(
            "s3", endpoint_url=self.endpoint
        )
        return client

    @contextmanager
    def bucket(self, prefix: str = "some/where") -> Iterator[S3Options]:
        """Make a new bucket, and remove it with all that is in it at the end."""
        options = replace(
            S3Options.parse(f"s3://blobs-{secrets.token_hex(6)}/{prefix}"),
            endpoint_url=self.endpoint,
            region=REGION,
            path_style=True,
        )
        client = self.client()
        try:
            client.create_bucket(Bucket=options.bucket)
            yield options
            _remove(client, options.bucket)
        finally:
            client.close()


def keys_in(client: S3Client, bucket: str) -> list[str]:
    """Return the keys of all objects in a bucket, in order."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def unfinished_in(client: S3Client, bucket: str) -> list[str]:
    """Return the keys of all multipart uploads that were begun in a bucket, and neither completed nor aborted."""
    return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


def _remove(client: S3Client, bucket: str) -> None:
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for key in keys_in(client, bucket):
        client.delete_object(Bucket=bucket, Key=key)
    client.delete_bucket(Bucket=bucket)


@contextmanager
def moto() -> Iterator[S3Server]:
    """Run moto's S3 server in threads of this process. All that run in one process share their buckets."""
    from moto.server import ThreadedMotoServer  # it takes a second

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # one line for each request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server("moto", f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def rgw(folder: Path) -> Iterator[S3Server]:
    """Run a RADOS Gateway in a new folder. It ends with the context, and also if this process is killed.

    Where its packages are missing the test is skipped, and in CI it fails.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [command for command in _COMMANDS if shutil.which(command, path=path) is None]
    if missing:
        told = f"{', '.join(missing)} missing; on Debian: apt-get install --no-install-recommends {_PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    # It waits for the end of its input, which comes however this process ends.
    script = 'trap "" INT TERM; "$0" up "$1" && cat >"$1/input"; exec "$0" down "$1"'
    with subprocess.Popen(
        ["bash", "-c", script, str(_SCRIPT), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint, process.stderr.read()
        yield S3Server("rgw", endpoint)


def server_of(options: S3Options) -> S3Server:
    """Return the server that a bucket is on."""
    return S3Server("any", options.endpoint_url or "")


def flags_for(options: S3Options) -> list[str]:
    """Return the flags of a server whose new files go to a bucket."""
    return [
        f"--blobs=s3://{options.bucket}/{options.prefix}",
        f"--s3-endpoint={options.endpoint_url}",
        f"--s3-region={REGION}",
        "--s3-path-style",
    ]
