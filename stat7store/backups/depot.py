"""Where a backup is kept: blobs, the catalog's snapshot being one of them, and a note that names the snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from stat7store.errors import NotFound, Unavailable
from stat7store.folder import Site
from stat7store.opening import opened_blobs
from stat7store.settings import Settings
from stat7store.translate import blob_errors
from storage.base import BlobStore, Location, Noted, Ownable
from storage.file_notes import read_note, write_note
from storage.filesystem import FilesystemBlobs

FORMAT = 1
NOTE = "stat7-backup.json"


class Note(msgspec.Struct, frozen=True):
    """What a backup says of itself: the store it is of, and its snapshot, empty before the first is complete.

    ``files`` and ``bytes`` are the snapshot's totals, ``at`` when it was taken, in milliseconds since 1970.
    """

    store: str
    snapshot: str = ""
    files: int = 0
    bytes: int = 0
    at: int = 0
    format: int = FORMAT

    @property
    def location(self) -> Location:
        """Where the snapshot is."""
        return Location.parse(self.snapshot)


class Depot:
    """An open backup. ``note`` was read when it was opened."""

    def __init__(self, blobs: BlobStore, note: Note) -> None:
        self.blobs = blobs
        self.note = note

    async def change(self, note: Note) -> None:
        """Put another note in the place of the old one, in one step. Durable on return. Raises ``Unavailable``."""
        assert isinstance(self.blobs, Noted)
        with blob_errors():
            await self.blobs.write_note(NOTE, msgspec.json.encode(note))
        self.note = note


@asynccontextmanager
async def opened_for_writing(where: Path | Site, settings: Settings, spools: Path, store: str) -> AsyncIterator[Depot]:
    """Open the backup of a store, or begin one in a new or empty folder or bucket.

    Raises ``Unavailable`` if there is anything else, or the backup of another store.
    """
    if isinstance(where, Path):
        _make_folder(where, store)
    async with opened_blobs(where, settings, spools) as blobs:
        with blob_errors():
            await blobs.check()
        note = await _note(blobs, where)
        with blob_errors():
            if note is None and await anext(blobs.list(), None) is not None:
                raise Unavailable(
                    f"{where} holds blobs, and no backup: they may be another store's; name another place"
                )
            if isinstance(blobs, Ownable):
                await blobs.own(f"backup-{store}")  # no store takes it for its own blobs then
        depot = Depot(blobs, note or Note(store))
        if depot.note.store != store:
            raise Unavailable(f"{where} is the backup of another store; name another place")
        if note is None:
            await depot.change(depot.note)
        yield depot


@asynccontextmanager
async def opened_for_reading(where: Path | Site, settings: Settings, spools: Path) -> AsyncIterator[Depot]:
    """Open a backup that is complete. Raises ``NotFound`` if there is none."""
    if isinstance(where, Path) and read_note(where, NOTE) is None:
        raise NotFound(f"{where} holds no backup")
    async with opened_blobs(where, settings, spools) as blobs:
        note = await _note(blobs, where)
        if note is None or not note.snapshot:
            raise NotFound(f"{where} holds no complete backup")
        yield Depot(blobs, note)


async def _note(blobs: BlobStore, where: Path | Site) -> Note | None:
    assert isinstance(blobs, Noted)
    with blob_errors():
        text = await blobs.note(NOTE)
    return None if text is None else _decoded(text, where)


def _decoded(text: bytes, where: Path | Site) -> Note:
    try:
        note = msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{where}: {NOTE} cannot be read: {error}") from error
    if note.format != FORMAT:
        raise Unavailable(f"{where} is a backup of format {note.format}; this version reads format {FORMAT}")
    return note


def _make_folder(folder: Path, store: str) -> None:
    """Make the folder of a backup, its note first: so it is told from other folders wherever this is cut short."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        strangers = [entry.name for entry in folder.iterdir() if not entry.name.startswith(NOTE)]
    except OSError as error:
        raise Unavailable(f"{folder} cannot be used: {error}") from error
    with blob_errors():
        text = read_note(folder, NOTE)
        if text is None and strangers:
            raise Unavailable(f"{folder} is not empty and holds no backup; name a new or empty folder")
        note = Note(store) if text is None else _decoded(text, folder)
        if note.store != store:
            raise Unavailable(f"{folder} is the backup of another store; name another place")
        if text is None:
            write_note(folder, NOTE, msgspec.json.encode(note))
        FilesystemBlobs.create(folder)
