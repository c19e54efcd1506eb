"""The cache holds to the contract, in front of any backend, and to what a cache alone promises."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.base import (
    BlobMissing,
    BlobStore,
    BlobUnavailable,
    BulkBlobs,
    Claimable,
    Counted,
    Immediate,
    LocalFile,
    Location,
    Planned,
    Presigned,
    Reader,
    Span,
    Spool,
    Unfinished,
)
from storage.cache import CachedBlobs
from storage.cache_fill import Fill
from storage.cache_threads import CacheThreads
from storage.filesystem import FilesystemBlobs
from storage.memory import MemoryBlobs
from tests.faults.mounting import require_mounts
from tests.planned import PlannedBlobs
from tests.storage.contract import ClaimContract, fetch, keep, name_of, read_all

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


class Watched:
    """A ``BlobStore`` over memory that counts what is opened, and can hold readers up or break them."""

    kind = "memory"

    def __init__(self) -> None:
        self.inner = MemoryBlobs()
        self.opened: list[Span | None] = []
        self.free = asyncio.Event()
        self.free.set()
        self.held_after = 0
        self.breaks = False

    async def spool(self) -> Spool:
        return await self.inner.spool()

    async def put(self, spool: Spool, name: str) -> Location:
        return await self.inner.put(spool, name)

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        self.opened.append(span)
        return WatchedReader(self, await self.inner.open(location, span))

    async def stat(self, location: Location) -> int:
        return await self.inner.stat(location)

    async def delete(self, location: Location) -> None:
        await self.inner.delete(location)

    def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        return self.inner.list(after)

    async def check(self) -> None:
        await self.inner.check()

    async def close(self) -> None:
        await self.inner.close()


class WatchedReader:
    """A reader that waits until the store is free, and breaks if the store does."""

    source = "memory"

    def __init__(self, store: Watched, inner: Reader) -> None:
        self.size = inner.size
        self._store = store
        self._inner = inner
        self._read = 0

    async def read(self, limit: int) -> bytes:
        if self._read >= self._store.held_after:
            await self._store.free.wait()
        if self._store.breaks and self._read:
            raise BlobUnavailable("it broke")
        data = await self._inner.read(limit)
        self._read += len(data)
        return data

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def watched() -> Watched:
    """A backend behind that is watched."""
    return Watched()


@asynccontextmanager
async def cache(behind: BlobStore, folder: Path, limit: int = LIMIT) -> AsyncIterator[CachedBlobs]:
    """Open a cache for the length of the context; the backend behind is closed with it."""
    store = CachedBlobs(behind, folder, limit)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def cached(watched: Watched, tmp_path: Path) -> AsyncIterator[CachedBlobs]:
    """A cache in front of a watched backend."""
    async with cache(watched, tmp_path / "cache") as store:
        yield store


def kept(folder: Path) -> list[Path]:
    """Return the files of the blobs in a cache."""
    return sorted(path for path in folder.glob("??/*") if path.is_file())


async def settled(blobs: CachedBlobs) -> None:
    """Wait until no fill is under way."""
    async with asyncio.timeout(30):
        for fill in list(blobs._fills.values()):
            await asyncio.wait([fill._task])


async def warmed(blobs: CachedBlobs, data: bytes) -> Location:
    """Upload bytes and fetch them once."""
    location = await keep(blobs, data)
    assert await fetch(blobs, location) == data
    await settled(blobs)
    return location


async def test_the_second_read_is_a_hit(watched: Watched, cached: CachedBlobs) -> None:
    """A blob is fetched from behind once; then it is a local file of the cache, in whole and in part."""
    data = os.urandom(3_000_000)
    location = await keep(cached, data)
    reader = await cached.open(location)
    assert await read_all(reader) == data
    assert reader.source == "memory"
    await settled(cached)
    hit = await cached.open(location)
    assert isinstance(hit, LocalFile)
    assert hit.source == "cache"
    assert os.pread(hit.fileno(), 100, 50) == data[50:150]
    assert await read_all(hit) == data
    assert hit.source == "cache"
    assert await fetch(cached, location, Span(10, 20)) == data[10:30]
    assert watched.opened == [None]
    assert cached.counts() == {
        "cache_hits": 2,
        "cache_misses": 1,
        "cache_fills": 1,
        "cache_bytes_served": 3_000_020,
        "cache_evictions": 0,
        "cache_errors": 0,
    }


async def test_a_hit_needs_no_waiting(watched: Watched, cached: CachedBlobs, tmp_path: Path) -> None:
    """A blob that was compared with its name is had at once, and counted when its bytes are; no other is."""
    assert isinstance(cached, Immediate)
    data = os.urandom(100_000)
    location = await keep(cached, data)
    assert cached.open_now(location) is None
    assert await fetch(cached, location) == data
    await settled(cached)
    for number in range(1, 3):
        file = cached.open_now(location)
        assert file is not None
        assert (file.size, file.source) == (len(data), "cache")
        assert cached.counts()["cache_hits"] == number - 1
        buffer = bytearray(50)
        assert file.fill(memoryview(buffer), 10)
        assert buffer == data[10:60]
        assert cached.counts()["cache_hits"] == number
        assert cached.counts()["cache_bytes_served"] == number * 50
    again = CachedBlobs(Watched(), tmp_path / "cache", LIMIT)
    assert again.open_now(location) is None  # it has not compared it
    await again.close()
    await cached.delete(location)
    assert cached.open_now(location) is None


async def test_a_hit_with_no_more_files_to_open(watched: Watched, cached: CachedBlobs) -> None:
    """What is kept open is closed for what is asked for, which does not go to the blobs behind for that."""
    data = os.urandom(300_000)  # too large to be kept open
    asked = await warmed(cached, data)
    for _ in range(20):
        assert cached.open_now(await warmed(cached, os.urandom(1000))) is not None
    opened = len(watched.opened)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        assert await fetch(cached, asked) == data
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(watched.opened) == opened


async def test_a_cold_file_of_the_cache_is_still_the_cache(cached: CachedBlobs, tmp_path: Path) -> None:
    """A hit says ``cache`` also when its bytes have to come from the disk."""
    location = await warmed(cached, os.urandom(1 << 20))
    file = os.open(kept(tmp_path / "cache")[0], os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    reader = await cached.open(location)
    assert isinstance(reader, LocalFile)
    await reader.warm(0, 1 << 20)
    assert reader.source == "cache"
    reader.close()


async def test_lends_what_the_backend_behind_can_do(tmp_path: Path) -> None:
    """The cache is planned, claimable and so on exactly if the backend behind is, and always counts."""
    async with cache(PlannedBlobs(), tmp_path / "one") as planned, cache(MemoryBlobs(), tmp_path / "other") as plain:
        assert abilities(planned) == {Planned, Unfinished, Counted}
        assert abilities(plain) == {Claimable, Counted}
        assert planned.counts()["planned_puts"] == 0
    FilesystemBlobs.create(tmp_path / "files")
    async with cache(FilesystemBlobs(tmp_path / "files"), tmp_path / "third") as files:
        assert abilities(files) == {Claimable, BulkBlobs, Unfinished, Counted}


def abilities(blobs: object) -> set[type]:
    """Return what a backend can do beside the verbs."""
    known = (Planned, Presigned, Unfinished, Counted, Claimable, BulkBlobs)
    return {each for each in known if isinstance(blobs, each)}


async def test_an_upload_is_kept_if_asked(watched: Watched, tmp_path: Path) -> None:
    """With ``admit_on_write`` the first read of a new blob is a hit already, planned or not."""
    blobs = CachedBlobs(watched, tmp_path / "one", LIMIT, admit_on_write=True)
    location = await keep(blobs, b"kept as it came")
    assert await fetch(blobs, location) == b"kept as it came"
    assert watched.opened == []
    await blobs.close()
    behind = PlannedBlobs()
    blobs = CachedBlobs(behind, tmp_path / "other", LIMIT, admit_on_write=True)
    assert isinstance(blobs, Planned)
    location = blobs.plan(name_of(b"planned"))
    spool = await blobs.spool()
    spool.append(b"planned")
    await blobs.put_at(spool, location)
    spool.close()
    reader = await blobs.open(location)
    assert reader.source == "cache"
    assert await read_all(reader) == b"planned"
    await blobs.close()


async def test_many_misses_at_once_are_one_fetch(watched: Watched, cached: CachedBlobs) -> None:
    """A hundred readers of the same new blob cost one read of the backend behind, and get the same bytes."""
    data = os.urandom(5_000_000)
    location = await keep(cached, data)
    assert await asyncio.gather(*(fetch(cached, location) for _ in range(100))) == [data] * 100
    assert watched.opened == [None]


async def test_a_fill_that_comes_too_late_fetches_nothing(
    watched: Watched, cached: CachedBlobs, tmp_path: Path
) -> None:
    """When another has admitted the blob between the look for it and the lock, it is read from the cache."""
    location = await warmed(cached, b"admitted meanwhile")
    late = Fill(cached._parts, location, lambda: None)
    reader = await cached._follow(late, location, None)
    assert reader.source == "cache"
    assert await read_all(reader) == b"admitted meanwhile"
    assert watched.opened == [None]
    assert list((tmp_path / "cache" / "fills").iterdir()) == []


async def test_bytes_are_given_as_they_come(watched: Watched, cached: CachedBlobs) -> None:
    """A reader need not wait for the whole blob; nor does another that joins in the middle."""
    data = os.urandom(4 << 20)
    location = await keep(cached, data)
    watched.held_after = 1 << 20
    watched.free.clear()
    first = await cached.open(location)
    assert await first.read(1 << 20) == data[: 1 << 20]
    second = await cached.open(location, Span(1000, (4 << 20) - 1000))
    assert await second.read(1000) == data[1000:2000]
    watched.free.set()
    assert await read_all(first) == data[1 << 20 :]
    assert await read_all(second) == data[2000:]
    assert watched.opened == [None]


async def test_a_slow_reader_holds_nobody_up(cached: CachedBlobs) -> None:
    """A fill ends, and serves others, while its first reader has read a single byte."""
    data = os.urandom(8 << 20)
    location = await keep(cached, data)
    slow = await cached.open(location)
    assert len(await slow.read(1)) == 1
    await settled(cached)
    assert await fetch(cached, location) == data
    assert await read_all(slow) == data[1:]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_reader_that_leaves_stops_nobody(watched: Watched, cached: CachedBlobs, cancelled: bool) -> None:
    """A fill goes on for the others when who began it goes away, in the open or in the middle."""
    data = os.urandom(4 << 20)
    location = await keep(cached, data)
    watched.held_after = 0 if cancelled else 1 << 20
    watched.free.clear()
    leaving = asyncio.ensure_future(cached.open(location))
    await asyncio.sleep(0)
    if cancelled:
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    else:
        (await leaving).close()
    staying = await cached.open(location)
    watched.free.set()
    assert await read_all(staying) == data
    assert watched.opened == [None]


async def test_what_breaks_behind_is_told_and_tried_again(watched: Watched, cached: CachedBlobs) -> None:
    """Who follows a fill that fails behind hears of it; nothing is kept, and the next reader fetches anew."""
    data = os.urandom(4 << 20)
    location = await keep(cached, data)
    watched.breaks = True
    with pytest.raises(BlobUnavailable):
        await fetch(cached, location)
    await settled(cached)
    watched.breaks = False
    assert await fetch(cached, location) == data
    with pytest.raises(BlobMissing):
        await cached.open(Location(name_of(b"never"), b"12345678"))


async def test_spans_of_large_blobs_pass_through(watched: Watched, cached: CachedBlobs, tmp_path: Path) -> None:
    """A span in a blob over 16 MiB is read as such from behind; one of a small blob brings the whole."""
    data = os.urandom((6 << 20) + 1)
    large = os.urandom((16 << 20) + 1)
    blobs = CachedBlobs(watched, tmp_path / "large", 200 << 20)
    location = await keep(blobs, large)
    spans = [Span(1000, 10), Span(16 << 20, 1)]
    for span in spans:
        assert await fetch(blobs, location, span) == large[span.start : span.end]
    assert watched.opened == spans
    assert kept(tmp_path / "large") == []
    assert await fetch(blobs, location, Span(0, len(large))) == large
    await settled(blobs)
    assert len(kept(tmp_path / "large")) == 1
    watched.opened.clear()
    location = await keep(cached, data)
    assert await fetch(cached, location, Span(5_000_000, 10)) == data[5_000_000:5_000_010]
    assert watched.opened == [None]
    await blobs.close()


async def test_a_large_blob_does_not_flush_the_rest(watched: Watched, cached: CachedBlobs, tmp_path: Path) -> None:
    """A blob over an eighth of the cache is passed on in one read, and drives nothing out."""
    small = await warmed(cached, b"small")
    data = os.urandom((LIMIT // 8) + 1)
    location = await warmed(cached, data)
    assert watched.opened == [None, None]
    assert [path.name.partition(".")[0] for path in kept(tmp_path / "cache")] == [small.name]
    assert await fetch(cached, location, Span(1, 2)) == data[1:3]


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _alter(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(70_000)
        byte = opened.read(1)
        opened.seek(70_000)
        opened.write(bytes([byte[0] ^ 1]))


def _extend(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"x")


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/passwd")


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("damage", [_truncate, _empty, _zero, _alter, _extend, _replace_by_folder])
async def test_a_damaged_file_is_never_served(tmp_path: Path, damage: Callable[[Path], None], restarted: bool) -> None:
    """What a power cut, rot or a stranger did to a file of the cache shows, before and after a restart."""
    data = os.urandom(100_000)
    watched = Watched()
    blobs = CachedBlobs(watched, tmp_path / "cache", LIMIT)
    location = await warmed(blobs, data)
    assert await fetch(blobs, location) == data
    assert blobs.open_now(location) is not None
    await asyncio.sleep(0.02)  # the kernel's clock for files ticks in milliseconds
    damage(kept(tmp_path / "cache")[0])
    again = CachedBlobs(watched, tmp_path / "cache", LIMIT) if restarted else blobs
    assert again.open_now(location) is None
    for _ in range(3):
        assert await fetch(again, location) == data
        await settled(again)
    assert again.counts()["cache_errors"] >= 1
    if damage is not _replace_by_folder:
        assert len(watched.opened) == 2
        assert kept(tmp_path / "cache")[0].read_bytes() == data
    await again.close()
    await blobs.close()


async def test_wrong_bytes_from_behind_are_not_kept(behind: MemoryBlobs, blobs: CachedBlobs, tmp_path: Path) -> None:
    """What is not what its name says is passed on as it is, and the right bytes are served once they are there."""
    data = os.urandom(50_000)
    location = await keep(blobs, data)
    behind._blobs[location] = bytes(50_000)
    assert await fetch(blobs, location) == bytes(50_000)
    await settled(blobs)
    assert kept(tmp_path / "cache") == []
    behind._blobs[location] = data
    assert await fetch(blobs, location) == data


async def test_fills_under_way_are_within_the_bound(watched: Watched, tmp_path: Path) -> None:
    """Room that is promised to fills is not given twice: who finds none is served from behind."""
    async with cache(watched, tmp_path / "cache", 800_000) as blobs:
        data = [os.urandom(100_000) for _ in range(12)]
        locations = [await keep(blobs, each) for each in data]
        watched.free.clear()
        readers = [await blobs.open(location) for location in locations]
        watched.free.set()
        assert [await read_all(reader) for reader in readers] == data
        await settled(blobs)
        assert blobs.counts()["cache_fills"] == 8
        assert blobs.counts()["cache_evictions"] == 0
        assert len(watched.opened) == 12


async def test_survives_a_restart(tmp_path: Path) -> None:
    """What was cached is there for the next process, counted within the limit."""
    watched = Watched()
    first = CachedBlobs(watched, tmp_path / "cache", 800_000)
    data = [os.urandom(100_000) for _ in range(7)]
    locations = [await warmed(first, each) for each in data]
    second = CachedBlobs(watched, tmp_path / "cache", 800_000)
    watched.opened.clear()
    for location, each in zip(locations, data, strict=True):
        assert await fetch(second, location) == each
    assert watched.opened == []
    for _ in range(3):
        await warmed(second, os.urandom(100_000))
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) <= 800_000
    await second.close()
    await first.close()


async def test_the_least_recently_used_goes_first(watched: Watched, tmp_path: Path) -> None:
    """When room is needed, the blobs go that were not used for the longest time, and no more than needed."""
    async with cache(watched, tmp_path / "cache", 1_000_000) as blobs:
        locations = [await warmed(blobs, os.urandom(100_000)) for _ in range(10)]
        files = {path.name.partition(".")[0]: path for path in kept(tmp_path / "cache")}
        for age, location in enumerate(locations):
            os.utime(files[location.name], ns=(10**18 + age, files[location.name].stat().st_mtime_ns))
    again = Watched()
    again.inner = watched.inner
    again.inner._closed = False
    async with cache(again, tmp_path / "cache", 1_000_000) as blobs:
        await fetch(blobs, locations[0])
        new = await warmed(blobs, os.urandom(100_000))
        left = {path.name.partition(".")[0] for path in kept(tmp_path / "cache")}
        assert left == {location.name for location in (locations[0], *locations[3:], new)}
        assert blobs.counts()["cache_evictions"] == 2


async def test_delete_removes_the_bytes(watched: Watched, cached: CachedBlobs, tmp_path: Path) -> None:
    """A deleted blob is missing, and its bytes have left the cache, also those on their way."""
    location = await warmed(cached, b"to be deleted")
    await cached.delete(location)
    assert kept(tmp_path / "cache") == []
    with pytest.raises(BlobMissing):
        await cached.open(location)
    data = os.urandom(2 << 20)
    location = await keep(cached, data)
    watched.free.clear()
    reader = await cached.open(location)
    await cached.delete(location)
    watched.free.set()
    assert await read_all(reader) == data
    await settled(cached)
    assert kept(tmp_path / "cache") == []
    assert list((tmp_path / "cache" / "fills").iterdir()) == []


async def test_a_foreign_file_is_harmless(watched: Watched, cached: CachedBlobs, tmp_path: Path) -> None:
    """Things that others put into the folder neither stop the cache nor are served."""
    (tmp_path / "cache" / "fills" / "foreign").write_bytes(b"x")
    (tmp_path / "cache" / "fills" / "other.part").write_bytes(b"x")
    (tmp_path / "cache" / "00" / "foreign").write_bytes(b"x")
    async with cache(Watched(), tmp_path / "cache") as blobs:
        await warmed(blobs, b"beside them")
    assert list((tmp_path / "cache" / "fills").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    require_mounts("tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_fails_no_read(watched: Watched, small_disk: Path) -> None:
    """On a disk that is full every blob is read as ever, from behind where the cache has no room."""
    async with cache(watched, small_disk) as blobs:
        data = os.urandom(5 << 20)
        location = await keep(blobs, data)
        for _ in range(2):
            assert await asyncio.gather(*(fetch(blobs, location) for _ in range(5))) == [data] * 5
            await settled(blobs)
        assert await fetch(blobs, location, Span(3 << 20, 1000)) == data[3 << 20 : (3 << 20) + 1000]
        assert blobs.counts()["cache_errors"] >= 2
        assert kept(small_disk) == []
        small = await warmed(blobs, b"there is room for this")
        reader = await blobs.open(small)
        assert reader.source == "cache"
        reader.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=3, max_size=10),
    steps=st.lists(st.tuples(st.sampled_from("rrrsdcko"), st.integers(0, 9), st.integers(0, 3000)), max_size=40),
)
async def test_any_use_keeps_the_bytes_and_the_bound(sizes: list[int], steps: list[tuple[str, int, int]]) -> None:
    """Whatever is read, deleted, restarted or damaged: right bytes, and never more of them than the limit."""
    limit = 10_000
    watched = Watched()
    with TemporaryDirectory() as name:
        folder = Path(name)
        blobs = CachedBlobs(watched, folder, limit)
        opened = [blobs]
        data = [os.urandom(size) for size in sizes]
        locations = [await keep(blobs, each) for each in data]
        gone = set[int]()
        for step, number, where in steps:
            which = number % len(data)
            span = Span(min(where, sizes[which]), (sizes[which] - min(where, sizes[which])) // 2)
            if step == "d":
                await blobs.delete(locations[which])
                gone.add(which)
            elif step == "c" and (files := kept(folder)):
                await asyncio.sleep(0.01)
                files[which % len(files)].write_bytes(bytes(where % 3000))
            elif step == "o":
                blobs = CachedBlobs(watched, folder, limit)
                opened.append(blobs)
            elif which in gone:
                with pytest.raises(BlobMissing):
                    await blobs.open(locations[which])
            elif step == "s":
                assert await fetch(blobs, locations[which], span) == data[which][span.start : span.end]
            elif step == "k":
                (await blobs.open(locations[which])).close()
            else:
                assert await fetch(blobs, locations[which]) == data[which]
            if step != "c":
                await settled(blobs)
                # What was damaged may have grown as well, by up to 3,000 bytes a file.
                assert "c" in {each for each, _, _ in steps} or (
                    sum(path.stat().st_size for path in kept(folder)) <= limit
                )
        for store in opened:
            await store.close()


async def test_who_is_cancelled_twice_waits_for_his_thread() -> None:
    """However often its caller is cancelled, work in a thread is not left: its caller may close what it uses."""
    threads = CacheThreads()
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(60)
        done.set()

    working = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(2):
        working.cancel()
        for _ in range(10):  # turns of the loop, in which it would end if it did not wait
            await asyncio.sleep(0)
        assert not working.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert done.is_set()
    await threads.close()
