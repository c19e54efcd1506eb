"""The server on an S3 bucket: the same API, timed and counted as such, and clear words where it cannot start."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import pytest

from stat7store.client import Client
from stat7store.errors import NotFound
from storage.s3_options import S3Options
from tests.running import RunningServer, recorded, wait_until
from tests.s3_servers import OWNER, S3Server, flags_for, keys_in
from tests.server.test_lifecycle import fetch, serve_in_vain, stats_of, upload

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """A bucket of its own for each test, and in the environment what opens it."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with moto_server.bucket() as options:
        yield options


def blobs_in(s3: S3Client, bucket: S3Options) -> list[str]:
    """Return the keys of all blobs; beside them there is the name of the store that owns them."""
    owner, *blobs = sorted(keys_in(s3, bucket.bucket), reverse=True)
    assert owner == f"{bucket.prefix}/owner"
    return blobs


@pytest.fixture
async def client(tmp_path: Path, bucket: S3Options) -> AsyncIterator[Client]:
    """A client of a server on a bucket."""
    with RunningServer(tmp_path / "data", *flags_for(bucket), workers=2) as server:
        async with Client(server.url) as client:
            yield client


async def test_a_file_lives_on_s3(client: Client, bucket: S3Options, moto_server: S3Server, samples: Path) -> None:
    """A file is one object of the bucket; it comes back whole and in ranges, and its object goes with it."""
    path = samples / "astronaut.png"
    data = path.read_bytes()
    stored = await client.put(path)
    s3 = moto_server.client()
    (key,) = blobs_in(s3, bucket)
    assert key.startswith(f"{bucket.prefix}/{stored.address[:3]}/{stored.address}.")
    async with client.open(stored.address) as body:
        assert b"".join([piece async for piece in body]) == data
    retrieval = body.retrieval
    assert retrieval is not None
    timing = await recorded(client, retrieval.request_id)
    assert (timing.source, timing.backend, timing.status, timing.bytes) == ("s3", "s3", 200, len(data))
    assert 0 < timing.disk_first_ms <= timing.disk_ms
    assert timing.network_ms > 0
    assert not (await client.put(path)).created
    async with aiohttp.ClientSession() as session:
        address = f"{client.url}/v1/files/{stored.address}"
        async with session.get(address, headers={"Range": "bytes=1000-1999"}) as response:
            assert (response.status, await response.read()) == (206, data[1000:2000])
        async with session.head(address) as response:
            assert (response.status, response.content_length) == (200, len(data))
    stats = await client.stats()
    assert stats.backend == "s3"
    assert stats.backend_counters["s3_requests"] >= 1
    await client.delete(stored.address)
    wait_until(lambda: blobs_in(s3, bucket) == [])
    s3.close()


async def test_all_processes_are_counted(client: Client, samples: Path) -> None:
    """Whichever worker answers, the statistics soon hold the requests of all of them."""
    stored = await client.put(samples / "rocket.jpg")
    size = (samples / "rocket.jpg").stat().st_size
    for _ in range(8):
        async with Client(client.url) as other, other.open(stored.address) as body:
            async for _ in body:
                pass
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        async with Client(client.url) as other:
            counted = (await other.stats()).backend_counters
        if counted["s3_bytes_in"] >= 8 * size:
            break
        await asyncio.sleep(0.05)
    assert counted["s3_bytes_in"] >= 8 * size
    assert counted["s3_bytes_out"] >= size


async def test_a_cache_stands_in_front(tmp_path: Path, bucket: S3Options, samples: Path) -> None:
    """With --cache-dir the second GET comes from the cache, sent from its file, and a deleted file is not served."""
    path = samples / "astronaut.png"
    data = path.read_bytes()
    flags = [*flags_for(bucket), f"--cache-dir={tmp_path / 'cache'}", "--cache-size=100MB"]
    with RunningServer(tmp_path / "data", *flags, workers=2) as server:
        async with Client(server.url) as client:
            stored = await client.put(path)
            sources = []
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                async with client.open(stored.address) as body:
                    assert b"".join([piece async for piece in body]) == data
                assert body.retrieval is not None
                timing = await recorded(client, body.retrieval.request_id)
                sources.append((timing.source, timing.backend))
                if sources[-1] == ("cache", "s3"):
                    break
            assert sources[0] == ("s3", "s3")
            assert sources[-1] == ("cache", "s3")
            while time.monotonic() < deadline:  # as soon as a worker has compared it with its name
                assert (await client.get(stored.address)).data == data
                if (await client.stats()).counters["fast_lane"]:
                    break
            assert (await client.stats()).counters["fast_lane"] > 0
            counters = (await client.stats()).backend_counters
            assert counters["cache_misses"] >= 1
            await client.delete(stored.address)
            with pytest.raises(NotFound):
                await client.get(stored.address)


def test_the_bucket_is_remembered(tmp_path: Path, bucket: S3Options, samples: Path) -> None:
    """A server that is started again goes on with the bucket without being told, and no credentials are kept."""
    data = (samples / "rocket.jpg").read_bytes()
    with RunningServer(tmp_path / "data", *flags_for(bucket), workers=1) as server:
        assert upload(server.url, data) == 201
    kept = (tmp_path / "data" / "stat7.json").read_text()
    assert json.loads(kept)["backends"]["0"]["url"] == f"s3://{bucket.bucket}/{bucket.prefix}"
    assert OWNER.secret not in kept
    with RunningServer(tmp_path / "data", workers=1) as server:
        assert upload(server.url, data) == 200
        assert stats_of(server)["backend"] == "s3"
    with RunningServer(tmp_path / "data", "--blobs=filesystem", workers=1) as server:
        assert stats_of(server)["backend"] == "filesystem"
        assert upload(server.url, data) == 200  # it is there, on the other backend
        other = (samples / "coffee.png").read_bytes()
        assert upload(server.url, other) == 201
        assert len(list((tmp_path / "data" / "blobs").glob("???/*"))) == 1
        for address in (entry["address"] for entry in _files(server)):
            assert len(fetch(server.url, address)) in (len(data), len(other))


def _files(server: RunningServer) -> list[dict[str, str]]:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/v1/files")
    found: list[dict[str, str]] = json.loads(connection.getresponse().read())["files"]
    connection.close()
    return found


def test_a_missing_bucket_is_told_before_anything_serves(tmp_path: Path, bucket: S3Options) -> None:
    """A bucket that is not there is one clear line and a non-zero exit; the store does not remember it."""
    flags = flags_for(bucket)
    said = serve_in_vain("--data", str(tmp_path / "data"), "--port=0", "--blobs=s3://no-such-bucket/x", *flags[1:])
    assert "no-such-bucket" in said
    assert json.loads((tmp_path / "data" / "stat7.json").read_text())["backends"] == {}
    with RunningServer(tmp_path / "data", workers=1) as server:
        assert stats_of(server)["backend"] == "filesystem"


def test_a_cache_that_cannot_be_is_told(tmp_path: Path, bucket: S3Options) -> None:
    """A cache where there can be no folder is refused at the start, by name."""
    (tmp_path / "file").write_text("no folder")
    flags = [*flags_for(bucket), f"--cache-dir={tmp_path / 'file'}"]
    assert "the cache cannot be in" in serve_in_vain("--data", str(tmp_path / "data"), "--port=0", *flags)


def test_two_stores_do_not_share_a_bucket(tmp_path: Path, bucket: S3Options, samples: Path) -> None:
    """A bucket is one store's: another is refused before its sweeper could take the first one's files for orphans."""
    data = (samples / "rocket.jpg").read_bytes()
    with RunningServer(tmp_path / "data", *flags_for(bucket), workers=1) as server:
        assert upload(server.url, data) == 201
        said = serve_in_vain("--data", str(tmp_path / "other"), "--port=0", *flags_for(bucket))
        assert "it is another store's" in said
        assert f"delete the object {bucket.prefix}/owner" in said
    elsewhere = dataclasses.replace(bucket, prefix="else/where")
    with RunningServer(tmp_path / "other", *flags_for(elsewhere), workers=1) as server:
        assert upload(server.url, data) == 201


def test_a_lost_catalog_is_told(tmp_path: Path, bucket: S3Options, samples: Path) -> None:
    """Without its catalog a store does not start: its sweeper would take all objects of the bucket for orphans."""
    with RunningServer(tmp_path / "data", *flags_for(bucket), workers=1) as server:
        assert upload(server.url, (samples / "rocket.jpg").read_bytes()) == 201
    shutil.rmtree(tmp_path / "data" / "catalog")
    assert "stat7store rebuild" in serve_in_vain("--data", str(tmp_path / "data"), "--port=0", *flags_for(bucket))


def test_missing_credentials_are_told(tmp_path: Path, bucket: S3Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the server does not start, and says where they are looked for."""
    for name in OWNER.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    said = serve_in_vain("--data", str(tmp_path / "data"), "--port=0", *flags_for(bucket))
    assert "credentials" in said


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--blobs=ftp://somewhere", "--blobs"),
        ("--s3-endpoint=somewhere", "--s3-endpoint"),
        ("--s3-endpoint=http://key:secret@host", "credentials"),
        ("--s3-sse=rot13", "--s3-sse"),
    ],
)
def test_bad_flags_are_named(tmp_path: Path, flag: str, says: str) -> None:
    """A value that cannot work is refused by the name of its flag."""
    assert says in serve_in_vain("--data", str(tmp_path / "data"), flag)


async def test_clients_can_be_sent_to_s3(tmp_path: Path, bucket: S3Options, samples: Path) -> None:
    """With --redirect a GET is answered with a URL of S3, which has the bytes, their type and their name."""
    path = samples / "astronaut.png"
    data = path.read_bytes()
    with RunningServer(tmp_path / "data", *flags_for(bucket), "--redirect", workers=1) as server:
        async with Client(server.url) as client, aiohttp.ClientSession() as session:
            stored = await client.put(path)
            address = f"{server.url}/v1/files/{stored.address}"
            asked = {"X-Request-ID": "redirected"}
            async with session.get(address, headers=asked, allow_redirects=False) as response:
                assert response.status == 307
                assert response.headers["Cache-Control"] == "no-store"
                assert urlsplit(response.headers["Location"]).netloc == urlsplit(str(bucket.endpoint_url)).netloc
            timing = await recorded(client, "redirected")
            assert (timing.status, timing.bytes, timing.source, timing.backend) == (307, 0, "s3", "s3")
            assert timing.disk_ms > 0
            async with session.get(f"{address}?download", headers={"Range": "bytes=5-9"}) as response:
                assert (response.status, await response.read()) == (206, data[5:10])
                assert response.content_type == "image/png"
                assert response.content_disposition is not None
                assert response.content_disposition.type == "attachment"
                assert response.content_disposition.filename == "astronaut.png"
            async with session.head(address, allow_redirects=False) as response:
                assert (response.status, response.content_length) == (200, len(data))
            async with session.get(address, headers={"Sec-Fetch-Site": "same-origin"}) as response:
                assert (response.history, await response.read()) == ((), data)  # the page loads from here only
            async with session.get(address, headers={"If-None-Match": f'"{stored.address}"'}) as response:
                assert response.status == 304
            async with client.open(stored.address) as body:
                assert b"".join([piece async for piece in body]) == data
            assert (await client.metadata(stored.address)).size == len(data)


def test_a_store_in_files_needs_no_boto3(tmp_path: Path) -> None:
    """A server without S3 never imports boto3, which takes long and much memory."""
    program = """
import asyncio, sys
from pathlib import Path
import stat7store.server.supervisor, stat7store.migrating
from stat7store.opening import open_store, prepare
from stat7store.settings import load_settings
async def main():
    settings = load_settings(data=Path(sys.argv[1]))
    prepare(settings)
    async with open_store(settings) as store:
        await store.check()
        await store.sweep_orphans()
asyncio.run(main())
print([name for name in sys.modules if name.split(".")[0] in ("boto3", "botocore")])
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
