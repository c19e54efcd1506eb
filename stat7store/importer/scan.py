"""Reading a folder: its unchanged files, and all else that is in it, told apart as fast as can be."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from itertools import islice

from stat7store.importer.files import pack_facts
from stat7store.importer.remembered import Remembered, Row, size_in
from storage import compiled

__all__ = ["PlainScan", "Scan", "Slice"]

_NAMES = sys.getfilesystemencoding()

Slice = tuple[list[bytes], list[Row], int, list[bytes]]
"""Names of unchanged files, their rows, the sum of their sizes in bytes, and the other names."""


class PlainScan:
    """One reading of an open folder, against the ``rows`` that are remembered of it.

    Unchanged are regular files of the remembered size, time of change and inode. Others are all other names
    but those of folders, among them the hidden. ``folders`` tells whether a folder was seen; where the file system
    does not say what is one, it is among the others.
    """

    def __init__(self, folder: int, rows: bytes, /) -> None:
        """Begin; ``folder`` is a descriptor, and stays the caller's. Raises ``OSError``."""
        self.folders = False
        self._folder = folder
        self._remembered = Remembered(rows)
        self._entries = os.scandir(folder)

    def __del__(self) -> None:
        with suppress(AttributeError):  # of a folder that could not be read
            self._entries.close()

    def next(self, most: int, /) -> Slice | None:
        """Return what the next names are, at most so many; None at the end. Blocks; raises ``OSError``."""
        names: list[bytes] = []
        rows: list[Row] = []
        others: list[bytes] = []
        entries = list(islice(self._entries, most))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self.folders = True
                continue
            name = entry.name.encode(_NAMES, "surrogateescape")  # as os.fsencode does, in a quarter of its time
            row = self._unchanged(name)
            if row is None:
                others.append(name)
            else:
                names.append(name)
                rows.append(row)
        return (names, rows, sum(map(size_in, rows)), others) if entries else None

    def _unchanged(self, name: bytes) -> Row | None:
        if name.startswith(b".") or (row := self._remembered.get(name)) is None:
            return None
        with suppress(OSError):
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            facts = pack_facts(status.st_size, status.st_mtime_ns, status.st_ino)
            return row if stat.S_ISREG(status.st_mode) and row.startswith(facts) else None
        return None


Scan: type[PlainScan | _scan.Scan] = PlainScan
with suppress(ImportError):
    compiled.wanted()
    from stat7store.importer import _scan

    Scan = _scan.Scan
