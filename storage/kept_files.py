"""Files that stay open for a while, since opening one takes longer than reading a little of it."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from typing import Generic, TypeVar

from storage.base import Location
from storage.open_file import OpenFile
from storage.recent import Recent

File = TypeVar("File", bound=OpenFile)

_MOST_FILES = 2048
_SMALL_BYTES = 256 * 1024
_SPARE_FILES = 32
_LOOK_EVERY_S = 1.0
_LOOKS_A_TURN = 20


class KeptFiles(Generic[File]):
    """Files that one event loop has open, each for half a minute or so after it was last asked for here.

    One that is deleted, by whomever, keeps its room on disk for a second or so, if it is small (256 KiB)
    for as long as it is kept.
    """

    def __init__(self, *, only_small: bool = False) -> None:
        """``only_small``: where the room of what is deleted is needed at once, no large file is kept."""
        self._only_small = only_small
        self._files: Recent[Location, File] = Recent(min(_MOST_FILES, _most_open_files() // 8))
        self._looking: asyncio.TimerHandle | None = None
        self._looks = 0

    def get(self, location: Location) -> File | None:
        """Return the open file of a blob, None if there is none."""
        return self._files.get(location)

    def keep(self, location: Location, file: File) -> None:
        """Keep a file open, unless it is too large for that, or others soon need what may still be opened."""
        if self._only_small and file.size > _SMALL_BYTES:
            return
        if file.fileno() >= _most_open_files() - _SPARE_FILES:  # the lowest number that was free
            return
        self._files.put(location, file)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looks += 1
        if self._looks % _LOOKS_A_TURN == 0:
            self._files.turn()
        for location, file in self._files.items():
            if file.size > _SMALL_BYTES and not os.fstat(file.fileno()).st_nlink:
                self._files.drop(location)
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look) if self._files else None

    def drop(self, location: Location) -> None:
        """Keep nothing open of this blob."""
        self._files.drop(location)

    def make_way(self, error: OSError) -> bool:
        """Close all that nobody else holds if no more files may be open; tell whether to try again.

        What is kept open is worth less than what is asked for.
        """
        if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
            return False
        self._files.turn()
        self._files.turn()
        return True

    def close(self) -> None:
        """Let go of everything for good; repeats are harmless."""
        if self._looking is not None:
            self._looking.cancel()
        self._files = Recent(0)


def _most_open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
