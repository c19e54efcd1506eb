"""Moving a store's files to another backend: verified, resumable, while it serves; nothing is lost on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from stat7store.address import Address
from stat7store.backends import Backends
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, NoSpace, Stat7Error, Unavailable
from stat7store.keeping import Keeper
from stat7store.migrating import Migration, Moves
from stat7store.room import Room
from storage.base import BlobStore, BlobUnavailable, BlobUnreadable, Location, Reader, Span, Spool
from storage.memory import MemoryBlobs
from storage.s3_options import S3Options
from tests.media import distinct_jpeg, sample
from tests.planned import PlannedBlobs
from tests.running import RunningServer, wait_until
from tests.s3_servers import OWNER, REGION, S3Server, keys_in
from tests.server.test_lifecycle import fetch, stats_of, upload
from tests.test_backends import Rig, get, put

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Everything empty."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    yield Rig(catalog)
    await catalog.close()


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A real photograph."""
    return sample("rocket.jpg").read_bytes()


def migration_to(
    rig: Rig,
    target: int,
    failed: list[Address] | None = None,
    source: int | None = None,
    room: Room | None = None,
    **others: BlobStore,
) -> Migration:
    """Return a migration of the rig's files to one of its backends."""
    backends = Backends({0: others.get("local", rig.local), 1: others.get("remote", rig.remote)}, target)
    keeper = Keeper(rig.catalog, backends, now=lambda: rig.now, owner="a migration")

    def tell(address: Address, error: Stat7Error) -> None:
        if failed is not None:
            failed.append(address)

    return Migration(rig.catalog, backends, keeper, source=source, jobs=4, failed=tell, room=room)


async def test_files_move_there_and_back(rig: Rig, photo: bytes) -> None:
    """All files are on the target then, with all that is known of them; nothing is left where they were."""
    files = [distinct_jpeg(photo, number) for number in range(20)]
    for data in files:
        await put(rig.store(0), data)
    before = [(await rig.store(0).entry(Address.of(data))).record for data in files]
    for target in (1, 0):
        store = rig.store(target)
        migration = migration_to(rig, target)
        await migration.run()
        size = sum(map(len, files))
        assert migration.moves == Moves(20, size, 20, size, size)
        here, there = (rig.remote.blobs, [each async for each in rig.local.list()])
        assert (len(here), len(there)) == ((20, 0) if target else (0, 20))
        assert [await get(store, Address.of(data)) for data in files] == files
        assert [(await store.entry(Address.of(data))).record for data in files] == before
        assert (await store.counters()).garbage == 0
        assert await rig.catalog.intents(1 << 60) == []
        again = migration_to(rig, target)
        await again.run()
        assert again.moves == Moves()


async def test_only_one_source_moves_if_it_is_named(rig: Rig, photo: bytes) -> None:
    """With a source, files on other backends stay where they are."""
    await put(rig.store(0), photo)
    migration = migration_to(rig, 1, source=7)
    await migration.run()
    assert (migration.moves.files, migration.moves.moved, rig.remote.blobs) == (0, 0, {})


async def test_a_migration_stops_before_the_disk_is_full(rig: Rig, photo: bytes, tmp_path: Path) -> None:
    """What does not fit stays where it is, and is read there; with more room it moves."""
    await put(rig.store(0), photo)
    with pytest.raises(NoSpace, match="--min-free"):
        await migration_to(rig, 1, room=Room([tmp_path], min_free=1 << 60)).run()
    assert rig.remote.blobs == {}
    assert await get(rig.store(0), Address.of(photo)) == photo
    migration = migration_to(rig, 1, room=Room([tmp_path], min_free=0))
    await migration.run()
    assert migration.moves.moved == 1


async def test_what_is_damaged_stays_and_is_marked(rig: Rig, photo: bytes) -> None:
    """Wrong bytes are never moved: the file is told of, marked, refused from then on, and heals by an upload."""
    rotten, lost, whole = (distinct_jpeg(photo, number) for number in range(3))
    store = rig.store(0)
    for data in (rotten, lost, whole):
        await put(store, data)
    bad = (await store.entry(Address.of(rotten))).locator.location
    rig.local._blobs[bad] = rotten[:-1] + b"?"  # behind its back
    await rig.local.delete((await store.entry(Address.of(lost))).locator.location)
    failed: list[Address] = []
    migration = migration_to(rig, 1, failed)
    await migration.run()
    assert (migration.moves.moved, migration.moves.failed) == (1, 2)
    assert set(failed) == {Address.of(rotten), Address.of(lost)}
    with pytest.raises(Damaged):
        await get(store, Address.of(rotten))
    await put(rig.store(1), rotten)
    assert await get(store, Address.of(rotten)) == rotten


async def test_what_the_disk_cannot_read_stays_and_is_marked(
    rig: Rig, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector costs one file, and does not stop the others; a disk that fails as a whole stops everything."""
    store = rig.store(0)
    bad, *others = (distinct_jpeg(photo, number) for number in range(3))
    for data in (bad, *others):
        await put(store, data)
    broken = (await store.entry(Address.of(bad))).locator.location
    opened = rig.local.open

    async def fail(location: Location, span: Span | None = None) -> Reader:
        if location == broken:
            raise BlobUnreadable("Input/output error")
        return await opened(location, span)

    async def fail_too() -> NoReturn:
        raise BlobUnavailable("Input/output error")

    monkeypatch.setattr(rig.local, "open", fail)
    with monkeypatch.context() as dead:
        dead.setattr(rig.local, "check", fail_too)
        with pytest.raises(Unavailable):
            await migration_to(rig, 1).run()
    failed: list[Address] = []
    await migration_to(rig, 1, failed).run()
    assert failed == [Address.of(bad)]
    assert (await store.entry(Address.of(bad))).locator.damaged
    for data in others:
        assert (await store.entry(Address.of(data))).locator.backend == 1


class Deleting(MemoryBlobs):
    """Calls back when a blob was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.leave = asyncio.Event()
        self.leave.set()

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        reader = await super().open(location, span)
        self.opened.set()
        await self.leave.wait()
        return reader


async def test_what_is_deleted_meanwhile_stays_deleted(rig: Rig, photo: bytes) -> None:
    """A file that is deleted while it is copied does not come back, and its copy is swept."""
    rig.local = local = Deleting()
    store = rig.store(0)
    await put(store, photo)
    local.leave.clear()
    migration = migration_to(rig, 1)
    running = asyncio.create_task(migration.run())
    await local.opened.wait()
    await store.delete(Address.of(photo))
    local.leave.set()
    await running
    assert (migration.moves.moved, migration.moves.gone) == (0, 1)
    assert not await store.present([Address.of(photo)])
    assert rig.remote.blobs == {}


class Failing(PlannedBlobs):
    """Takes some blobs, and then no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    async def put_at(self, spool: Spool, location: Location) -> None:
        if len(self.blobs) >= self.most:
            self.down = True
        await super().put_at(spool, location)


async def test_a_target_that_fails_stops_it_and_it_goes_on(rig: Rig, photo: bytes) -> None:
    """When the target takes no more the migration ends with its error; run again it takes only the rest."""
    files = [distinct_jpeg(photo, number) for number in range(12)]
    for data in files:
        await put(rig.store(0), data)
    remote = Failing(5)
    with pytest.raises(Unavailable, match="down"):
        await migration_to(rig, 1, remote=remote).run()
    remote.most, remote.down = 100, False
    again = migration_to(rig, 1, remote=remote)
    await again.run()
    assert again.moves.moved == again.moves.files == 7
    assert len(remote.blobs) == 12
    store = rig.store(1, remote=remote)
    assert [await get(store, Address.of(data)) for data in files] == files


async def test_a_cancelled_migration_leaves_nothing_half_done(rig: Rig, photo: bytes) -> None:
    """Ctrl-C in the midst of a copy withdraws its intent; every file is served from where it is."""
    rig.local = local = Deleting()
    await put(rig.store(0), photo)
    local.leave.clear()
    running = asyncio.create_task(migration_to(rig, 1).run())
    await local.opened.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    local.leave.set()
    assert await rig.catalog.intents(1 << 60) == []
    assert await get(rig.store(0), Address.of(photo)) == photo


# The command, on a real server of S3


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """A bucket of its own for each test, and in the environment what opens it."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with moto_server.bucket() as options:
        yield options


def migrating(data: Path, bucket: S3Options | None, *flags: str) -> subprocess.Popen[str]:
    """Start ``stat7store migrate`` to a bucket, or back."""
    where = ["--to=filesystem"]
    if bucket is not None:
        where = [f"--to=s3://{bucket.bucket}/{bucket.prefix}", f"--s3-endpoint={bucket.endpoint_url}"]
        where += [f"--s3-region={REGION}", "--s3-path-style"]
    return subprocess.Popen(
        [sys.executable, "-m", "stat7store", "migrate", str(data), *where, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Verifier(threading.Thread):
    """Fetches files again and again while they move, and compares every byte."""

    def __init__(self, url: str, files: list[bytes]) -> None:
        super().__init__()
        self._url = url
        self._files = files
        self.stop = threading.Event()
        self.fetched = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        """Fetch until told to stop."""
        while not self.stop.is_set():
            data = self._files[self.fetched % len(self._files)]
            try:
                if fetch(self._url, str(Address.of(data))) != data:
                    self.wrong.append("other bytes")
            except Exception as error:
                self.wrong.append(repr(error))
            self.fetched += 1


def test_a_store_moves_while_it_serves_and_through_kills(
    tmp_path: Path, bucket: S3Options, moto_server: S3Server, photo: bytes, soak: bool
) -> None:
    """To S3 and back with a server running, killed in the midst and run again: every fetch gets the right bytes,
    and in the end every file is on the target, once.
    """
    files = [distinct_jpeg(photo, number) for number in range(400 if soak else 200)]
    data, s3 = tmp_path / "data", moto_server.client()
    with RunningServer(data, workers=1) as server:
        for each in files:
            assert upload(server.url, each) == 201
        verifier = Verifier(server.url, files)
        verifier.start()
        for target in (bucket, None):
            process = _halted_in_the_midst(data, s3, bucket, target, len(files))
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            process = migrating(data, target, "--json")
            output, problems = process.communicate()
            assert process.returncode == 0, problems
            summary = json.loads(output)
            assert summary["moved"] == summary["files"] > 0
            assert summary["failed"] == 0
        fetched = verifier.fetched
        wait_until(lambda: verifier.fetched > fetched + len(files), 120)
        verifier.stop.set()
        verifier.join()
        assert verifier.wrong == []
        wait_until(lambda: stats_of(server)["garbage"] == 0)
        assert stats_of(server)["files"] == len(files)
    # those that were killed left intents and perhaps blobs, which are swept once they are stale
    with RunningServer(data, "--intent-timeout=0.001", "--sweep-every=0.2", workers=1) as server:
        wait_until(lambda: keys_in(s3, bucket.bucket) == [f"{bucket.prefix}/owner"])
        wait_until(lambda: len(_kept(data, s3, bucket, None)) == len(files))
        assert [fetch(server.url, str(Address.of(each))) for each in files] == files
    s3.close()


def _halted_in_the_midst(
    data: Path, s3: S3Client, bucket: S3Options, target: S3Options | None, count: int, *flags: str
) -> subprocess.Popen[str]:
    """Begin to move all ``count`` files to the target, and stop that (SIGSTOP) once some are there, and some not.

    On a busy machine it may be over before it is looked at; then all are moved back, and moved again.
    """
    for _ in range(5):
        before = _kept(data, s3, bucket, target)  # what was moved away from there may not be swept yet
        process = migrating(data, target, "--jobs=1", *flags)

        def moved(before: set[str] = before) -> int:
            return len(_kept(data, s3, bucket, target) - before)

        while moved() < 3 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGSTOP)
        if process.poll() is None and moved() < count:
            return process
        process.kill()
        process.communicate()
        for place in (target, None if target else bucket):
            again = migrating(data, place)
            _, problems = again.communicate()
            assert again.returncode == 0, problems
    raise AssertionError("no migration was met in the midst of its work")


def _kept(data: Path, s3: S3Client, bucket: S3Options, target: S3Options | None) -> set[str]:
    """The names of the blobs in a place."""
    if target is not None:
        return set(keys_in(s3, bucket.bucket))
    folders = [entry.path for entry in os.scandir(data / "blobs") if len(entry.name) == 3]
    return {entry.name for folder in folders for entry in os.scandir(folder)}


def test_it_says_what_to_do_next(tmp_path: Path, bucket: S3Options, photo: bytes) -> None:
    """The totals are one line, and after them stand the flags for the server; with those it goes on there."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        assert upload(server.url, photo) == 201
        process = migrating(tmp_path / "data", bucket)
        output, _ = process.communicate()
        assert process.returncode == 0
        assert output.startswith("1 of 1 files moved, 0 gone meanwhile, 0 failed: ")
        flags = next(line for line in output.splitlines() if "--blobs" in line).split()[2:]
    with RunningServer(tmp_path / "data", *flags[2:], workers=1) as server:
        stats = stats_of(server)
        assert (stats["backend"], stats["files"]) == ("s3", 1)
        assert fetch(server.url, str(Address.of(photo))) == photo


def test_interrupting_it_is_no_harm(tmp_path: Path, bucket: S3Options, moto_server: S3Server, photo: bytes) -> None:
    """Ctrl-C ends it with 130 and the totals so far; a folder of no store, and no bucket, are refused."""
    files = [distinct_jpeg(photo, number) for number in range(60)]
    data, s3 = tmp_path / "data", moto_server.client()
    with RunningServer(data, workers=1) as server:
        for each in files:
            upload(server.url, each)
        process = _halted_in_the_midst(data, s3, bucket, bucket, len(files), "--json")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        output, problems = process.communicate()
        s3.close()
        assert "Traceback" not in problems
        assert process.returncode == 130
        summary = json.loads(output)
        assert summary["interrupted"]
        assert 0 < summary["moved"] < len(files)
        for each in files:
            assert fetch(server.url, str(Address.of(each))) == each
    process = migrating(tmp_path / "nothing", bucket)
    _, problems = process.communicate()
    assert (process.returncode, "Traceback" in problems) == (1, False)
