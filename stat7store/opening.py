"""Opening a store's folder: the one place where catalog and blob backend are chosen."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Unavailable
from stat7store.settings import Settings
from stat7store.small import SmallFiles
from stat7store.store import Store
from storage.base import BlobError
from storage.filesystem import FilesystemBlobs

FORMAT = 1
FORMAT_FILE = "stat7.json"


def prepare(data: Path) -> None:
    """Make the folder of a store, or check that it is one; idempotent.

    Raises ``Unavailable`` saying what to do if it cannot be made, holds something else, or is of
    another format.
    """
    marker = data / FORMAT_FILE
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if marker.exists():
            found = json.loads(marker.read_bytes()).get("format")
            if found != FORMAT:
                raise Unavailable(f"{data} is of format {found}; this version reads format {FORMAT}")
        elif any(entry.name not in ("catalog", "blobs", "serve.lock") for entry in data.iterdir()):
            raise Unavailable(f"{data} is not empty and holds no STAT7 store; name a new or empty folder")
        (data / "catalog").mkdir(mode=0o700, exist_ok=True)
        FilesystemBlobs.create(data / "blobs")
        if not marker.exists():
            _write_durably(marker, json.dumps({"format": FORMAT}).encode())
    except (OSError, ValueError, AttributeError, BlobError) as error:
        raise Unavailable(f"{data} cannot be used as a store's folder: {error}") from error


def own(data: Path) -> int:
    """Take the folder for one server; return a descriptor that holds it, inherited over a fork.

    Raises ``Unavailable`` while any process of another server still runs on it.
    """
    held = os.open(data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise Unavailable(f"another server is running on {data}; stop it first, or name another folder") from error
    return held


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store in ``settings.data``, which ``prepare`` has made, and close it at the end.

    LMDB wants to be opened once in a process, and after any fork.
    """
    catalog = LmdbCatalog(settings.data / "catalog", map_size=settings.map_size)
    try:
        blobs = FilesystemBlobs(settings.data / "blobs")
        try:
            small = SmallFiles(catalog, blobs)
            try:
                yield Store(
                    catalog, blobs, accepted=settings.accept, max_size=int(settings.max_upload_size), small=small
                )
            finally:
                await small.close()
        finally:
            await blobs.close()
    finally:
        await catalog.close()


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # a rename alone may not survive power loss
    finally:
        os.close(folder)
