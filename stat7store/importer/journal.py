"""What earlier imports brought where: so that an unchanged file need not be read again.

It is a memory and no truth: what it says is asked of the destination each time, and losing it costs
only time. An entry is written after the file is durable at the destination.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.importer.files import Facts

Row = tuple[bytes, int, int, int, bytes]  # name, facts, address
Lookup = Callable[[bytes], Row | None]

_FORMAT = 1
_TABLES = """
CREATE TABLE destinations (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unfinished INTEGER NOT NULL);
CREATE TABLE folders (
    number INTEGER PRIMARY KEY, destination INTEGER NOT NULL, path BLOB NOT NULL, UNIQUE (destination, path)
);
CREATE TABLE files (
    folder INTEGER NOT NULL, name BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, address BLOB NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
"""
_AT_ONCE = 100_000  # entries of one folder that are held in memory: some 30 MB
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
            self._make_tables()
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
        """Note that nothing is left behind."""
        with self._changing():
            self._data.execute("UPDATE destinations SET unfinished = 0 WHERE number = ?", (self._number,))

    def of_folder(self, path: bytes) -> Lookup:
        """Return a function that gives what is known of a file by its name in this folder."""
        with self._telling():
            row = self._data.execute(
                "SELECT number FROM folders WHERE destination = ? AND path = ?", (self._number, path)
            ).fetchone()
            if row is None:
                return lambda name: None
            rows = self._data.execute(
                "SELECT name, size, mtime_ns, inode, address FROM files WHERE folder = ? LIMIT ?", (*row, _AT_ONCE + 1)
            ).fetchall()
        if len(rows) <= _AT_ONCE:
            return {row[0]: row for row in rows}.get
        rows.clear()
        folder = int(row[0])
        return lambda name: self._of_file(folder, name)

    def record(self, entries: Sequence[tuple[bytes, bytes, Facts, Address]]) -> None:
        """Note files that are durable at the destination: folder, name, facts, address."""
        with self._changing():
            numbers: dict[bytes, int] = {}
            for folder in {folder for folder, *_ in entries}:
                self._data.execute(
                    "INSERT OR IGNORE INTO folders (destination, path) VALUES (?, ?)", (self._number, folder)
                )
                (numbers[folder],) = self._data.execute(
                    "SELECT number FROM folders WHERE destination = ? AND path = ?", (self._number, folder)
                ).fetchone()
            self._data.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (numbers[folder], name, facts.size, facts.mtime_ns, facts.inode, bytes(address))
                    for folder, name, facts, address in entries
                ],
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._telling():
            self._data.close()

    def _of_file(self, folder: int, name: bytes) -> Row | None:
        with self._telling():
            found: Row | None = self._data.execute(
                "SELECT name, size, mtime_ns, inode, address FROM files WHERE folder = ? AND name = ?", (folder, name)
            ).fetchone()
        return found

    def _make_tables(self) -> None:
        (found,) = self._data.execute("PRAGMA user_version").fetchone()
        if not found:
            self._data.execute("BEGIN IMMEDIATE")
            if not self._data.execute("PRAGMA user_version").fetchone()[0]:  # nobody else was faster
                for statement in _TABLES.split(";"):
                    self._data.execute(statement)
                self._data.execute(f"PRAGMA user_version = {_FORMAT}")
            self._data.execute("COMMIT")
        elif found != _FORMAT:
            raise Unavailable(f"the journal {self._path} is of format {found}; this version reads format {_FORMAT}")

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
