"""RADOS Gateway, Ceph's server of S3, before a cluster of one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
from botocore.config import Config

from scripts.peers.files import MIB, File
from scripts.peers.install import find
from scripts.peers.processes import CHECKOUT, output_of, pinned
from scripts.peers.work import Writing
from stat7store.errors import Unavailable

_SCRIPT = CHECKOUT / "scripts" / "rgw.sh"
_BUCKET = "peers"

_WRITING = Writing("PUT", f"/{_BUCKET}/{{label}}")


@dataclass(frozen=True)
class Gateway:
    """What ``scripts/rgw.sh`` starts. Its bucket is open to all, so that no request need be signed."""

    name: str = "rgw"
    durable: bool = False
    remark: str = "RADOS Gateway before one object server that keeps all in memory; open bucket, unsigned requests"
    path: str = f"/{_BUCKET}/{{address}}"
    writing: Writing | None = _WRITING
    most_written: int = 32 * MIB  # it has 3 GiB for all

    def missing(self) -> str | None:
        if not _SCRIPT.exists():
            return f"this tree has no {_SCRIPT.relative_to(CHECKOUT)}, which starts it"
        if not all(map(find, ("radosgw", "ceph-mon", "ceph-osd", "ceph", "curl"))):
            return "apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common curl"
        return None

    def version(self) -> str:
        return (output_of([find("radosgw"), "--version"]).split() or ["", "", ""])[2]

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        folder.mkdir()
        return False

    @contextmanager
    def serving(self, folder: Path, port: int, workers: int, cores: Sequence[int]) -> Iterator[list[psutil.Process]]:
        """Start it anew: what it kept in memory is gone with it."""
        cluster = folder / "cluster"
        up = pinned([str(_SCRIPT), "up", str(cluster), str(port)], cores)
        try:
            done = subprocess.run(up, capture_output=True, text=True, check=False, start_new_session=True)
            if done.returncode != 0:
                raise Unavailable(f"RADOS Gateway did not start: {done.stderr.strip()[-500:]}")
            _open_bucket(done.stdout.strip())
            yield list(_processes(cluster))
        finally:
            subprocess.run([str(_SCRIPT), "down", str(cluster)], check=False, start_new_session=True)

    def blobs(self, folder: Path) -> Path | None:
        return None


def _open_bucket(url: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="testtest",  # noqa: S106 - the test user that the script makes
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=_BUCKET)
    everyone = {"AWS": ["*"]}
    statement = {"Effect": "Allow", "Principal": everyone, "Action": "s3:*", "Resource": f"arn:aws:s3:::{_BUCKET}/*"}
    client.put_bucket_policy(Bucket=_BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def _processes(cluster: Path) -> Iterator[psutil.Process]:
    for file in cluster.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            yield psutil.Process(int(file.read_text()))
