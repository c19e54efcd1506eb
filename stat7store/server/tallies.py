"""What the processes of a node have counted, and who they are, told in any one of them."""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from zlib import crc32

import msgspec

_SIDE = 4096 - 8  # bytes of one side of a place: its header and JSON text
_SIDES = 8  # where the two sides begin, in bytes; before them stands which one is whole, and the process's id
_PLACE = _SIDES + 2 * _SIDE
_HEADER = struct.Struct("<II")  # length and checksum of the text
_PID = struct.Struct("<I")
_PID_AT = _SIDES - _PID.size
_TRIES = 3
_EVERY_S = 1.0


class TalliesMemory:
    """The memory that the processes share; to be made before they are forked."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` are those of the processes, in the order of their places."""
        self.names = tuple(names)
        self.memory = mmap.mmap(-1, len(names) * _PLACE)


class Tallies:
    """One process's end. Each writes its own place only, and reads everyone's.

    A place has two sides: one is whole while the other is being written, so that a process that is
    killed in the midst of it spoils nothing. A process that replaces a dead one goes on from its counts.
    """

    def __init__(self, memory: TalliesMemory, process: int) -> None:
        """Take a process's place, from 0; its predecessor must be dead."""
        if not 0 <= process < len(memory.names):
            raise ValueError(f"process {process} of {len(memory.names)}")
        self._memory = memory.memory
        self._names = memory.names
        self._own = process
        self._before = self._read(process)
        _PID.pack_into(self._memory, process * _PLACE + _PID_AT, os.getpid())

    def tell(self, counts: dict[str, int]) -> None:
        """Write what this process has counted since it started."""
        text = msgspec.json.encode(_sum([self._before, counts]))
        if _HEADER.size + len(text) > _SIDE:
            raise ValueError(f"{len(counts)} counters are too many")
        start = self._own * _PLACE
        side = 1 - self._memory[start]
        at = start + _SIDES + side * _SIDE
        self._memory[at : at + _HEADER.size + len(text)] = _HEADER.pack(len(text), crc32(text)) + text
        self._memory[start] = side

    def total(self) -> dict[str, int]:
        """Return the sums over all processes, dead ones too, by name."""
        return _sum([self._read(process) for process in range(len(self._names))])

    def processes(self) -> dict[str, int]:
        """Return the ids of the processes that have started, by name; a dead one keeps its own until it is replaced."""
        pids = {name: _PID.unpack_from(self._memory, at * _PLACE + _PID_AT)[0] for at, name in enumerate(self._names)}
        return {name: pid for name, pid in pids.items() if pid}

    async def keep_telling(self, counts: Callable[[], dict[str, int]]) -> None:
        """Write what ``counts`` returns once a second, and when cancelled."""
        try:
            while True:
                self.tell(counts())
                await asyncio.sleep(_EVERY_S)
        finally:
            self.tell(counts())

    def _read(self, process: int) -> dict[str, int]:
        start = process * _PLACE
        for _ in range(_TRIES):  # both sides may be written while one of them is read
            at = start + _SIDES + self._memory[start] * _SIDE
            length, checksum = _HEADER.unpack_from(self._memory, at)
            text = self._memory[at + _HEADER.size : at + _HEADER.size + min(length, _SIDE)]
            if length and crc32(text) == checksum:
                return msgspec.json.decode(text, type=dict[str, int])
        return {}


def _sum(tallies: list[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for tally in tallies for name in tally})
    return {name: sum(tally.get(name, 0) for tally in tallies) for name in names}
