"""Where a store can stand, and where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Unavailable
from stat7store.folder import CATALOG, FILESYSTEM, FORMAT_FILE, Site, make_folder, read_facts
from stat7store.footing import EARLIEST_MS, clock_complaint, filesystem_of, refuse_network
from stat7store.footing import MOUNTS as MOUNTS_FILE
from storage.linux import filesystem_number
from tests.running import RunningServer

DAY_MS = 86_400_000
MOUNTS = """\
21 1 252:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:26 / /srv rw - nfs4 nas:/export rw
31 30 252:3 / /srv/local rw - xfs /dev/vdb rw
32 21 0:27 / /mnt/two\\040words rw - fuse.sshfs me@there: rw
33 21 0:28 / /home rw - autofs systemd-1 rw
34 33 0:29 / /home rw - cifs //nas/home rw
35 21 0:31 / /mnt/données rw - nfs nas:/data rw
"""


def started(data: Path, *flags: str, under: Sequence[str] = ()) -> tuple[int, str]:
    """Start a server that is to refuse, by way of the command ``under``; return its exit code and what it said."""
    ended = subprocess.run(
        [*under, sys.executable, "-m", "stat7store", "serve", "--data", str(data), "--port=0", *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", "nfs4"),
        ("/srv/media", "nfs4"),
        ("/srv/local/media", "xfs"),
        ("/srvlocal", "ext4"),
        ("/mnt/two words/media", "fuse.sshfs"),
        ("/home/me", "cifs"),
        ("/mnt/données/media", "nfs"),
    ],
)
def test_the_filesystem_of_a_folder_is_that_of_its_closest_mount(folder: str, kind: str) -> None:
    """The longest mount point counts, and of several at one point the last."""
    assert filesystem_of(Path(folder), MOUNTS) == kind


def test_this_machines_own_mounts_can_be_read(tmp_path: Path) -> None:
    """The kernel names some filesystem for any folder: by its list, or where that has not all mounts, by number."""
    listed = os.fsdecode(MOUNTS_FILE.read_bytes()) if MOUNTS_FILE.exists() else ""
    for mounts in (listed, ""):
        assert filesystem_of(tmp_path, mounts)
    told = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], check=True, capture_output=True, text=True).stdout
    assert filesystem_number(str(tmp_path)) == int(told, 16)
    assert filesystem_of(tmp_path / "missing", "") == ""


@pytest.mark.parametrize("mounts", ["", "22 27 0:21 / /proc rw - proc proc rw\n"])
@pytest.mark.parametrize(("number", "kind"), [(0x6969, "nfs"), (0xFF534D42, "cifs"), (0x65735546, "fuse of unknown")])
def test_network_filesystems_are_refused_where_mounts_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, number: int, kind: str
) -> None:
    """In a chroot, whose list lacks the mount that it is on, the filesystem's number tells."""
    monkeypatch.setattr("stat7store.footing.filesystem_number", lambda path: number)
    with pytest.raises(Unavailable, match=rf"network filesystem \({kind}"):
        refuse_network(tmp_path, mounts)
    monkeypatch.setattr("stat7store.footing.filesystem_number", lambda path: 0xEF53)  # ext4
    refuse_network(tmp_path, mounts)


def test_network_filesystems_are_refused_by_name() -> None:
    """The refusal names the filesystem and what to do; a local one is let be."""
    with pytest.raises(Unavailable, match=r"network filesystem \(nfs4\).*--network-filesystem"):
        refuse_network(Path("/srv/media"), MOUNTS)
    refuse_network(Path("/srv/local"), MOUNTS)


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Nothing is changed in it; the line says which version to use, and the exit code is that of other refusals."""
    data = tmp_path / "data"
    make_folder(data)
    (data / FORMAT_FILE).write_text(json.dumps({"format": 3, "store": "later"}))
    code, said = started(data)
    assert code == 1
    assert "is of format 3; this version reads format 2: a newer version" in said
    assert json.loads((data / FORMAT_FILE).read_text())["format"] == 3


def test_a_folder_of_format_1_is_brought_up_to_date(tmp_path: Path) -> None:
    """It had its blobs in itself only: that is what the new list of its backends says, and it serves."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / FORMAT_FILE).write_text('{"format": 1}')
    with pytest.raises(Unavailable, match="stat7store serve brings it up to date"):
        read_facts(data)
    make_folder(data)
    facts = read_facts(data)
    assert (facts.format, facts.primary, facts.backends) == (2, 0, {0: Site(FILESYSTEM)})
    make_folder(data)
    assert read_facts(data) == facts
    with RunningServer(data) as server:
        assert server.url


async def test_a_catalog_of_another_format_is_told_of_before_anything_serves(tmp_path: Path) -> None:
    """An older one is to be made anew, a newer one is for its own version."""
    data = tmp_path / "data"
    make_folder(data)
    await LmdbCatalog(data / CATALOG).close()
    _write_format(data, b"1")
    code, said = started(data)
    assert code == 1
    assert "stat7store rebuild" in said
    assert "giving up" not in said
    _write_format(data, b"9")
    assert "a newer version" in started(data)[1]


def _write_format(data: Path, number: bytes) -> None:
    import lmdb

    with lmdb.open(str(data / CATALOG), max_dbs=16) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", number, db=environment.open_db(b"meta", txn=transaction))


def test_a_folder_that_is_not_ours_to_use_is_refused(tmp_path: Path) -> None:
    """The line names the owner, who we are, and what to do."""
    data = tmp_path / "data"
    make_folder(data)
    if os.geteuid() == 0:  # who may use any folder, until the capabilities for it are taken away
        os.chown(data, 12345, 12345)
        code, said = started(data, under=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        owner, user = "user 12345", "root (user 0)"
    else:
        data.chmod(0o500)
        code, said = started(data)
        data.chmod(0o700)
        owner = user = f"(user {os.geteuid()})"
    assert code == 1
    assert f"{owner}, and this process runs as" in said
    assert f"{user} and cannot use it; run it as" in said


def test_a_filesystem_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names what is missing, and leaves nothing behind."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT answers link(2)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Unavailable, match=r"second name \(hard link\) \(Operation not permitted\); name a folder"):
        make_folder(tmp_path / "data")
    assert not [*(tmp_path / "data").iterdir()]


def test_clocks_that_are_far_off_are_complained_of() -> None:
    """Before this version was made, or more than a day before the newest file; a day and less is nothing to say."""
    now = EARLIEST_MS + 400 * DAY_MS
    assert clock_complaint(now, None) == ""
    assert clock_complaint(now, now + DAY_MS) == ""
    assert "newest file was stored on" in clock_complaint(now, now + DAY_MS + 1)
    assert "before this version was made" in clock_complaint(EARLIEST_MS - 1, None)


async def test_a_clock_before_the_newest_file_is_warned_of_at_the_start(tmp_path: Path) -> None:
    """The server serves: no protection relies on the clock."""
    from stat7store.opening import open_store, prepare
    from stat7store.settings import load_settings
    from stat7store.store import unix_ms
    from tests.media import sample

    settings = load_settings(data=tmp_path / "data")
    prepare(settings)
    async with open_store(settings) as store:
        store._now = lambda: unix_ms() + 3 * DAY_MS
        async with store.upload("tomorrow.jpg") as upload:
            await upload.write(sample("rocket.jpg").read_bytes())
            await upload.commit()
    server = RunningServer(tmp_path / "data").start()
    server.stop()
    assert "newest file was stored on" in server.log
