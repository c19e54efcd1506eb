"""Whether a folder can hold a store at all: its owner, its filesystem, and the clock of the machine."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from stat7store.errors import Unavailable
from storage.linux import filesystem_number

PROBES = ".probe-"  # begins the names of files that are there for a moment only
MOUNTS = Path("/proc/self/mountinfo")  # proc(5)
NETWORK_FILESYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
        "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "vboxsf",
        "fuse.ceph", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.rclone",
        "fuse.s3fs", "fuse.seaweedfs", "fuse.sshfs", "fuse.vmhgfs-fuse",
        "fuse of unknown kind",
    }
)  # fmt: skip
_NUMBERS = {  # statfs(2), linux/magic.h, and the sources of those that are not in Linux
    0x01021997: "9p", 0x5346414F: "afs", 0x6B414653: "afs", 0x19830326: "beegfs", 0x00C36400: "ceph",
    0x517B: "smbfs", 0xFE534D42: "cifs", 0xFF534D42: "cifs", 0x73757245: "coda", 0x01161970: "gfs2",
    0x47504653: "gpfs", 0x0BD00BD0: "lustre", 0x564C: "ncpfs", 0x6969: "nfs", 0x7461636F: "ocfs2",
    0x20030528: "orangefs", 0x786F4256: "vboxsf",
    0x65735546: "fuse of unknown kind",
}  # fmt: skip
EARLIEST_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""This version did not exist before; a clock that says so is wrong."""
_DAY_MS = 86_400_000
_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes a space: \040


def check_footing(data: Path, *, network_filesystem: bool = False) -> None:
    """Return if a store can stand in this folder, which is there. Raises ``Unavailable`` saying what to do.

    ``network_filesystem``: it may be on one.
    """
    _refuse_others_folder(data)
    if not network_filesystem:
        refuse_network(data, os.fsdecode(MOUNTS.read_bytes()) if MOUNTS.exists() else "")
    _refuse_unfit(data)


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the filesystem a path is on, by the lines of ``mountinfo``.

    Where they do not tell (in a chroot the mounts outside are not among them) it is the name of its number, or the
    number itself if that is of no network filesystem. Empty if the path cannot be looked at.
    """
    where = os.path.realpath(path)
    longest, kind = -1, ""
    for line in mounts.strip("\n").split("\n") if mounts else ():
        before, _, after = line.partition(" - ")
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the last of those at one point covers the others
            longest, kind = len(point), after.split()[0]
    return kind or _numbered(where)


def _numbered(path: str) -> str:
    try:
        number = filesystem_number(path)
    except OSError:
        return ""
    return _NUMBERS.get(number, f"{number:#x}")


def refuse_network(data: Path, mounts: str) -> None:
    """Raise ``Unavailable`` for a folder on a network filesystem, where LMDB loses data."""
    kind = filesystem_of(data, mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise Unavailable(
            f"{data} is on a network filesystem ({kind}), where locks and mapped memory cannot be trusted; name a "
            "folder on a local disk with --data, or say --network-filesystem if no other machine will ever use it"
        )


def clock_complaint(now_ms: int, newest_ms: int | None) -> str:
    """Return what is wrong with the wall clock, empty if nothing is seen; ``newest_ms`` is the newest file's time."""
    if now_ms < EARLIEST_MS:
        return f"the clock says {_day(now_ms)}, which is before this version was made; set the clock"
    if newest_ms is not None and newest_ms > now_ms + _DAY_MS:
        return (
            f"the clock says {_day(now_ms)}, but the newest file was stored on {_day(newest_ms)}; set the clock, "
            "or new files will be listed as older ones"
        )
    return ""


def _refuse_others_folder(data: Path) -> None:
    user, owner = os.geteuid(), data.stat().st_uid
    if user not in (0, owner) or not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise Unavailable(
            f"{data} belongs to {_name(owner)}, and this process runs as {_name(user)} and cannot use it; "
            f"run it as {_name(owner)}, give the folder to {_name(user)}, or name another folder with --data"
        )


def _refuse_unfit(data: Path) -> None:
    """Do once what every upload will do. Raises ``Unavailable`` naming the step that the filesystem refuses."""
    one, other = (data / f"{PROBES}{secrets.token_hex(8)}" for _ in range(2))
    step = "make a file"
    try:
        file = os.open(one, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            step = "lock a file (flock)"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            step = "sync a file (fsync)"
            os.fsync(file)
            step = "give a file a second name (hard link)"
            os.link(one, other)
            step = "sync a folder (fsync)"
            folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            os.close(file)
            for name in (one, other):
                name.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and any(data.iterdir()):
            return  # it could once; what is stored can still be read and deleted
        raise Unavailable(
            f"{data} cannot hold a store: its filesystem does not let it {step} ({error.strerror}); "
            "name a folder on a local disk with --data, such as one on ext4, XFS or btrfs"
        ) from error


def _name(user: int) -> str:
    try:
        return f"{pwd.getpwuid(user).pw_name} (user {user})"
    except KeyError:
        return f"user {user}"


def _day(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
