"""What earlier imports brought where: so that an unchanged file need not be read again.

It is a memory and no truth: what it says is asked of the destination each time, and losing it costs
only time. An entry is written after the file is durable at the destination.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.importer.files import Facts
from stat7store.importer.remembered import Remembered, Row, pack, unpack


class Entry(NamedTuple):
    """A file that is durable at the destination."""

    folder: bytes
    name: bytes
    facts: Facts
    address: Address


_FORMAT = 3
_TABLES = """
DROP TABLE IF EXISTS destinations;
DROP TABLE IF EXISTS folders;
DROP TABLE IF EXISTS files;
DROP TABLE IF EXISTS parts;
CREATE TABLE destinations (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unfinished INTEGER NOT NULL);
CREATE TABLE folders (
    number INTEGER PRIMARY KEY, destination INTEGER NOT NULL, path BLOB NOT NULL, UNIQUE (destination, path)
);
CREATE TABLE parts (number INTEGER PRIMARY KEY, folder INTEGER NOT NULL, rows BLOB NOT NULL);
CREATE INDEX parts_of_folders ON parts (folder);
"""
_MOST_BYTES = 128 << 20  # that are held of one folder: almost two million files; what it has more is read each time
_BUSY_S = 30.0


class Journal:
    """The entries for one destination, in a file that several destinations and processes may share.

    Every method may be called from any thread, blocks, and raises ``Unavailable`` if the file cannot be used.
    """

    def __init__(self, path: Path, destination: str, *, read_only: bool = False) -> None:
        """Open the file, or make it. With ``read_only`` nothing is made or changed."""
        self._path = path
        self._lock = threading.Lock()
        with self._telling():
            where = _readable(path) if read_only else f"{path.absolute().as_uri()}?mode=rwc"
            self._data = sqlite3.connect(
                where, uri=True, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
            if not read_only:
                # survives a killed process; a power cut may take the last entries, and costs only time
                self._data.execute("PRAGMA journal_mode = WAL")
                self._data.execute("PRAGMA synchronous = NORMAL")
            self._make_tables(read_only)
            self._number = self._destination(destination, read_only)

    def begin(self) -> bool:
        """Note that an import is under way; tell whether an earlier one did not end in order."""
        with self._changing():
            (unfinished,) = self._data.execute(
                "SELECT unfinished FROM destinations WHERE number = ?", (self._number,)
            ).fetchone()
            self._data.execute("UPDATE destinations SET unfinished = 1 WHERE number = ?", (self._number,))
        return bool(unfinished)

    def end(self) -> None:
        """Note that nothing is left behind, and join the parts of each folder."""
        with self._telling():
            split = self._data.execute(
                "SELECT folder FROM parts JOIN folders ON folders.number = folder WHERE destination = ? "
                "GROUP BY folder HAVING count(*) > 1",
                (self._number,),
            ).fetchall()
        for (folder,) in split:
            with self._changing():  # others may wait for their turn
                parts = self._parts(folder)
                self._data.execute("DELETE FROM parts WHERE folder = ?", (folder,))
                self._data.execute("INSERT INTO parts (folder, rows) VALUES (?, ?)", (folder, _joined(parts)))
        with self._changing():
            self._data.execute("UPDATE destinations SET unfinished = 0 WHERE number = ?", (self._number,))

    def of_folder(self, path: bytes) -> Remembered:
        """Return what is known of the files in this folder."""
        with self._telling():
            row = self._data.execute(
                "SELECT number FROM folders WHERE destination = ? AND path = ?", (self._number, path)
            ).fetchone()
            parts = [] if row is None else self._parts(row[0])
        return Remembered(_joined(parts))

    def record(self, entries: Sequence[Entry]) -> None:
        """Note files: one part for each folder, which counts before those that it has already."""
        rows: dict[bytes, list[tuple[bytes, Row]]] = {}
        for folder, name, facts, address in entries:
            rows.setdefault(folder, []).append((name, facts.packed() + address))
        with self._changing():
            for folder, among in rows.items():
                self._data.execute(
                    "INSERT OR IGNORE INTO folders (destination, path) VALUES (?, ?)", (self._number, folder)
                )
                (number,) = self._data.execute(
                    "SELECT number FROM folders WHERE destination = ? AND path = ?", (self._number, folder)
                ).fetchone()
                self._data.execute("INSERT INTO parts (folder, rows) VALUES (?, ?)", (number, pack(among)))

    def close(self) -> None:
        """Let go of the file."""
        with self._telling():
            self._data.close()

    def _parts(self, folder: int) -> list[bytes]:
        """Return the parts of a folder, the newest last; of too many the oldest are missing."""
        parts: list[bytes] = []
        newest = self._data.execute("SELECT rows FROM parts WHERE folder = ? ORDER BY number DESC", (folder,))
        for (rows,) in newest:
            if parts and sum(map(len, parts)) + len(rows) > _MOST_BYTES:
                break
            parts.append(rows)
        return parts[::-1]

    def _make_tables(self, read_only: bool) -> None:
        (found,) = self._data.execute("PRAGMA user_version").fetchone()
        if found > _FORMAT:
            raise Unavailable(
                f"a newer version of STAT7 Store has written the journal {self._path}; "
                "use that version, or delete it, which costs only time"
            )
        if found == _FORMAT:
            return
        if read_only:
            self._data.close()
            self._data = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._data.execute("BEGIN IMMEDIATE")
        if self._data.execute("PRAGMA user_version").fetchone()[0] < _FORMAT:  # nobody else was faster
            for statement in _TABLES.split(";"):
                self._data.execute(statement)
            self._data.execute(f"PRAGMA user_version = {_FORMAT}")
        self._data.execute("COMMIT")

    def _destination(self, name: str, read_only: bool) -> int:
        if not read_only:
            self._data.execute("INSERT OR IGNORE INTO destinations (name, unfinished) VALUES (?, 0)", (name,))
        row = self._data.execute("SELECT number FROM destinations WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._telling():
            self._data.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._data.execute("ROLLBACK")
                raise
            self._data.execute("COMMIT")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise Unavailable(
                    f"the journal {self._path} cannot be used: {error}; it may be deleted, which costs only time"
                ) from error


def _joined(parts: Sequence[bytes]) -> bytes:
    """Return parts as one; of two rows for one name that in the later part counts."""
    return parts[0] if len(parts) == 1 else pack(chain.from_iterable(map(unpack, parts)))


def _readable(path: Path) -> str:
    """Return how SQLite opens a journal, or an empty one in memory, so that no file is made or changed."""
    if not path.exists():
        return ":memory:"
    # nobody else has it open: read it as a plain file, without the files that sharing takes
    alone = not path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"


def default_path() -> Path:
    """Return where the journal of imports over HTTP is kept: in the state folder of the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "stat7store" / "import-journal.sqlite"
