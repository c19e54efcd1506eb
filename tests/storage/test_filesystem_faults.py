"""What the filesystem backend does when the disk, the kernel or the process itself fails: with real ones."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.base import BlobNoSpace, BlobUnavailable, Location
from storage.filesystem import FilesystemBlobs
from tests.storage.contract import fetch, keep, listed, name_of
from tests.storage.programs import killed, run, start
from tests.storage.tracing import calls, strace, strace_event_loop

_ONE = "say(await tried(keep(blobs, bytes(100_000))))"
_MANY = "say(*await asyncio.gather(*(tried(keep(blobs, b'%d' % n * 1000)) for n in range(100))))"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where strace writes to."""
    return tmp_path / "trace"


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_answer(root: Path, trace: Path) -> None:
    """One put syncs the file, links it, syncs the folder, and only then says where it is."""
    said = run(root, _ONE, *strace(trace, "-e", "trace=write,pwrite64,fsync,fdatasync,syncfs,linkat,sync_file_range"))
    (folder,) = {line[:3] for line in said}
    name = re.escape(str(root))
    order = [
        next(number for number, call in enumerate(calls(trace)) if re.match(pattern, call))
        for pattern in (
            rf"write\(\d+<{name}/spool/.*= 100000",
            rf"fsync\(\d+<{name}/spool/",
            r"linkat\(",
            rf"fsync\(\d+<{name}/{folder}>",
            r"write\(1<",
        )
    ]
    assert order == sorted(order), calls(trace)


def test_many_puts_share_syncs_and_none_is_answered_before_its_own(root: Path, trace: Path) -> None:
    """Of many puts at once, each name is followed by a sync of the filesystem, or of its folder, before the answer."""
    body = """
async def one(n):
    location = await keep(blobs, b'%d' % n)
    os.write(1, f'{location}\\n'.encode())
await asyncio.gather(*(one(n) for n in range(200)))
"""
    said = run(root, body, *strace(trace, "-s", "200", "-e", "trace=write,fsync,syncfs,linkat"))
    assert len(said) == 200
    traced = calls(trace)
    links: dict[str, int] = {}
    answers: dict[str, int] = {}
    syncs = []
    for number, call in enumerate(traced):
        if call.startswith("linkat("):
            links[call.split('"')[3]] = number
        elif call.startswith("write(1<"):
            answers[call.split('"')[1].removesuffix("\\n")] = number
        elif call.startswith("syncfs("):
            syncs.append((number, ""))
        elif folder := re.match(rf"fsync\(\d+<{re.escape(str(root))}/([0-9a-f]{{3}})>", call):
            syncs.append((number, folder[1]))
    assert sorted(links) == sorted(answers) == sorted(said)
    for location, linked in links.items():
        answered = answers[location]
        assert any(linked < sync < answered and folder in ("", location[:3]) for sync, folder in syncs), location
    assert len(syncs) < 150


def test_where_names_are_trusted_the_bytes_are_on_disk_first(root: Path, trace: Path) -> None:
    """In a backup, where a name alone says that a file is held, none is given before a sync of what was written."""
    body = """
trusted = FilesystemBlobs(blobs._path, trusted=True)
spools = [await trusted.spool() for _ in range(20)]
for n, spool in enumerate(spools):
    spool.append(b'%d' % n)
say('written')
await asyncio.gather(*(trusted.put(spool, hashlib.sha256(b'%d' % n).hexdigest()) for n, spool in enumerate(spools)))
for spool in spools:
    spool.close()
await trusted.close()
"""
    run(root, body, *strace(trace, "-s", "200", "-e", "trace=write,fsync,syncfs,linkat"))
    traced = calls(trace)
    written = next(n for n, call in enumerate(traced) if '"written' in call)
    synced = [n for n, call in enumerate(traced) if n > written and re.match(r"syncfs\(|fsync\(.*/spool/", call)]
    links = [n for n, call in enumerate(traced) if call.startswith("linkat(")]
    assert len(links) == 20
    assert min(synced) < min(links)


def test_a_delete_is_on_disk_before_the_answer(root: Path, trace: Path) -> None:
    """A delete syncs the folder after taking the name away, and also where there was nothing to take away."""
    body = """
location = await keep(blobs, b'doomed')
say(location)
await blobs.delete(location)
say('deleted')
await blobs.delete(location)
say('again')
"""
    run(root, body, *strace(trace, "-s", "200", "-e", "trace=write,unlink,unlinkat,fsync,linkat"))
    folder = name_of(b"doomed")[:3]
    traced = calls(trace)
    at = {word: next(n for n, call in enumerate(traced) if f'"{word}' in call) for word in (folder, "deleted", "again")}
    unlinked = next(n for n, call in enumerate(traced) if call.startswith("unlink"))
    synced = [n for n, call in enumerate(traced) if re.match(rf"fsync\(\d+<{re.escape(str(root))}/{folder}>", call)]
    assert any(unlinked < n < at["deleted"] for n in synced)
    assert any(at["deleted"] < n < at["again"] for n in synced)


@pytest.mark.parametrize("when", ["1", "2"])
@pytest.mark.parametrize(("error", "told"), [("EIO", "BlobUnavailable"), ("ENOSPC", "BlobNoSpace")])
async def test_a_failed_sync_of_one_put(
    blobs: FilesystemBlobs, root: Path, trace: Path, when: str, error: str, told: str
) -> None:
    """If the sync of the file, or of the folder, fails, the put says so, keeps nothing and syncs no second time."""
    body = """
spool = await blobs.spool()
spool.append(bytes(100_000))
say(await tried(blobs.put(spool, '0' * 64)))
say(await tried(keep(blobs, bytes(100_000))))
spool.close()
"""
    failing = strace(trace, "-e", "trace=fsync,linkat", "-e", f"inject=fsync:error={error}:when={when}")
    said = run(root, body, *failing)
    assert said[0] == told
    assert await listed(blobs) == [Location.parse(said[1])]
    assert await fetch(blobs, Location.parse(said[1])) == bytes(100_000)
    spools = re.findall(r"fsync\(\d+<[^>]*/spool/([^> ]*)", trace.read_text())
    assert len(spools) == len(set(spools)) == 2


@pytest.mark.parametrize("call", ["syncfs", "sync_file_range"])
async def test_a_failed_sync_of_many_puts(blobs: FilesystemBlobs, root: Path, trace: Path, call: str) -> None:
    """If the shared sync fails, or a file's bytes turn out not to have been written, no put of the batch is kept."""
    body = _MANY + "\nsay(*[location async for location in blobs.list()])"
    said = run(root, body, *strace(trace, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO"))
    outcomes, remaining = said[0].split(), said[1].split()
    refused = [outcome for outcome in outcomes if outcome == "BlobUnavailable"]
    kept = [outcome for outcome in outcomes if outcome != "BlobUnavailable"]
    assert refused
    assert "(INJECTED)" in trace.read_text()
    assert sorted(kept) == remaining == [str(location) for location in await listed(blobs)]


@pytest.mark.parametrize("call", ["linkat", "openat", "flock", "write"])
async def test_other_failures_are_told_and_keep_nothing(
    blobs: FilesystemBlobs, root: Path, trace: Path, call: str
) -> None:
    """A link, an open, a lock or a write that fails makes the upload fail as unavailable, with nothing kept."""
    only = ["-P", f"{root}/spool"] if call == "openat" else []
    body = "sys.exit(0 if await tried(keep(blobs, bytes(1000))) == 'BlobUnavailable' else 1)"
    run(root, body, *strace(trace, *only, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO"))
    assert "(INJECTED)" in trace.read_text()
    assert await listed(blobs) == []


async def test_short_writes_are_gone_on_with(blobs: FilesystemBlobs, root: Path, trace: Path) -> None:
    """A write that takes only some of the bytes is followed by one of the rest."""
    body = """
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
say(await tried(keep(blobs, bytes(50_001))))
say(await keep(blobs, bytes(50_000)))
"""
    said = run(root, body, *strace(trace, "-e", "trace=write"))
    assert said[0] == "BlobNoSpace"
    assert re.search(r"write\(.*, 50001\) = 50000", trace.read_text())
    assert [str(location) for location in await listed(blobs)] == said[1:]


async def test_spools_with_names_work_too(blobs: FilesystemBlobs, root: Path, trace: Path) -> None:
    """Where the filesystem has no nameless files, spools are locked files with names, removed when stale only."""
    body = """
beside = blobs._path / '..' / blobs._path.name  # the path by which strace does not know it
folder = beside / 'spool'
spool = await blobs.spool()
spool.append(b'named')
assert len(os.listdir(folder)) == 1
FilesystemBlobs.create(beside)
assert len(os.listdir(folder)) == 1
location = await blobs.put(spool, hashlib.sha256(b'named').hexdigest())
with blobs.claim(location) as claimed:
    assert not claimed
spool.close()
assert os.listdir(folder) == []
with blobs.claim(location) as claimed:
    assert claimed
say(location)
abandoned = await blobs.spool()
os._exit(0)
"""
    lacking = strace(trace, "-P", f"{root}/spool", "-e", "trace=openat", "-e", "inject=openat:error=EOPNOTSUPP")
    (location,) = run(root, body, *lacking)
    assert await fetch(blobs, Location.parse(location)) == b"named"
    assert len(os.listdir(root / "spool")) == 1
    FilesystemBlobs.create(root)
    assert os.listdir(root / "spool") == []


_READ = """
data = os.urandom(300_000)
location = await keep(blobs, data)
reader = await blobs.open(location, Span(1, 250_000))
pieces = []
while piece := await reader.read(70_000):
    pieces.append(piece)
assert b''.join(pieces) == data[1:250_001]
os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
await reader.warm(0, 300_000)
assert await tried(reader.warm(0, 300_001)) == 'BlobDamaged'
assert await blobs.stat(location) == 300_000
assert await tried(blobs.stat(Location('0' * 64, bytes(8)))) == 'BlobMissing'
say(reader.source)
reader.close()
"""


@pytest.mark.parametrize("lack", ["openat2:error=ENOSYS", "preadv2:error=EOPNOTSUPP", "preadv2:retval=0"])
def test_what_cannot_be_done_at_once_is_done_in_a_thread(root: Path, trace: Path, lack: str) -> None:
    """Without cached opens or reads that do not wait, and with those of Linux 5.9 that lie about the end,
    the same bytes come by way of a thread."""
    call = lack.partition(":")[0]
    assert run(root, _READ, *strace_event_loop(trace, "-e", f"trace={call}", "-e", f"inject={lack}")) == ["disk"]
    assert "(INJECTED)" in trace.read_text()


def test_opens_given_up_in_a_thread_leave_nothing_open(root: Path, trace: Path) -> None:
    """An open that is cancelled while a thread is at it closes the file that the thread then opens."""
    body = """
location = await keep(blobs, bytes(1000))
await blobs.stat(location)
before = len(os.listdir('/proc/self/fd'))
for patience in (0, 0, 0.0001, 0.0003) * 10:
    task = asyncio.create_task(blobs.stat(location))
    await asyncio.sleep(0)
    await asyncio.sleep(patience)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
await asyncio.to_thread(blobs._threads.shutdown)
say(len(os.listdir('/proc/self/fd')) - before)
"""
    lack = strace_event_loop(trace, "-e", "trace=openat2", "-e", "inject=openat2:error=ENOSYS")
    assert run(root, body, *lack) == ["0"]


def test_warms_by_reading_where_sending_to_nowhere_fails(root: Path, trace: Path) -> None:
    """Where the kernel refuses to send to the null device, the bytes are read instead."""
    assert run(root, _READ, *strace(trace, "-e", "trace=sendfile", "-e", "inject=sendfile:error=EINVAL")) == ["disk"]
    assert "(INJECTED)" in trace.read_text()


@pytest.mark.parametrize(
    "failures", ["openat2:error=EAGAIN openat:error=EIO", "preadv2:error=EIO", "sendfile:error=EIO"]
)
def test_a_failing_disk_is_unavailable(root: Path, trace: Path, failures: str) -> None:
    """An error of the disk while opening or reading is no missing blob; whether it is damage, a scrub finds out."""
    (location,) = run(root, "say(await keep(blobs, bytes(1000)))")
    body = f"""
async def read():
    reader = await blobs.open(Location.parse('{location}'))
    try:
        await reader.warm(0, 5000)
    except BlobDamaged:
        pass
    try:
        return len(await reader.read(1000))
    finally:
        reader.close()
say(await tried(read()))
"""
    injected = [option for failure in failures.split() for option in ("-e", f"inject={failure}")]
    calls = ",".join(failure.partition(":")[0] for failure in failures.split())
    only = ["-P", location] if "openat" in calls else []
    assert run(root, body, *strace(trace, "-e", f"trace={calls}", *only, *injected)) == ["BlobUnreadable"]


@pytest.fixture
def small_root(tmp_path: Path) -> Iterator[Path]:
    """A root on a filesystem of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small filesystem; the limit on file sizes is tested for everyone")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=20k", "none", place], check=True)
    try:
        FilesystemBlobs.create(place / "blobs")
        yield place / "blobs"
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount_read_only(place: Path) -> None:
    """Let a filesystem go read-only."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)


async def test_a_full_disk_stops_uploads_alone(small_root: Path) -> None:
    """On a full disk uploads fail for want of space and leave nothing; reads and deletes go on, and room heals it."""
    blobs = FilesystemBlobs(small_root)
    kept = await keep(blobs, bytes(3 << 20))
    spool = await blobs.spool()
    spool.append(bytes(1 << 20))
    with pytest.raises(BlobNoSpace):
        spool.append(bytes(8 << 20))
    with pytest.raises(RuntimeError):
        await blobs.put(spool, name_of(b"spoilt"))
    with pytest.raises(RuntimeError):
        spool.append(b"more")
    await blobs.check()
    assert await fetch(blobs, kept) == bytes(3 << 20)
    assert await listed(blobs) == [kept]
    await blobs.delete(kept)
    spool.close()
    assert await fetch(blobs, await keep(blobs, bytes(7 << 20))) == bytes(7 << 20)
    await blobs.close()


async def test_a_read_only_disk_cannot_serve(small_root: Path) -> None:
    """A filesystem that went read-only fails the check and each change, and still serves reads."""
    blobs = FilesystemBlobs(small_root)
    location = await keep(blobs, b"kept")
    spool = await blobs.spool()
    spool.close()
    remount_read_only(small_root.parent)
    with pytest.raises(BlobUnavailable):
        await blobs.check()
    with pytest.raises(BlobUnavailable):
        await blobs.delete(location)
    with pytest.raises(BlobUnavailable):
        await blobs.spool()
    assert await fetch(blobs, location) == b"kept"
    await blobs.close()


async def test_a_killed_upload_lets_go_of_its_claim(blobs: FilesystemBlobs, root: Path) -> None:
    """A blob whose upload was killed between the put and the close can be claimed; while it lived it could not."""
    body = """
spool = await blobs.spool()
spool.append(b'killed')
say(await blobs.put(spool, hashlib.sha256(b'killed').hexdigest()))
unput = await blobs.spool()
unput.append(b'never put')
signal.pause()
"""
    with start(root, body) as process:
        assert process.stdout is not None
        location = Location.parse(process.stdout.readline().strip())
        try:
            with blobs.claim(location) as claimed:
                assert not claimed
        finally:
            process.kill()
    with blobs.claim(location) as claimed:
        assert claimed
        assert await fetch(blobs, location) == b"killed"
    assert await listed(blobs) == [location]
    assert os.listdir(root / "spool") == []


@pytest.mark.parametrize("call", ["fsync:when=1", "linkat:when=1", "fsync:when=2"])
async def test_killed_at_any_step_of_a_put(blobs: FilesystemBlobs, root: Path, trace: Path, call: str) -> None:
    """An upload killed at a sync or at the link leaves nothing, or a whole blob that can be claimed."""
    name, _, when = call.partition(":")
    killing = strace(trace, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:{when}")
    killed(root, _ONE, *killing)
    for location in await listed(blobs):
        with blobs.claim(location) as claimed:
            assert claimed
        assert await fetch(blobs, location) == bytes(100_000)
    assert os.listdir(root / "spool") == []
