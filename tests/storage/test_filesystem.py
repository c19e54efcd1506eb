"""The filesystem backend holds to the contract, and does what files alone can do."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from storage.base import BlobDamaged, BlobMissing, BlobStore, BlobUnavailable, LocalFile, Location, Span
from storage.file_reader import FileReader
from storage.file_spool import FileSpool
from storage.filesystem import FilesystemBlobs
from storage.linux import Linux
from tests.storage.contract import BulkBlobContract, ClaimContract, fetch, keep, listed, name_of, read_all


class TestFilesystem(BulkBlobContract, ClaimContract):
    """The contract, for blobs in files."""

    kind = "filesystem"

    @pytest.fixture(autouse=True)
    def _at(self, root: Path) -> None:
        self.root = root

    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        os.truncate(self.root / str(location), size)

    def remove(self, blobs: BlobStore, location: Location) -> None:
        (self.root / str(location)).unlink()

    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        aside = self.root / "aside"
        (self.root / str(one)).rename(aside)
        (self.root / str(other)).rename(self.root / str(one))
        aside.rename(self.root / str(other))

    def add_foreign(self, blobs: BlobStore) -> None:
        name = name_of(b"foreign")
        token = "0123456789abcdef"
        folder = self.root / name[:3]
        other = self.root / ("000" if name[:3] != "000" else "001")
        (self.root / "notes.txt").write_text("foreign")
        (self.root / "lost+found").mkdir()
        (folder / "notes.txt").write_text("foreign")
        (folder / name).write_text("no token")
        (folder / f"{name}.{token}~").write_text("an editor's copy")
        (folder / f"{name}.01").write_text("a token of another length")
        (folder / f"{name.upper()}.{token}").write_text("upper case")
        (other / f"{name}.{token}").write_text("in the wrong folder")
        (folder / f"{name}.{'1' * 16}").mkdir()
        (folder / f"{name}.{'2' * 16}").symlink_to("/etc/hostname")
        os.mkfifo(folder / f"{name}.{'3' * 16}")
        os.close(os.open(os.fsencode(folder) + b"/\xff\n\xfe", os.O_CREAT | os.O_WRONLY))
        (self.root / "spool" / "notes.txt").write_text("foreign")


def file_reader(reader: object) -> FileReader:
    """Say that this is what the filesystem backend returns."""
    assert isinstance(reader, FileReader)
    return reader


def open_files(root: Path) -> Counter[str]:
    """Return the files below a folder, and the folder itself, that this process has open; deleted ones count."""
    gc.collect()  # what an earlier test left open may be closed at any time
    targets = Counter[str]()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            targets[os.readlink(descriptor)] += 1
    return Counter({file: n for file, n in targets.items() if file == str(root) or file.startswith(f"{root}/")})


@cache
def can_tell_what_is_cached() -> bool:
    """Whether the kernel has cachestat (6.5, where no sandbox forbids it), by which warming is checked."""
    with TemporaryFile() as file:
        file.write(b"in memory")
        file.flush()
        linux = Linux()
        return linux.is_resident(file.fileno(), 0, 1) or linux.is_missing(file.fileno(), 0, 1)


needs_cachestat = pytest.mark.skipif(
    not can_tell_what_is_cached(), reason="the kernel does not tell what is in its memory: no cachestat"
)


def drop_from_page_cache(file: Path) -> None:
    """Make the next read of this file go to the disk; skip the test where the filesystem is the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        for _ in range(500):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if not Linux().is_resident(descriptor, 0, 1):
                return
            time.sleep(0.01)  # a page in use, by a read that was given up for example, stays
        pytest.skip("this filesystem does not let go of its pages")
    finally:
        os.close(descriptor)


async def test_lays_blobs_out_by_their_first_digits(blobs: FilesystemBlobs, root: Path) -> None:
    """A blob is one private file, named by its location, and nothing else stays behind."""
    location = await keep(blobs, b"laid out")
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files == [root / str(location)]
    assert str(location).startswith(f"{location.name[:3]}/{location.name}.")
    assert len(location.token) == 8
    assert files[0].read_bytes() == b"laid out"
    assert files[0].stat().st_mode & 0o077 == 0


async def test_creates_once(tmp_path: Path) -> None:
    """A root is opened only when it is complete; creating it again changes nothing and repairs it."""
    root = tmp_path / "deep" / "down"
    with pytest.raises(BlobUnavailable):
        FilesystemBlobs(root)
    root.mkdir(parents=True)
    with pytest.raises(BlobUnavailable):
        FilesystemBlobs(root)
    FilesystemBlobs.create(root)
    assert len(os.listdir(root)) == 4097
    blobs = FilesystemBlobs(root)
    location = await keep(blobs, b"kept")
    await blobs.close()
    FilesystemBlobs.create(root)
    blobs = FilesystemBlobs(root)
    assert await fetch(blobs, location) == b"kept"
    await blobs.close()
    (root / "7ff").rmdir()
    with pytest.raises(BlobUnavailable):
        FilesystemBlobs(root)
    FilesystemBlobs.create(root)
    await FilesystemBlobs(root).close()


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A file in the root's place is told as a backend's error, not as a foreign one."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BlobUnavailable) as caught:
        FilesystemBlobs.create(tmp_path / "file")
    assert isinstance(caught.value.__cause__, OSError)


async def test_hot_bytes_come_from_the_page_cache(blobs: FilesystemBlobs) -> None:
    """A blob just written is read without leaving the event loop, and says so."""
    location = await keep(blobs, os.urandom(300_000))
    reader = await blobs.open(location)
    assert reader.source == "page cache"
    await reader.read(100_000)
    await file_reader(reader).warm(0, 300_000)
    assert reader.source == "page cache"
    await read_all(reader)
    assert reader.source == "page cache"


async def test_cold_bytes_come_from_disk(blobs: FilesystemBlobs, root: Path) -> None:
    """A blob that is not in memory is read whole all the same, and says that it came from disk."""
    data = os.urandom(3_000_000)
    location = await keep(blobs, data)
    drop_from_page_cache(root / str(location))
    reader = await blobs.open(location)
    assert await read_all(reader) == data
    assert reader.source == "disk"
    again = await blobs.open(location)
    assert await read_all(again) == data
    assert again.source == "page cache"


async def test_half_cold_bytes_come_in_one_piece(blobs: FilesystemBlobs, root: Path) -> None:
    """A read that finds only its beginning in memory fetches the rest from disk, and returns both."""
    data = os.urandom(1 << 20)
    location = await keep(blobs, data)
    drop_from_page_cache(root / str(location))
    with (root / str(location)).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(4096)
    reader = await blobs.open(location)
    assert await reader.read(1 << 20) == data
    assert reader.source == "disk"
    reader.close()


@needs_cachestat
async def test_warming_brings_cold_bytes_into_memory(blobs: FilesystemBlobs, root: Path) -> None:
    """After warming, a send would not wait: every page is resident; the reader says what it took."""
    length = (9 << 20) + 123
    location = await keep(blobs, bytes(length))
    drop_from_page_cache(root / str(location))
    reader = file_reader(await blobs.open(location))
    assert isinstance(reader, LocalFile)
    await reader.warm(5000, length - 5000)
    assert reader.source == "disk"
    assert Linux().is_resident(reader.fileno(), 5000, length - 5000)
    reader.close()


@pytest.mark.parametrize("left", [0, 1, 4096, 50_000])
async def test_a_blob_cut_off_while_it_is_read_is_damaged(blobs: FilesystemBlobs, root: Path, left: int) -> None:
    """A file truncated behind an open reader raises where the bytes end: never a short body that looks whole."""
    data = os.urandom(100_000)
    location = await keep(blobs, data)
    reader = file_reader(await blobs.open(location))
    os.truncate(root / str(location), left)
    with pytest.raises(BlobDamaged) as caught:
        await reader.warm(0, len(data))
    assert caught.value.location == location
    with pytest.raises(BlobDamaged):
        await read_all(reader)
    reader = file_reader(await blobs.open(location))
    await reader.warm(0, left)
    assert await read_all(reader) == data[:left]


async def test_a_cut_within_the_last_page_is_seen(blobs: FilesystemBlobs, root: Path) -> None:
    """Warming tells a blob whose last page is still there, but not all of the bytes in it."""
    location = await keep(blobs, bytes(4096 + 100))
    reader = file_reader(await blobs.open(location))
    os.truncate(root / str(location), 4096 + 99)
    with pytest.raises(BlobDamaged):
        await reader.warm(4096, 100)
    reader.close()


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
async def test_what_is_no_file_is_never_read(blobs: FilesystemBlobs, root: Path, what: str) -> None:
    """A folder, a pipe or a link in a blob's place is refused, without waiting and without following it."""
    location = await keep(blobs, b"replaced")
    path = root / str(location)
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")
    for tried in (blobs.open(location), blobs.stat(location)):
        with pytest.raises(BlobDamaged):
            await tried
    assert await listed(blobs) == []


async def test_a_folder_taken_away_is_an_empty_one(blobs: FilesystemBlobs, root: Path) -> None:
    """Without its folder a blob is missing and can be deleted; a put there is refused; the rest goes on."""
    data = b"folder gone"
    location = await keep(blobs, data)
    (root / str(location)).unlink()
    (root / location.name[:3]).rmdir()
    with pytest.raises(BlobMissing):
        await blobs.open(location)
    assert await listed(blobs) == []
    await blobs.delete(location)
    with blobs.claim(location) as claimed:
        assert not claimed
    with pytest.raises(BlobUnavailable):
        await keep(blobs, data)
    other = await keep(blobs, b"elsewhere")
    assert await listed(blobs) == [other]


async def test_check_sees_that_the_root_is_gone(blobs: FilesystemBlobs, root: Path) -> None:
    """A root moved away, or another folder in its place, is told by the check."""
    moved = root.with_name("moved")
    root.rename(moved)
    try:
        with pytest.raises(BlobUnavailable):
            await blobs.check()
        root.mkdir()
        with pytest.raises(BlobUnavailable):
            await blobs.check()
        root.rmdir()
    finally:
        moved.rename(root)
    await blobs.check()


@pytest.fixture
async def second(root: Path) -> AsyncIterator[FilesystemBlobs]:
    """Another store on the same root, as another process has it."""
    store = FilesystemBlobs(root)
    yield store
    await store.close()


async def test_two_stores_share_a_root(blobs: FilesystemBlobs, second: FilesystemBlobs) -> None:
    """What one store keeps, another on the same root reads, lists and deletes, and cannot claim too early."""
    spool = await blobs.spool()
    spool.append(b"shared")
    location = await blobs.put(spool, name_of(b"shared"))
    with second.claim(location) as claimed:
        assert not claimed
    spool.close()
    assert await fetch(second, location) == b"shared"
    assert await listed(second) == [location]
    with second.claim(location) as claimed, blobs.claim(location) as again:
        assert claimed
        assert not again
    await second.delete(location)
    with pytest.raises(BlobMissing):
        await blobs.open(location)


async def test_no_descriptor_is_left_open(blobs: FilesystemBlobs, root: Path) -> None:
    """Whatever fails or is given up, no file stays open for it."""
    cold = await keep(blobs, os.urandom(2_000_000))
    await asyncio.gather(*(keep(blobs, b"%d" % number) for number in range(20)))
    before = open_files(root)
    for patience in (0, 0.0001, 0.0005, 0.002) * 5:
        drop_from_page_cache(root / str(cold))
        tasks = [
            asyncio.create_task(keep(blobs, bytes(10_000))),
            asyncio.create_task(fetch(blobs, cold)),
            asyncio.create_task(blobs.stat(cold)),
        ]
        await asyncio.sleep(patience)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
    for span in (Span(0, 3_000_000), Span(-1, 1)):
        with pytest.raises(BlobDamaged):
            await blobs.open(cold, span)
    with pytest.raises(BlobMissing):
        await blobs.stat(Location(name_of(b"missing"), bytes(8)))
    spool = await blobs.spool()
    with pytest.raises(ValueError, match="64"):
        await blobs.put(spool, "malformed")
    spool.close()
    # Every thread has come to an end of what it was told, once these have.
    await asyncio.gather(*(keep(blobs, b"%d" % number) for number in range(20)))
    for _ in range(600):
        if not open_files(root) - before:
            break
        await asyncio.sleep(0.1)
    assert not open_files(root) - before


async def test_closing_ends_what_was_begun(root: Path) -> None:
    """Puts handed in before the close are carried out and answered, and nothing stays open."""
    before = open_files(root)
    blobs = FilesystemBlobs(root)
    spools = [await blobs.spool() for _ in range(50)]
    puts = [asyncio.create_task(blobs.put(spool, name_of(b"%d" % n))) for n, spool in enumerate(spools)]
    await asyncio.sleep(0)
    await blobs.close()
    locations = await asyncio.gather(*puts)
    for spool in spools:
        spool.close()
    assert not open_files(root) - before
    blobs = FilesystemBlobs(root)
    assert await listed(blobs) == sorted(locations)
    await blobs.close()


def test_an_old_kernel_is_asked_the_plain_way() -> None:
    """Where the kernel cannot tell what is in memory, nothing is taken to be."""
    assert not Linux().is_resident(-1, 0, 1)
    assert not Linux().is_missing(-1, 0, 1)
    assert Linux().open_cached(-1, "nowhere") is None


async def test_a_named_spool_can_be_passed_on(
    root: Path, blobs: FilesystemBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files without a name are not to be had, a spool that was passed on takes its name along, and away."""

    def refuse(folder: str, linux: Linux, write_every: float) -> FileSpool:
        raise OSError(errno.EOPNOTSUPP, "no nameless files")

    monkeypatch.setattr(FileSpool, "_nameless", refuse)
    spool = blobs.spool_now()
    spool.append(b"named")
    taken = blobs.take_over(blobs.pass_on(spool))
    spool.close()
    assert len(list((root / "spool").iterdir())) == 1
    assert taken.read(0, 10) == b"named"
    taken.close()
    assert not list((root / "spool").iterdir())
