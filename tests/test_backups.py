"""A backup made while the store is in use, at any point killed and run again: what is restored of it is whole."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import pytest

from stat7store.address import Address
from stat7store.backups import making
from stat7store.backups.copying import Copier, Copies
from stat7store.backups.depot import NOTE, Note
from stat7store.backups.making import back_up
from stat7store.backups.restoring import restore
from stat7store.catalog.base import NewFile
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.tables import RECORDS
from stat7store.cli import main
from stat7store.errors import Damaged, NotFound, Stat7Error, Unavailable
from stat7store.folder import FILESYSTEM, Site, read_facts
from stat7store.opening import open_store, prepare
from stat7store.record import Entry, FileRecord
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.verifying import Tally
from storage.base import BlobStore, BlobUnavailable, Location
from storage.filesystem import FilesystemBlobs
from storage.s3_options import S3Options
from tests.catalog.whole import assert_whole, raw
from tests.faults.reliability import Reliability, Row, recovery
from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until
from tests.s3_servers import OWNER, REGION, S3Server, keys_in
from tests.server.test_lifecycle import upload

FILES = 8
LOCAL = Site(FILESYSTEM)


def photo(number: int) -> bytes:
    """One of the photographs."""
    return distinct_jpeg(sample("rocket.jpg").read_bytes(), number)


async def put(store: Store, number: int) -> Entry:
    """Store one of the photographs."""
    async with store.upload(f"{number}.jpg") as upload:
        await upload.write(photo(number))
        return (await upload.commit()).entry


async def fill(folder: Path, numbers: range = range(FILES)) -> None:
    """Store photographs: the first is tagged, and has the last two for neighbours."""
    async with open_store(Settings(data=folder)) as store:
        addresses = [(await put(store, number)).address for number in numbers]
        await store.update(
            addresses[0],
            lambda record: msgspec.structs.replace(record, tags=("red",), adjacency=tuple(sorted(addresses[-2:]))),
        )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store with some photographs."""
    prepare(Settings(data=tmp_path / "store"))
    asyncio.run(fill(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Where the backup goes; nothing is there yet."""
    return tmp_path / "backup"


async def make(data: Path, dest: Path, told: list[Address] | None = None, jobs: int = 4) -> Copies:
    """Bring the backup up to date."""
    copies = Copies()
    await back_up(Settings(data=data), dest, copies, telling(told), jobs=jobs, bytes_per_s=math.inf)
    return copies


async def unmake(dest: Path, data: Path, told: list[Address] | None = None, jobs: int = 4) -> Copies:
    """Make a store of the backup."""
    copies = Copies()
    await restore(Settings(data=data), dest, LOCAL, copies, telling(told), jobs=jobs, bytes_per_s=math.inf)
    return copies


def telling(told: list[Address] | None) -> making.Tell:
    """Return what keeps the addresses that it is told."""

    def tell(address: Address, error: Stat7Error) -> None:
        assert told is not None, f"{address}: {error}"
        told.append(address)

    return tell


# LMDB wants to be opened once in a process, and the backup has opened it in this one
DELETE_AND_SWEEP = """
async with open_store(Settings(data=Path(sys.argv[1]))) as store:
    await store.delete(Address.parse(sys.argv[2]))
    await store.sweep_garbage()
"""
PUT_ANEW = """
async with open_store(Settings(data=Path(sys.argv[1]))) as store:
    data = Path(sys.argv[3]).read_bytes()
    await store.delete(Address.parse(sys.argv[2]))
    await store.sweep_garbage()
    async with store.upload("again.jpg") as upload:
        await upload.write(data)
        await upload.commit()
"""
_PROGRAM = """
import asyncio, sys
from pathlib import Path
from stat7store.address import Address
from stat7store.opening import open_store
from stat7store.settings import Settings

async def run():
%s
asyncio.run(run())
"""


def elsewhere(work: str, *arguments: object) -> None:
    """Do something to a store in another process."""
    program = _PROGRAM % textwrap.indent(work, "    ")
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)


async def contents(folder: Path) -> dict[Address, tuple[Entry, bytes]]:
    """All files of a store, which must be found whole."""
    async with open_store(Settings(data=folder)) as store:
        tally = Tally()
        await store.verifier(tally, lambda _: None, bytes_per_s=math.inf, jobs=4).run()
        assert (tally.damaged, tally.unreadable, tally.orphans) == (0, 0, 0)
        found = {}
        for number in range(100):
            address = Address.of(photo(number))
            with suppress(NotFound):
                entry = await store.entry(address)
                found[address] = (entry, blob_of(folder, number).read_bytes())
        assert (await store.counters()).files == len(found) == tally.files
        return found


def blob_of(folder: Path, number: int) -> Path:
    """The file of a photograph's blob."""
    return next((folder / "blobs").glob(f"???/{Address.of(photo(number))}.*"))


def blobs_in(dest: Path) -> list[str]:
    """The names of the blobs in a backup."""
    return sorted(path.name for path in dest.glob("???/*"))


async def test_what_is_restored_is_what_was_there(data: Path, dest: Path, tmp_path: Path) -> None:
    """A restored store has every file with its bytes, its record, its number and its neighbours, and is found whole."""
    before = await contents(data)
    copies = await make(data, dest)
    size = sum(len(held) for _, held in before.values())
    assert (copies.files, copies.copied, copies.copied_bytes, copies.held) == (FILES, FILES, size, 0)
    copies = await unmake(dest, tmp_path / "new")
    assert (copies.files, copies.copied, copies.failed) == (FILES, FILES, 0)
    after = await contents(tmp_path / "new")
    assert after.keys() == before.keys()
    for address, (entry, held) in after.items():
        expected, bytes_before = before[address]
        assert (entry.record, entry.locator.number, held) == (expected.record, expected.locator.number, bytes_before)
    assert_whole(tmp_path / "new" / "catalog")
    assert read_facts(tmp_path / "new").store != read_facts(data).store


async def test_the_next_run_copies_only_what_is_new(data: Path, dest: Path, tmp_path: Path) -> None:
    """What the backup has is not read again; what was deleted is removed from it, and the last snapshot is alone."""
    await make(data, dest)
    async with open_store(Settings(data=data)) as store:
        await put(store, FILES)
        await store.delete(Address.of(photo(1)))
    copies = await make(data, dest)
    assert (copies.copied, copies.held, copies.read) == (1, FILES - 1, len(photo(FILES)))
    assert copies.removed == 2  # the deleted file, and the old snapshot
    assert len(blobs_in(dest)) == FILES + 1
    await unmake(dest, tmp_path / "new")
    assert (await contents(tmp_path / "new")).keys() == {Address.of(photo(number)) for number in (0, *range(2, 9))}
    assert (await make(data, dest)).copied == 0
    assert not list(data.glob("backup-*"))


async def test_a_catalog_of_many_files_is_copied(tmp_path: Path) -> None:
    """A catalog whose indexes have whole pages for one key, as in any real store, is copied with all its rows."""
    catalog = LmdbCatalog(tmp_path / "catalog")
    files = []
    for number in range(5000):
        address = Address.of(str(number).encode())
        record = FileRecord(address=address, stored_at=number, filename="", realm="image")
        files.append(NewFile(record, 1, "image/jpeg", Location(str(address), b"token")))
    catalog.add_many(sorted(files, key=lambda file: file.record.address))
    (tmp_path / "copy").mkdir()
    catalog.copy(tmp_path / "copy")
    await catalog.close()
    assert assert_whole(tmp_path / "copy") == {file.record.address for file in files}


@pytest.mark.parametrize("harm", ["altered", "cut", "missing"])
async def test_damaged_bytes_are_told_and_left_out(data: Path, dest: Path, tmp_path: Path, harm: str) -> None:
    """A blob that is not what it was is told of and not copied; the others are, and the restored store is whole."""
    bad = blob_of(data, 3)
    if harm == "missing":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:-1] + (b"?" if harm == "altered" else b""))
    told: list[Address] = []
    copies = await make(data, dest, told)
    assert told == [Address.of(photo(3))]
    assert (copies.copied, copies.failed) == (FILES - 1, 1)
    await unmake(dest, tmp_path / "new")
    assert (await contents(tmp_path / "new")).keys() == {Address.of(photo(n)) for n in range(FILES) if n != 3}


async def test_what_rots_after_a_backup_is_in_it(data: Path, dest: Path, tmp_path: Path) -> None:
    """Damage in the store does not reach what the backup has: a restore heals it, marked or not."""
    await make(data, dest)
    blob_of(data, 3).write_bytes(b"rotten")
    async with open_store(Settings(data=data)) as store:
        tally = Tally()
        await store.verifier(tally, lambda _: None, bytes_per_s=math.inf, jobs=4).run()
        assert tally.bad == 1
    assert (await make(data, dest)).failed == 0
    await unmake(dest, tmp_path / "new")
    found = await contents(tmp_path / "new")
    assert found[Address.of(photo(3))][1] == photo(3)
    assert_whole(tmp_path / "new" / "catalog")


async def test_a_backup_does_not_grow_while_a_file_is_damaged(data: Path, dest: Path) -> None:
    """What cannot be copied is in no backup; what is of no more use goes for all that."""
    blob_of(data, 3).write_bytes(b"rotten")
    told: list[Address] = []
    await make(data, dest, told)
    held = len(blobs_in(dest))
    async with open_store(Settings(data=data)) as store:
        await store.delete(Address.of(photo(2)))
    copies = await make(data, dest, told)
    assert told == [Address.of(photo(3))] * 2
    assert (copies.failed, copies.removed) == (1, 2)  # the deleted file, and the snapshot from before
    assert len(blobs_in(dest)) == held - 1


async def test_nothing_is_removed_while_an_entry_cannot_be_read(data: Path, dest: Path) -> None:
    """While the catalog has lost something, all that a backup has stays: it may be wanted yet."""
    await make(data, dest)
    with raw(data / "catalog", write=True) as behind:
        key, value = behind.rows(RECORDS)[4]
        behind.table(RECORDS).put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    told: list[Address] = []
    copies = await make(data, dest, told)
    assert (len(told), copies.failed, copies.removed) == (1, 1, 0)
    assert any(name.startswith(str(told[0])) for name in blobs_in(dest))


async def test_a_record_that_cannot_be_read_costs_that_file(data: Path, dest: Path, tmp_path: Path) -> None:
    """An entry that rotted is told of and left out, and the tables of the restored store fit each other."""
    with raw(data / "catalog", write=True) as behind:
        key, value = behind.rows(RECORDS)[0]  # the one that has neighbours
        behind.table(RECORDS).put(key, value[:-1] + bytes((value[-1] ^ 1,)))
    told: list[Address] = []
    await make(data, dest, told)
    assert told == [Address.of(photo(0))]
    await unmake(dest, tmp_path / "new")
    assert len(await contents(tmp_path / "new")) == FILES - 1
    assert_whole(tmp_path / "new" / "catalog")


async def test_what_is_deleted_meanwhile_is_left_out(
    data: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted, and swept, between the snapshot and its copy is not in the backup, nor a neighbour."""
    doomed = Address.of(photo(FILES - 1))
    copy = Copier.copy

    async def sweep_first(self: Copier, source: BlobStore, location: Location, address: Address, size: int) -> Location:
        if address == doomed:
            await asyncio.to_thread(elsewhere, DELETE_AND_SWEEP, data, doomed)
        return await copy(self, source, location, address, size)

    monkeypatch.setattr(Copier, "copy", sweep_first)
    copies = await make(data, dest)
    assert (copies.gone, copies.copied, copies.failed) == (1, FILES - 1, 0)
    await unmake(dest, tmp_path / "new")
    found = await contents(tmp_path / "new")
    assert doomed not in found
    assert found[Address.of(photo(0))][0].record.adjacency == (Address.of(photo(FILES - 2)),)
    assert_whole(tmp_path / "new" / "catalog")


async def test_what_is_stored_anew_meanwhile_is_in_it(
    data: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted, swept and uploaded again between snapshot and copy is copied from its new place."""
    moving = Address.of(photo(2))
    (tmp_path / "photo.jpg").write_bytes(photo(2))
    copy, seen = Copier.copy, list[Location]()

    async def replace_first(
        self: Copier, source: BlobStore, location: Location, address: Address, size: int
    ) -> Location:
        if address == moving:
            if not seen:
                await asyncio.to_thread(elsewhere, PUT_ANEW, data, moving, tmp_path / "photo.jpg")
            seen.append(location)
        return await copy(self, source, location, address, size)

    monkeypatch.setattr(Copier, "copy", replace_first)
    copies = await make(data, dest)
    assert (copies.copied, copies.gone, copies.failed) == (FILES, 0, 0)
    assert len(set(seen)) == 2
    await unmake(dest, tmp_path / "new")
    assert (await contents(tmp_path / "new"))[moving][1] == photo(2)


async def test_a_failing_destination_stops_it_and_it_goes_on(
    data: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the destination takes no more the run ends, the old backup stays, and the next run copies only the rest."""
    await make(data, dest)
    await fill(data, range(FILES, 2 * FILES))
    old, put_blob, taken = (dest / NOTE).read_bytes(), FilesystemBlobs.put, list[str]()

    async def fail_later(self: FilesystemBlobs, spool: object, name: str) -> Location:
        if len(taken) == 3:
            raise BlobUnavailable("no more")
        taken.append(name)
        return await put_blob(self, spool, name)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(FilesystemBlobs, "put", fail_later)
        with pytest.raises(Unavailable, match="no more"):
            await make(data, dest, jobs=1)
    assert (dest / NOTE).read_bytes() == old
    assert not list(data.glob("backup-*"))
    assert (await make(data, dest)).copied == FILES - 3
    await unmake(dest, tmp_path / "new")
    assert len(await contents(tmp_path / "new")) == 2 * FILES


async def test_the_snapshot_is_named_last(data: Path, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment the note changes, everything it names is there, and everything the old note named is too."""
    await make(data, dest)
    old = set(blobs_in(dest))
    async with open_store(Settings(data=data)) as store:
        await put(store, FILES)
        await store.delete(Address.of(photo(1)))
    write, seen = FilesystemBlobs.write_note, list[set[str]]()

    async def look(self: FilesystemBlobs, name: str, text: bytes) -> None:
        seen.append(set(blobs_in(dest)))
        note = msgspec.json.decode(text, type=Note)
        assert note.location.token.hex() in {held.partition(".")[2] for held in seen[0]}
        await write(self, name, text)

    monkeypatch.setattr(FilesystemBlobs, "write_note", look)
    await make(data, dest)
    assert old < seen[0]
    assert any(name.startswith(str(Address.of(photo(FILES)))) for name in seen[0])
    assert not any(name.startswith(str(Address.of(photo(1)))) for name in blobs_in(dest))


async def test_a_rotten_backup_is_told(data: Path, dest: Path, tmp_path: Path) -> None:
    """What the backup has lost is told of and left out; a lost catalog ends the restore, and leaves no store."""
    await make(data, dest)
    next(dest.glob(f"???/{Address.of(photo(2))}.*")).unlink()
    next(dest.glob(f"???/{Address.of(photo(3))}.*")).write_bytes(photo(4))
    told: list[Address] = []
    copies = await unmake(dest, tmp_path / "new", told)
    assert (set(told), copies.failed) == ({Address.of(photo(2)), Address.of(photo(3))}, 2)
    assert len(await contents(tmp_path / "new")) == FILES - 2
    assert_whole(tmp_path / "new" / "catalog")
    snapshot = dest / str(msgspec.json.decode((dest / NOTE).read_bytes(), type=Note).location)
    snapshot.write_bytes(snapshot.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match="catalog"):
        await unmake(dest, tmp_path / "newer")
    with pytest.raises(Unavailable, match="not complete"):
        prepare(Settings(data=tmp_path / "newer"))


async def test_a_restore_goes_on(data: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that was cut short is no store; run again it copies only the rest, and leaves nothing over."""
    await make(data, dest)
    new, copy, done = tmp_path / "new", Copier.copy, list[Address]()

    async def fail_later(self: Copier, source: BlobStore, location: Location, address: Address, size: int) -> Location:
        if len(done) == 3:
            raise Unavailable("no more")
        done.append(address)
        return await copy(self, source, location, address, size)

    with monkeypatch.context() as broken:
        broken.setattr(Copier, "copy", fail_later)
        with pytest.raises(Unavailable, match="no more"):
            await unmake(dest, new, jobs=1)
    with pytest.raises(Unavailable, match="not complete"):
        prepare(Settings(data=new))
    with pytest.raises(Unavailable):
        read_facts(new)
    copies = await unmake(dest, new)
    assert (copies.held, copies.copied) == (3, FILES - 3)
    assert len(await contents(new)) == FILES
    assert {path.name for path in new.iterdir()} == {"blobs", "catalog", "stat7.json"}


async def test_the_old_garbage_is_forgotten(data: Path, dest: Path, tmp_path: Path) -> None:
    """What the store had yet to sweep is no business of the restored one: it sweeps nothing that it holds."""
    async with open_store(Settings(data=data)) as store:
        await store.delete(Address.of(photo(1)))
        assert (await store.counters()).garbage == 1
    await make(data, dest)
    await unmake(dest, tmp_path / "new")
    async with open_store(Settings(data=tmp_path / "new")) as store:
        assert (await store.counters()).garbage == 0
        assert await store.sweep_garbage() == 0
    assert len(await contents(tmp_path / "new")) == FILES - 1


async def test_nothing_else_is_overwritten(data: Path, dest: Path, tmp_path: Path) -> None:
    """A folder of something else is no destination, nor is another store's backup; a restore wants an empty folder."""
    await make(data, dest)
    prepare(Settings(data=tmp_path / "other"))
    with pytest.raises(Unavailable, match="another store"):
        await make(tmp_path / "other", dest)
    with pytest.raises(Unavailable, match="not empty"):
        await make(tmp_path / "other", data)
    with pytest.raises(Unavailable, match="not empty"):
        await unmake(dest, data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for refused in (make(data, tmp_path / "mine"), unmake(dest, tmp_path / "mine")):
        with pytest.raises(Unavailable, match="not empty"):
            await refused
    with pytest.raises(NotFound, match="no backup"):
        await unmake(tmp_path / "mine", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


async def test_a_store_is_restored_where_it_can_stand(
    data: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that no server could use is refused before anything is copied."""
    await make(data, dest)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 0:1 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr("stat7store.footing.MOUNTS", mounts)
    with pytest.raises(Unavailable, match="network filesystem"):
        await unmake(dest, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


async def test_one_backup_at_a_time(data: Path, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run to the same place is refused while one is under way; one to another place is not."""
    copy_catalog, refused = LmdbCatalog.copy, list[str]()

    def meanwhile(self: LmdbCatalog, folder: Path) -> None:
        for number, where in enumerate((dest, dest.with_name("second"))):
            done = subprocess.run(
                [sys.executable, "-m", "stat7store", "backup", str(where), f"--data={data}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1 - number
            refused.append(done.stderr)
        copy_catalog(self, folder)

    monkeypatch.setattr(LmdbCatalog, "copy", meanwhile)
    await make(data, dest)
    assert "under way" in refused[0]


# The commands


def start(verb: str, *flags: str) -> subprocess.Popen[str]:
    """Start a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "stat7store", verb, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(verb: str, *flags: str, code: int = 0) -> dict[str, int]:
    """Run a command to its end; return its summary."""
    process = start(verb, *flags, "--json")
    output, problems = process.communicate()
    assert process.returncode == code, problems
    summary: dict[str, int] = json.loads(output)
    return summary


def test_the_commands(data: Path, dest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both tell their totals in one line, or as JSON, and what they refuse in one line with exit code 1."""
    assert main(["backup", str(dest), f"--data={data}"]) == 0
    assert f"{FILES} of {FILES} files ({FILES} copied, 0 there before), 0 failed" in capsys.readouterr().out
    blob_of(data, 3).write_bytes(b"")
    assert main(["backup", str(dest.with_name("second")), f"--data={data}", "--json"]) == 1
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["failed"], json.loads(shown.out)["complete"]) == (1, True)
    assert str(Address.of(photo(3))) in shown.err
    assert main(["restore", str(dest), f"--data={tmp_path / 'new'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copied"] == FILES
    assert main(["verify", f"--data={tmp_path / 'new'}"]) == 0
    capsys.readouterr()
    assert main(["restore", str(dest), f"--data={tmp_path / 'new'}"]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["restore", str(tmp_path), f"--data={tmp_path / 'newer'}"]) == 1
    assert "holds no backup" in capsys.readouterr().err
    assert main(["backup", "s3://", f"--data={data}"]) == 2
    assert main(["backup", str(dest), f"--data={tmp_path / 'nowhere'}"]) == 1


def test_ctrl_c_ends_in_order(data: Path, dest: Path) -> None:
    """An interrupted backup says so, leaves nothing of its own beside the store, and goes on when run again."""
    process = start("backup", str(dest), f"--data={data}", "--rate=0.05", "--jobs=1")
    wait_until(lambda: len(blobs_in(dest)) >= 1)
    process.send_signal(signal.SIGINT)
    _, problems = process.communicate()
    assert process.returncode == 130
    assert "run it again to go on" in problems
    assert not list(data.glob("backup-*"))
    copied = len(blobs_in(dest))
    assert 0 < copied < FILES
    assert run("backup", str(dest), f"--data={data}")["held"] == copied


# While a server takes uploads and deletes


class Client(threading.Thread):
    """Uploads distinct files and deletes others, so that about a hundred stay; journals what was acknowledged."""

    def __init__(self, url: str, first: int) -> None:
        super().__init__()
        self._url = url
        self._first = first
        self.kept: dict[str, None] = {}
        self.doomed: set[str] = set()  # a delete was begun
        self.stop = threading.Event()

    def run(self) -> None:
        """Go on until told to stop."""
        base, chance = sample("rocket.jpg").read_bytes(), random.Random(self._first)
        with suppress(OSError, HTTPException):
            for number in range(self._first, self._first + 100_000):
                if self.stop.is_set():
                    return
                data = distinct_jpeg(base, number)
                assert upload(self._url, data) == 201
                self.kept[str(Address.of(data))] = None
                if len(standing := [*self.kept.keys() - self.doomed]) > 100 or chance.random() < 0.4:
                    address = chance.choice(standing)
                    self.doomed.add(address)
                    delete(self._url, address)


def delete(url: str, address: str) -> None:
    """Delete a file over a connection of its own."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("DELETE", f"/v1/files/{address}")
        assert connection.getresponse().status == 204
    finally:
        connection.close()


def held_in(folder: Path, addresses: set[str]) -> dict[str, bytes]:
    """The bytes of those files that a store has."""

    async def read() -> dict[str, bytes]:
        async with open_store(Settings(data=folder)) as store:
            found = {}
            for address in await store.present([Address.parse(text) for text in sorted(addresses)]):
                found[str(address)] = next((folder / "blobs").glob(f"???/{address}.*")).read_bytes()
            return found

    return asyncio.run(read())


@pytest.mark.timeout(1200)
def test_backups_while_a_server_takes_uploads_and_deletes(tmp_path: Path, soak: bool, reliability: Reliability) -> None:
    """Killed at random points and run again, with uploads, deletes and sweeps going on: a restored store is found
    whole, and has every file that was acknowledged before the backup began, unless a delete of it was begun.
    """
    chance, dest = random.Random(5), tmp_path / "backup"
    lost = wrong = kills = checked = 0
    took: list[float] = []
    with RunningServer(tmp_path / "data", "--sweep-every=0.2") as server:
        clients = [Client(server.url, first) for first in (0, 200_000)]
        for client in clients:
            client.start()
        try:
            for cycle in range(20 if soak else 2):
                wait_until(lambda: all(len(client.kept) > 20 for client in clients))
                for _ in range(3 if soak else 1):
                    process = start("backup", str(dest), f"--data={server.data}")
                    time.sleep(chance.uniform(0.5, 3.0))
                    process.kill()
                    process.communicate()
                    kills += process.returncode == -signal.SIGKILL
                    noted = dest / NOTE
                    if cycle:  # the last backup stands
                        assert (dest / str(msgspec.json.decode(noted.read_bytes(), type=Note).location)).exists()
                acknowledged = {address for client in clients for address in [*client.kept]}
                summary = run("backup", str(dest), f"--data={server.data}")
                deleted = {address for client in clients for address in [*client.doomed]}
                assert summary["failed"] == 0
                restored, begun = tmp_path / f"restored-{cycle}", time.monotonic()
                run("restore", str(dest), f"--data={restored}")
                took.append(time.monotonic() - begun)
                assert run("verify", f"--data={restored}")["orphans"] == 0
                found = held_in(restored, acknowledged)
                lost += len(acknowledged - deleted - found.keys())
                wrong += sum(str(Address.of(data)) != address for address, data in found.items())
                checked += len(acknowledged)
                shutil.rmtree(restored)
        finally:
            for client in clients:
                client.stop.set()
            for client in clients:
                client.join()
    reliability.add(
        Row(
            "backup and restore while serving",
            "filesystem",
            f"backups during uploads, deletes and sweeps, {kills} of them killed at random points; then restored",
            len(took),
            f"{checked} acknowledged files looked for in the restored stores, each of which verify read again",
            lost,
            wrong,
            **recovery(took),
        )
    )
    assert (lost, wrong) == (0, 0)


# On S3


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """A bucket of its own for each test, and in the environment what opens it."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with moto_server.bucket() as options:
        yield options


def flags_of(bucket: S3Options) -> list[str]:
    """The flags that say how to reach a bucket."""
    return [f"--s3-endpoint={bucket.endpoint_url}", f"--s3-region={REGION}", "--s3-path-style"]


def test_a_store_and_its_backup_on_s3(tmp_path: Path, bucket: S3Options, moto_server: S3Server) -> None:
    """A store whose files are on S3 and in its folder is backed up to S3, also after a kill, and restored to both."""
    place, data = f"s3://{bucket.bucket}", tmp_path / "data"
    prepare(Settings(data=data))
    asyncio.run(fill(data, range(FILES // 2)))
    on_s3 = Settings(
        data=data,
        blobs=f"{place}/live",
        s3_endpoint=bucket.endpoint_url or "",
        s3_region=REGION,
        s3_path_style=True,
    )
    prepare(on_s3)

    async def add(numbers: range) -> None:
        async with open_store(on_s3) as store:
            for number in numbers:
                await put(store, number)

    asyncio.run(add(range(FILES // 2, FILES)))
    flags, s3 = flags_of(bucket), moto_server.client()
    process = start("backup", f"{place}/backup", f"--data={data}", "--rate=0.05", "--jobs=1", *flags)
    wait_until(lambda: len(copies_in(s3, bucket)) >= 2)
    process.kill()
    process.communicate()
    copied = len(copies_in(s3, bucket))
    refused = start("restore", f"{place}/backup", f"--data={tmp_path / 'early'}", *flags)
    assert "no complete backup" in refused.communicate()[1]
    assert not (tmp_path / "early").exists()
    assert run("backup", f"{place}/backup", f"--data={data}", *flags)["held"] == copied
    asyncio.run(add(range(FILES, FILES + 1)))
    summary = run("backup", f"{place}/backup", f"--data={data}", *flags)
    assert (summary["copied"], summary["held"], summary["removed"]) == (1, FILES, 1)
    assert len(copies_in(s3, bucket)) == FILES + 2  # and the snapshot
    run("restore", f"{place}/backup", f"--data={tmp_path / 'new'}", *flags)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"blobs", "catalog", "stat7.json"}
    found = asyncio.run(contents(tmp_path / "new"))
    assert found.keys() == {Address.of(photo(number)) for number in range(FILES + 1)}
    assert all(Address.of(held) == address for address, (_, held) in found.items())
    run("restore", f"{place}/backup", f"--data={tmp_path / 'far'}", f"--blobs={place}/far", *flags)
    assert run("verify", f"--data={tmp_path / 'far'}")["files"] == FILES + 1
    for taken in ("live", "far"):  # a store's own bucket is no place for a backup
        refused = start("backup", f"{place}/{taken}", f"--data={data}", *flags)
        assert "another store's" in refused.communicate()[1]
        assert refused.returncode == 1
    s3.close()


def copies_in(s3: object, bucket: S3Options) -> list[str]:
    """The keys of the blobs in the backup."""
    found = keys_in(s3, bucket.bucket)  # type: ignore[arg-type]
    return [key for key in found if key.startswith("backup/") and key.count("/") == 2]
