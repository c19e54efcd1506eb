"""Files that stay open for a while, since opening one takes longer than reading a little of it."""

from __future__ import annotations

import asyncio
import resource
from typing import Generic, TypeVar

from storage.base import Location
from storage.open_file import OpenFile
from storage.recent import Recent

File = TypeVar("File", bound=OpenFile)

_MOST_FILES = 2048
_TURN_EVERY_S = 20.0


class KeptFiles(Generic[File]):
    """Files that one event loop has open, each for half a minute or so after its last use.

    One that is deleted keeps its room on disk for as long: at most two turns.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        """``most_bytes``: larger files are not kept, where the room of those that are gone is soon needed."""
        self._most_bytes = most_bytes
        self._files: Recent[Location, File] = Recent(min(_MOST_FILES, _most_open_files() // 8))
        self._turning: asyncio.TimerHandle | None = None

    def get(self, location: Location) -> File | None:
        """Return the open file of a blob, None if there is none."""
        return self._files.get(location)

    def keep(self, location: Location, file: File) -> None:
        """Keep a file open, unless it is too large for that."""
        if self._most_bytes is not None and file.size > self._most_bytes:
            return
        self._files.put(location, file)
        if self._turning is None:
            self._turning = asyncio.get_running_loop().call_later(_TURN_EVERY_S, self._turn)

    def _turn(self) -> None:
        self._files.turn()
        self._turning = asyncio.get_running_loop().call_later(_TURN_EVERY_S, self._turn) if self._files else None

    def drop(self, location: Location) -> None:
        """Keep nothing open of this blob."""
        self._files.drop(location)

    def give_up(self) -> bool:
        """Close all that nobody else holds; tell whether there were any."""
        some = len(self._files) > 0
        self._files.turn()
        self._files.turn()
        return some

    def close(self) -> None:
        """Let go of everything for good; repeats are harmless."""
        if self._turning is not None:
            self._turning.cancel()
        self._files = Recent(0)


def _most_open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
