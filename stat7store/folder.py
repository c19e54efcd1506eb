"""The folder of a store: its format, and the list of the backends that hold its blobs."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from stat7store.errors import Unavailable
from stat7store.footing import PROBES, check_footing
from storage.base import BlobError
from storage.filesystem import FilesystemBlobs

FORMAT = 2
FORMAT_FILE = "stat7.json"
_WITHOUT_BACKENDS = 1  # the format before this one
FILESYSTEM = "filesystem"
CATALOG, BLOBS, SPOOLS = "catalog", "blobs", "spools"
RESTORING = "restoring"  # there, with what is not complete, from the beginning of a restore to its end
_OWN_NAMES = (CATALOG, BLOBS, SPOOLS, "serve.lock", "stat7.new")
_MOST_BACKENDS = 256  # the catalog keeps the number in a byte


class Site(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a backend is, and how it is reached; never what grants access to it.

    ``url`` is ``filesystem`` (the store's own folder) or ``s3://bucket/prefix``. Two sites with the
    same ``url`` and ``endpoint`` are the same backend.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    path_style: bool = False

    def __str__(self) -> str:
        return f"{self.url} at {self.endpoint}" if self.endpoint else self.url

    def is_same(self, other: Site) -> bool:
        """Tell whether both are one backend."""
        return (self.url, self.endpoint) == (other.url, other.endpoint)


class Facts(msgspec.Struct, frozen=True):
    """What the folder's own file says: the backends by number, and which of them is for new files.

    ``store`` is the store's own name, made by chance when it was created.
    """

    store: str
    format: int = FORMAT
    primary: int = 0
    backends: dict[int, Site] = {}


class _Format(msgspec.Struct):
    format: object = None


def make_folder(data: Path, *, network_filesystem: bool = False) -> None:
    """Make the folder of a store, but for its backends, or check that it is one; idempotent.

    One of format 1 is brought to format 2. ``network_filesystem``: it may be on one. Raises
    ``Unavailable`` saying what to do if it cannot be made, cannot hold a store, holds something else,
    or is of another format.
    """
    with _saying_why(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_footing(data, network_filesystem=network_filesystem)
        if (data / FORMAT_FILE).exists():
            _bring_up_to_date(data)
            _read(data)
        elif (data / RESTORING).exists():
            raise Unavailable(f"a restore into {data} was begun and is not complete; run it again to go on")
        elif any(not _is_own(entry.name) for entry in data.iterdir()):
            raise Unavailable(f"{data} is not empty and holds no STAT7 store; name a new or empty folder")
        else:
            with _locked(data):
                if not (data / FORMAT_FILE).exists():
                    lost = {0: Site(FILESYSTEM)} if (data / BLOBS).exists() else {}  # so that rebuild finds them
                    _write(data, Facts(secrets.token_hex(16), backends=lost))
        (data / CATALOG).mkdir(mode=0o700, exist_ok=True)


def begin_restore(data: Path, site: Site, *, network_filesystem: bool = False) -> Facts:
    """Make the folder of a store that is to be restored, or find the one in which that was begun before.

    Until ``finish_restore`` it is no store: nothing serves it. ``network_filesystem``: it may be on one.
    Raises ``Unavailable`` if it holds anything else or cannot hold a store, or if the bytes went to
    another site before.
    """
    with _saying_why(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = data / RESTORING
        if (data / FORMAT_FILE).exists() or (not work.exists() and any(data.iterdir())):
            raise Unavailable(f"{data} is not empty; name a new or empty folder")
        check_footing(data, network_filesystem=network_filesystem)
        work.mkdir(mode=0o700, exist_ok=True)
        if not (work / FORMAT_FILE).exists():
            _write(work, Facts(secrets.token_hex(16), backends={0: site}))
        facts = _read(work)
        if not facts.backends[0].is_same(site):
            raise Unavailable(
                f"the restore into {data} was begun with its bytes on {facts.backends[0]}; go on with that"
            )
        if site.url == FILESYSTEM:
            FilesystemBlobs.create(data / BLOBS)
        return facts


def finish_restore(data: Path) -> None:
    """Make a store of the folder, the catalog being complete in ``RESTORING``. Durable on return.

    Raises ``Unavailable``; it may be called again then.
    """
    with _saying_why(data):
        work = data / RESTORING
        sync_folder(work / CATALOG)
        shutil.rmtree(data / CATALOG, ignore_errors=True)  # if this was cut short right after the next line
        (work / CATALOG).rename(data / CATALOG)
        sync_folder(data)
        (work / FORMAT_FILE).rename(data / FORMAT_FILE)  # last: this makes it a store
        sync_folder(data)
        shutil.rmtree(work, ignore_errors=True)


def read_facts(data: Path) -> Facts:
    """Return what is known of a store's backends. Raises ``Unavailable``."""
    with _saying_why(data):
        return _read(data)


def has_catalog(data: Path) -> bool:
    """Tell whether a store's catalog is there, and not of 0 bytes, which LMDB would take for a new one."""
    try:
        return (data / CATALOG / "data.mdb").stat().st_size > 0
    except FileNotFoundError:
        return False


def enlist(data: Path, site: Site | None, *, primary: bool) -> int:
    """Take a backend into the list if it is not there yet; return its number. Durable on return.

    The folder is one that ``make_folder`` made. None stands for the one that is for new files
    already; in a new store, for the filesystem.
    ``primary``: from now on it is the one for new files. Any process may call it at any time.
    Raises ``Unavailable``.
    """
    with _saying_why(data), _locked(data):
        facts = _read(data)
        if site is None:
            site = facts.backends.get(facts.primary, Site(FILESYSTEM))
        known = [number for number, each in facts.backends.items() if each.is_same(site)]
        number = known[0] if known else len(facts.backends)
        if number == _MOST_BACKENDS:
            raise Unavailable(f"a store has at most {_MOST_BACKENDS} backends, and this one has them all")
        if site.url == FILESYSTEM:
            FilesystemBlobs.create(data / BLOBS)
        changed = Facts(
            facts.store, primary=number if primary else facts.primary, backends={**facts.backends, number: site}
        )
        if changed != facts:
            _write(data, changed)
        return number


def _read(data: Path) -> Facts:
    text = (data / FORMAT_FILE).read_bytes()
    found = msgspec.json.decode(text, type=_Format).format
    if found == FORMAT:
        return msgspec.json.decode(text, type=Facts)
    if isinstance(found, int) and found > FORMAT:
        advice = "a newer version of STAT7 Store has written it; use that version, or name another folder"
    elif found == _WITHOUT_BACKENDS:
        advice = "stat7store serve brings it up to date"
    else:
        advice = "no version of STAT7 Store has written that; restore the file from a backup"
    raise Unavailable(f"{data} is of format {found}; this version reads format {FORMAT}: {advice}")


def _bring_up_to_date(data: Path) -> None:
    """Give a folder of format 1, which had its blobs in itself only, the list of its backends. Durable on return."""
    with _locked(data):
        if msgspec.json.decode((data / FORMAT_FILE).read_bytes(), type=_Format).format == _WITHOUT_BACKENDS:
            _write(data, Facts(secrets.token_hex(16), backends={0: Site(FILESYSTEM)}))


def _is_own(name: str) -> bool:
    return name in _OWN_NAMES or name.startswith(PROBES)


@contextmanager
def _saying_why(data: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, msgspec.MsgspecError, BlobError) as error:
        raise Unavailable(f"{data} cannot be used as a store's folder: {error}") from error


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(data: Path, facts: Facts) -> None:
    """Write the folder's own file. Durable on return."""
    path = data / FORMAT_FILE
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(data)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename alone may not survive power loss. May raise ``OSError``."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
