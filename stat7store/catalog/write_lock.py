"""Who holds the write lock of the embedded catalog: told from outside, by a process that has not opened it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from stat7store.catalog.lmdb import LOCK_FILE, writer_in, writer_offset


class Holding(NamedTuple):
    """A thread holds the lock. ``commits`` is another value once anything was committed."""

    thread: int
    commits: bytes


class WriteLock:
    """The write lock of the catalog in a folder; there may be no catalog yet.

    LMDB's lock is one of the kernel's robust futexes: while it is held its word is the id of the
    thread that holds it, and the kernel clears it when that thread dies. So there is no moment in which
    a process holds the lock and has not yet said so, and programs that know nothing of this are seen too.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ``Unavailable`` if LMDB's lock cannot be understood here."""
        self._path = folder / LOCK_FILE
        self._offset = writer_offset()

    def holding(self) -> Holding | None:
        """Return who holds it now; None if nobody does. Raises ``OSError``."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            head = os.pread(file, self._offset + 4, 0)
        finally:
            os.close(file)
        thread = writer_in(head, self._offset)
        # before the word stand LMDB's own facts, among them the number of the last transaction committed
        return Holding(thread, head[: self._offset]) if thread else None
