"""The janitor removes what nobody needs any more, leaves alone what lives, and counts and tells of both."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from stat7store.catalog.base import Intent
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Unavailable
from stat7store.folder import BLOBS, CATALOG, SPOOLS
from stat7store.record import Place
from stat7store.server.housekeeping import DEEDS, told
from stat7store.server.janitor import _repeat
from stat7store.server.log import make_log
from stat7store.settings import Settings
from stat7store.store import unix_ms
from storage.base import Location
from storage.file_folders import SPOOL
from storage.filesystem import FilesystemBlobs
from storage.s3_options import S3Options
from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until
from tests.s3_servers import server_of, unfinished_in
from tests.server.test_metrics import scrape, value

READ_AND_WAIT = """
import lmdb, sys
with lmdb.open(sys.argv[1], max_dbs=64) as environment, environment.begin():
    print("reading", flush=True)
    sys.stdin.read()
"""


def counted(server: RunningServer, name: str) -> float:
    """Return a counter of the node."""
    return value(scrape(server), f"stat7_{name}_total")


def events(server: RunningServer) -> list[str]:
    """What the log told so far."""
    return [json.loads(line)["event"] for line in server.log.splitlines()]


def line_of(name: str) -> str:
    """What the log says when this happens."""
    return next(deed.line for deed in DEEDS if deed.name == name)


def wait_until_told(server: RunningServer, name: str, number: int) -> None:
    """Wait until so many were counted; the log must tell of them too."""
    wait_until(lambda: counted(server, name) == number)
    wait_until(lambda: told_of(server, name) >= number)
    assert told_of(server, name) == number


def told_of(server: RunningServer, name: str) -> int:
    """How many of these the log tells of so far; its last line may not be whole."""
    lines = [json.loads(line) for line in server.log.splitlines(keepends=True) if line.endswith("\n")]
    return sum(line["number"] for line in lines if line["event"] == line_of(name))


def orphan(data: Path) -> Path:
    """Return the path of a blob that nothing points at; it is not there yet."""
    name = secrets.token_hex(32)
    return data / BLOBS / name[:3] / f"{name}.{secrets.token_hex(8)}"


@contextmanager
def held(path: Path, content: bytes) -> Iterator[None]:
    """Have a file there for the length of the context, locked as an upload locks it; it stays, unlocked.

    It is locked before it gets its name: the janitor, which may look at any time, never sees it without its lock.
    """
    outside = path.parent.parent.parent / f"{secrets.token_hex(8)}.aside"
    with outside.open("xb") as file:
        file.write(content)
        fcntl.flock(file, fcntl.LOCK_EX)
        outside.rename(path)
        yield


def connection_to(server: RunningServer) -> HTTPConnection:
    """Return a connection."""
    return HTTPConnection(server.url.removeprefix("http://"), timeout=30)


def test_garbage_and_orphans_go_and_what_lives_stays(tmp_path: Path) -> None:
    """A deleted file's blob goes in a moment, an orphan at the next sweep; one that an upload holds stays."""
    photo = distinct_jpeg(sample("rocket.jpg").read_bytes(), 1)
    with RunningServer(tmp_path / "data", "--sweep-every=0.5", workers=1) as server:
        connection = connection_to(server)
        connection.request("POST", "/v1/files", body=photo)
        address = json.loads(connection.getresponse().read())["address"]
        connection.request("DELETE", f"/v1/files/{address}")
        assert connection.getresponse().status == 204
        connection.close()
        wait_until_told(server, "garbage_deleted", 1)
        dead, living = orphan(server.data), orphan(server.data)
        with held(living, b"living"):
            dead.write_bytes(b"dead")
            wait_until_told(server, "orphans_found", 1)
            wait_until(lambda: not dead.exists())
            assert living.exists()
        wait_until_told(server, "orphans_found", 2)
        wait_until(lambda: not living.exists())
        wait_until_told(server, "garbage_deleted", 3)


@pytest.mark.parametrize("bucket", ["filesystem", "s3"], indirect=True)
def test_spools_of_dead_processes_go(tmp_path: Path, bucket: S3Options | None) -> None:
    """A named spool that nobody holds is removed while the server runs; one that an upload holds stays."""
    with RunningServer(tmp_path / "data", "--sweep-every=0.5", bucket=bucket, workers=1) as server:
        folder = server.data / BLOBS / SPOOL if bucket is None else server.data / SPOOLS
        living = folder / secrets.token_hex(16)
        with held(living, b"half an upl"):
            dead = folder / secrets.token_hex(16)
            dead.write_bytes(b"half an upl")
            wait_until_told(server, "uploads_expired", 1)
            assert not dead.exists()
            assert living.exists()
        wait_until_told(server, "uploads_expired", 2)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
async def test_intents_and_unfinished_uploads_expire_on_s3(tmp_path: Path, bucket: S3Options) -> None:
    """Intents older than the timeout are withdrawn, younger ones kept; multipart uploads nobody ends are dropped."""
    client = server_of(bucket).client()
    flags = ("--sweep-every=0.5", "--intent-timeout=60")
    with RunningServer(tmp_path / "data", *flags, bucket=bucket, workers=1) as server:
        catalog = LmdbCatalog(server.data / CATALOG)
        now = unix_ms()
        for age_s in (61, 100_000, 0):
            place = Place(Location(secrets.token_hex(32), secrets.token_bytes(8)), 0)
            await catalog.intend(Intent(place, now - age_s * 1000, "a test"))
        name = secrets.token_hex(32)
        key = f"{bucket.folder}{name[:3]}/{name}.{secrets.token_hex(8)}"
        client.create_multipart_upload(Bucket=bucket.bucket, Key=key)
        await asyncio.to_thread(wait_until_told, server, "intents_expired", 2)
        await asyncio.to_thread(wait_until_told, server, "uploads_expired", 1)
        assert unfinished_in(client, bucket.bucket) == []
        assert [intent.since for intent in await catalog.intents(unix_ms() + 1)] == [now]
        await catalog.close()
    client.close()


def test_stale_readers_are_cleared(tmp_path: Path) -> None:
    """A read transaction that a killed process left is cleared, counted and told."""
    with RunningServer(tmp_path / "data", workers=1):
        pass
    folder = tmp_path / "data" / CATALOG
    # as long as one process has the catalog open, what another left in its lock file stays
    with subprocess.Popen(
        [sys.executable, "-c", READ_AND_WAIT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as staying:
        assert staying.stdout is not None
        staying.stdout.readline()
        with subprocess.Popen(
            [sys.executable, "-c", READ_AND_WAIT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as dying:
            assert dying.stdout is not None
            dying.stdout.readline()
            dying.kill()
        with RunningServer(tmp_path / "data", workers=1) as server:
            wait_until_told(server, "stale_readers", 1)
        staying.kill()


def test_a_map_that_grows_is_told(tmp_path: Path) -> None:
    """Uploads go on while the memory map grows under them; each time is counted, and told in the log."""
    base = sample("rocket.jpg").read_bytes()
    with RunningServer(tmp_path / "data", "--map-size=1MiB", workers=1) as server:
        connection = connection_to(server)
        for number in range(5000):
            connection.request("POST", "/v1/files", body=distinct_jpeg(base, number), headers={"X-Filename": "n" * 250})
            response = connection.getresponse()
            assert response.status == 201, response.read()
            response.read()
            if number % 50 == 0 and counted(server, "map_growths"):
                break
        connection.close()
        grown = counted(server, "map_growths")
        assert grown > 0
        wait_until(lambda: line_of("map_growths") in events(server))
        assert value(scrape(server), "stat7_catalog_map_bytes") >= 2 * 1024**2


def test_a_scrub_is_counted(tmp_path: Path) -> None:
    """Files and bytes that a scrub read, and the damage it found, show in the metrics."""
    photos = [distinct_jpeg(sample("rocket.jpg").read_bytes(), number) for number in range(3)]
    with RunningServer(tmp_path / "data", workers=1) as server:
        connection = connection_to(server)
        for photo in photos:
            connection.request("POST", "/v1/files", body=photo)
            address = json.loads(connection.getresponse().read())["address"]
        connection.close()
    blob = next((tmp_path / "data" / BLOBS).glob(f"???/{address}.*"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with RunningServer(tmp_path / "data", "--scrub-every=30d", workers=1) as server:
        wait_until(lambda: counted(server, "scrubbed_files") == 3)
        assert counted(server, "scrubbed_bytes") == sum(map(len, photos))
        assert counted(server, "scrub_damages") == 1
        assert value(scrape(server), "stat7_damaged_files") == 1


@pytest.mark.parametrize("kind", [Unavailable, OSError, ValueError])
async def test_a_chore_that_fails_is_tried_again(kind: type[Exception], capfd: pytest.CaptureFixture[str]) -> None:
    """Each failure, also an unforeseen one, is counted; the log tells of it once while the reason is the same."""
    stop = asyncio.Event()
    counts: Counter[str] = Counter()
    reasons = iter(("no", "no", "no", "never"))

    async def chore() -> None:
        reason = next(reasons, None)
        if reason is None:
            stop.set()
            return
        raise kind(reason)

    await _repeat(chore, 0.001, stop, make_log(Settings(log_format="json")), counts)
    assert counts["chore_failures"] == 4
    told_lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["reason"] for line in told_lines] == ["no", "never"]


def test_only_what_is_new_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """A line tells of what happened since the last one; without news there is none."""
    counts = {"garbage_deleted": 0}
    tell = told(lambda: counts, make_log(Settings(log_format="json")))
    for number in (0, 3, 3, 5):
        counts["garbage_deleted"] = number
        assert tell() == {"garbage_deleted": number}
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["number"], line["level"]) for line in lines] == [
        ("garbage deleted", 3, "info"),
        ("garbage deleted", 2, "info"),
    ]


async def test_a_spool_of_a_living_upload_outlives_any_sweep(tmp_path: Path) -> None:
    """Even a sweep that takes everything for old leaves the spools of living uploads alone."""
    FilesystemBlobs.create(tmp_path)
    blobs = FilesystemBlobs(tmp_path)
    spool = await blobs.spool()
    spool.append(b"half")
    (tmp_path / SPOOL / "dead").touch()
    assert await blobs.abort_unfinished(0.0) == 1
    assert os.listdir(tmp_path / SPOOL) == []
    spool.append(b" and whole")
    location = await blobs.put(spool, "0" * 64)
    assert await blobs.stat(location) == len(b"half and whole")
    spool.close()
    await blobs.close()
