"""Scrubbing: whatever is wrong is found by one pass, is never served again, and is healed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from stat7store.address import Address
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.tables import RECORDS
from stat7store.cli import main
from stat7store.errors import Damaged
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.verifying import Finding, Tally
from storage.base import BlobUnreadable
from storage.cache import CachedBlobs
from storage.file_reader import FileReader
from storage.filesystem import FilesystemBlobs
from tests.catalog.whole import raw
from tests.disks import is_on_disk
from tests.media import distinct_jpeg, sample
from tests.storage.tracing import strace

FILES = 12
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores, empty: their folders take a moment to make."""
    made = tmp_path_factory.mktemp("stores")
    for name in ("first", "second"):
        prepare(Settings(data=made / name))
    return made / "first", made / "second"


@pytest.fixture
def data(folders: tuple[Path, Path]) -> Iterator[Path]:
    """A store with some photographs; the second store has them too."""
    for folder in folders:
        asyncio.run(fill(folder))
    yield folders[0]
    for folder in folders:
        shutil.rmtree(folder / "catalog")
        (folder / "catalog").mkdir()
        (folder / "verify.json").unlink(missing_ok=True)
        for path in blobs_of(folder):
            path.unlink()


@pytest.fixture
def second(folders: tuple[Path, Path], data: Path) -> Path:
    """The second store."""
    return folders[1]


async def fill(folder: Path) -> None:
    """Store some photographs."""
    photo = sample("rocket.jpg").read_bytes()
    async with open_store(Settings(data=folder)) as store:
        for number in range(FILES):
            async with store.upload(f"{number}.jpg") as upload:
                await upload.write(distinct_jpeg(photo, number))
                await upload.commit()


def blobs_of(folder: Path) -> list[Path]:
    """The files of a store's blobs, in order."""
    return sorted(path for path in (folder / "blobs").glob("???/*") if path.is_file())


async def scrub(
    folder: Path, tally: Tally | None = None, *, sample: float = 1.0, bytes_per_s: float = 1e12
) -> tuple[Tally, list[Finding]]:
    """Scrub a store once."""
    tally = Tally() if tally is None else tally
    found: list[Finding] = []
    async with open_store(Settings(data=folder)) as store:
        await store.verifier(tally, found.append, bytes_per_s=bytes_per_s, jobs=3).run(sample)
    return tally, found


async def is_served(store: Store, address: Address) -> bool:
    """Tell whether a file is given out, whole."""
    clock = StageClock()
    try:
        entry = await store.find(address, clock)
        reader = await store.open(address, entry.locator, None, clock)
    except Damaged:
        return False
    try:
        data = b""
        while block := await reader.read(1 << 20):
            data += block
    finally:
        reader.close()
    assert Address.of(data) == address
    return True


def address_of(path: Path) -> Address:
    """The address in a blob's file name."""
    return Address.parse(path.name[:64])


def flip(path: Path) -> None:
    """Turn over one bit, as rot does."""
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Lose the end."""
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    """Gain a byte."""
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    """Turn all bytes to zero, as after a lost write."""
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Hold another file's bytes."""
    others = [other for other in path.parent.parent.glob("???/*") if other != path]
    shutil.copyfile(others[0], path)


def replace_by_link(path: Path) -> None:
    """Be a symbolic link to the right bytes."""
    kept = path.with_name("elsewhere")
    path.rename(kept)
    path.symlink_to(kept)


async def test_a_whole_store_is_found_whole(data: Path) -> None:
    """Where nothing is wrong nothing is found, and every byte was read."""
    tally, found = await scrub(data)
    assert not found
    assert tally.finished_at is not None
    assert (tally.files, tally.bytes) == (FILES, sum(path.stat().st_size for path in blobs_of(data)))
    assert tally.damaged == tally.unreadable == tally.orphans == 0


@pytest.mark.parametrize("harm", [flip, cut, lengthen, empty, swap, replace_by_link])
async def test_altered_bytes_are_found_and_not_served(data: Path, harm: Harm) -> None:
    """Each way in which bytes can differ is found in one pass; the others are still served."""
    blobs = blobs_of(data)
    victim = address_of(blobs[3])
    harm(blobs[3])
    tally, found = await scrub(data)
    assert [(finding.kind, finding.name) for finding in found if finding.kind != "orphan"] == [("bad", str(victim))]
    assert tally.bad == 1
    async with open_store(Settings(data=data)) as store:
        assert [await is_served(store, address_of(path)) for path in blobs] == [path != blobs[3] for path in blobs]
    (blobs[3].parent / "elsewhere").unlink(missing_ok=True)


async def test_missing_bytes_are_found(data: Path) -> None:
    """A blob that is gone is told from one that is altered, and both are counted as known the next time."""
    blobs = blobs_of(data)
    blobs[0].unlink()
    flip(blobs[1])
    tally, _ = await scrub(data)
    assert (tally.missing, tally.bad, tally.known) == (1, 1, 0)
    again, _ = await scrub(data)
    assert (again.missing, again.bad, again.known) == (1, 1, 2)


async def test_what_is_whole_again_is_served_again(data: Path) -> None:
    """A file that was marked, and whose bytes are right after all, or once more, loses its mark."""
    victim = blobs_of(data)[5]
    good = victim.read_bytes()
    flip(victim)
    await scrub(data)
    victim.write_bytes(good)
    tally, found = await scrub(data)
    assert [(finding.kind, finding.name) for finding in found] == [("sound", str(Address.of(good)))]
    assert (tally.sound, tally.damaged) == (1, 0)
    async with open_store(Settings(data=data)) as store:
        assert await is_served(store, Address.of(good))
        assert (await store.counters()).damaged == 0
    assert not (await scrub(data))[1]


def test_what_the_disk_cannot_read_is_bad(data: Path, tmp_path: Path) -> None:
    """A file with a bad sector is marked, so that it can be healed; the others are read for all that."""
    victim = blobs_of(data)[5]
    failing = ["-P", victim, "-e", "trace=preadv,preadv2", "-e", "inject=preadv,preadv2:error=EIO"]
    command = [sys.executable, "-m", "stat7store", "verify", f"--data={data}", "--json"]
    run = subprocess.run(
        [*strace(tmp_path / "trace", *map(str, failing)), *command], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert f"bad {address_of(victim)}: the disk cannot read it" in run.stderr
    tally = json.loads(run.stdout)
    assert (tally["bad"], tally["unreadable"], tally["files"]) == (1, 0, FILES)


async def test_a_disk_that_fails_as_a_whole_marks_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even a new file can be made, that one cannot be read says nothing of it."""

    async def fail(*_: object) -> NoReturn:
        raise BlobUnreadable("Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(FileReader, "read", fail)
        broken.setattr(FilesystemBlobs, "check", fail)
        tally, found = await scrub(data)
    assert {finding.kind for finding in found} == {"unreadable"}
    assert (tally.unreadable, tally.damaged) == (FILES, 0)
    assert not (await scrub(data))[1]


async def test_an_upload_heals(data: Path) -> None:
    """The next upload of the same bytes makes a damaged file whole again."""
    victim = blobs_of(data)[5]
    good = victim.read_bytes()
    flip(victim)
    await scrub(data)
    async with open_store(Settings(data=data)) as store:
        async with store.upload("again.jpg") as upload:
            await upload.write(good)
            await upload.commit()
        assert await is_served(store, Address.of(good))
        await store.sweep_garbage()
    tally, found = await scrub(data)
    assert not found
    assert tally.files == FILES


async def test_orphans_are_found_but_not_living_uploads(data: Path) -> None:
    """Bytes that nothing points at are told, those of an upload under way and of garbage are not."""
    blobs = blobs_of(data)
    orphan = blobs[0].with_name(f"{blobs[0].name[:64]}.{'0' * 16}")
    shutil.copyfile(blobs[0], orphan)
    living = FilesystemBlobs(data / "blobs")
    spool = await living.spool()
    try:
        spool.append(b"not yet known")
        await living.put(spool, "a" * 64)
        async with open_store(Settings(data=data)) as store:
            await store.delete(address_of(blobs[1]))
        tally, found = await scrub(data)
    finally:
        spool.close()
        await living.close()
    assert [finding.name for finding in found] == [f"{orphan.parent.name}/{orphan.name}"]
    assert tally.orphans == 1


async def test_a_record_that_cannot_be_read_is_told(data: Path) -> None:
    """Damage to the catalog's own values is found as well, and does not end the scrub."""
    with raw(data / "catalog", write=True) as behind:
        key, value = behind.rows(RECORDS)[2]
        behind.table(RECORDS).put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    tally, found = await scrub(data)
    assert [finding.kind for finding in found] == ["record"]
    assert (tally.records, tally.files) == (1, FILES - 1)


async def test_a_sample_reads_some(data: Path) -> None:
    """A sample leaves files out, counts them, and looks for no orphans."""
    tally, _ = await scrub(data, sample=0.5)
    assert tally.files + tally.skipped == FILES
    nothing, _ = await scrub(data, sample=0.0)
    assert (nothing.files, nothing.skipped, nothing.bytes) == (0, FILES, 0)


async def test_a_scrub_goes_on_where_it_was_stopped(data: Path) -> None:
    """With a tally that reached some address, only the files after it are read."""
    addresses = sorted(str(address_of(path)) for path in blobs_of(data))
    tally, _ = await scrub(data, Tally(reached=addresses[4], files=5))
    assert tally.files == FILES


async def test_a_cache_hides_nothing(data: Path, tmp_path: Path) -> None:
    """Rot behind a cache is found, though the cache still has the right bytes."""
    path = blobs_of(data)[2]
    catalog = LmdbCatalog(data / "catalog")
    blobs = CachedBlobs(FilesystemBlobs(data / "blobs"), tmp_path / "cache", 100_000_000)
    try:
        store, tally = Store(catalog, blobs), Tally()
        assert await is_served(store, address_of(path))
        flip(path)
        await store.verifier(tally, lambda finding: None, bytes_per_s=1e12, jobs=1).run()
        assert tally.bad == 1
    finally:
        await blobs.close()
        await catalog.close()


async def test_a_rate_is_kept(data: Path) -> None:
    """Reading takes at least as long as the rate says."""
    size = sum(path.stat().st_size for path in blobs_of(data))
    tally, _ = await scrub(data, bytes_per_s=size * 4)
    assert tally.seconds >= 0.2


def read_from_disk() -> int:
    """Bytes that this process has made the kernel fetch from a disk."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


async def test_it_reads_past_the_memory(data: Path) -> None:
    """Blobs that memory holds are fetched from the disk for all that: rot beneath would not show otherwise."""
    if not is_on_disk(data):
        pytest.skip("the temporary folder is in memory")
    size = sum(len(path.read_bytes()) for path in blobs_of(data))
    most = 0
    for _ in range(20):  # others may want the memory just then, and a page in use stays in it: both are the kernel's
        before = read_from_disk()
        assert sum(len(path.read_bytes()) for path in blobs_of(data)) == size
        if read_from_disk() - before == 0:  # memory held them all
            before = read_from_disk()
            await scrub(data)
            most = max(most, read_from_disk() - before)
            if most >= size:
                return
    pytest.fail(f"at most {most} of {size} bytes that memory held were fetched from the disk")


def test_an_interrupted_scrub_is_resumed(data: Path) -> None:
    """Ctrl-C ends a scrub with its own exit code, and --resume goes on to the end."""
    verify = [sys.executable, "-m", "stat7store", "verify", f"--data={data}"]
    slow = subprocess.Popen([*verify, "--rate=0.1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert slow.stderr is not None
    assert slow.stderr.readline().startswith("reading ")
    slow.send_signal(signal.SIGINT)
    said, complained = slow.communicate()
    assert slow.returncode == 130, complained
    assert "--resume goes on" in said
    assert "Traceback" not in complained
    done = subprocess.run([*verify, "--resume", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished_at"]


def test_the_command(data: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb tells all in numbers and by its exit code, and repairs from a second store."""
    verify = ["verify", f"--data={data}"]
    assert main([*verify, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == FILES
    flip(blobs_of(data)[0])
    blobs_of(data)[1].unlink()
    assert main(verify) == 1
    shown = capsys.readouterr()
    assert "1 bad, 1 missing" in shown.out
    assert "hash to" in shown.err
    assert main([*verify, "--json", f"--repair-from={second}"]) == 0
    assert json.loads(capsys.readouterr().out)["repaired"] == 2
    assert main(verify) == 0


def test_a_repair_is_of_all_that_is_marked(data: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of what another scrub has found, such as the first half of one that goes on."""
    flip(blobs_of(data)[0])
    verify = ["verify", f"--data={data}"]
    assert main(verify) == 1
    assert main([*verify, "--sample=0", f"--repair-from={second}"]) == 0
    assert "1 repaired" in capsys.readouterr().out
    assert main(verify) == 0


def test_a_file_that_is_whole_again_is_no_error(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told in a line of its own, and the exit code says that all is well."""
    victim = blobs_of(data)[0]
    good = victim.read_bytes()
    flip(victim)
    assert main(["verify", f"--data={data}"]) == 1
    victim.write_bytes(good)
    capsys.readouterr()
    assert main(["verify", f"--data={data}"]) == 0
    shown = capsys.readouterr()
    assert f"sound {Address.of(good)}: the stored bytes are right again" in shown.err
    assert "error" not in shown.err
    assert "1 that were damaged found whole again" in shown.out


def test_ctrl_c_ends_a_repair(data: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the scrub; what was not repaired stays marked."""

    async def wait(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    flip(blobs_of(data)[0])
    with monkeypatch.context() as slow:
        slow.setattr("stat7store.repairing.repair", wait)
        assert main(["verify", f"--data={data}", f"--repair-from={second}"]) == 130
    assert main(["verify", f"--data={data}", f"--repair-from={second}"]) == 0


def test_a_donor_with_the_same_damage_repairs_nothing(
    data: Path, second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes from the second store are compared with the address, too."""
    name = blobs_of(data)[0].name[:64]
    flip(blobs_of(data)[0])
    flip(next(path for path in blobs_of(second) if path.name.startswith(name)))
    assert main(["verify", f"--data={data}", f"--repair-from={second}"]) == 1
    assert "not repaired" in capsys.readouterr().err


def test_bad_use_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds no store, and a scrub that was never begun, are told in one line."""
    assert main(["verify", f"--data={tmp_path}"]) == 1
    assert main(["verify", f"--data={data}", "--resume"]) == 2
    shown = capsys.readouterr().err
    assert str(tmp_path) in shown
    assert "no scrub" in " ".join(shown.split())
