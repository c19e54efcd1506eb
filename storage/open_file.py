"""An open local file that is read only where that takes no waiting."""

from __future__ import annotations

import os
from contextlib import suppress

from storage.linux import Linux


class OpenFile:
    """An ``ImmediateFile``: closed when nobody holds it any more, so a cache may drop it at any time."""

    __slots__ = ("__weakref__", "_file", "_linux", "size")

    source = "page cache"

    def __init__(self, file: int, size: int, linux: Linux) -> None:
        """Take over the descriptor ``file``."""
        self._file = file
        self._linux = linux
        self.size = size

    def fileno(self) -> int:
        """Return the file descriptor; it belongs to this object."""
        return self._file

    def fill(self, buffer: memoryview, start: int) -> bool:
        """See ``ImmediateFile``."""
        try:
            return os.preadv(self._file, (buffer,), start, os.RWF_NOWAIT) == len(buffer)
        except OSError:  # not all of it is in memory, or something is amiss: an ordinary read will tell
            return False

    def is_resident(self, start: int, length: int) -> bool:
        """See ``ImmediateFile``."""
        # its size by now, and not as it was opened: nobody reads where this moves to
        size = os.lseek(self._file, 0, os.SEEK_END)
        return start + length <= size and self._linux.is_resident(self._file, start, length)

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self._file)
