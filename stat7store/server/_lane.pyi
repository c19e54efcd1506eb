from collections.abc import Callable, Mapping
from typing import Protocol, Self

from stat7store.errors import Stat7Error
from stat7store.record import Entry
from stat7store.server.board import OwnMemory
from storage.base import ImmediateFile, Location

class _Connection(Protocol):
    def abort(self) -> None: ...
    def can_send_files(self) -> bool: ...
    def hear(self, data: bytes | None, arrived: int) -> None: ...

class Lane:
    def __new__(
        cls,
        *,
        admit: Callable[[str, Mapping[str, str]], None],
        refusal: type[Stat7Error],
        find: Callable[[bytes], tuple[Entry, int] | None],
        open_now: Callable[[Location], ImmediateFile | None],
        file_type: type,
        go_on: Callable[..., None],
        log: Callable[..., None] | None,
        board: OwnMemory,
        source: str,
        backend: str,
        largest: int,
        most_blocks: int,
        most_files: int,
        timed: bool = True,
    ) -> Self: ...
    def keep_block(self, block: bytes, headers: Mapping[str, str]) -> None: ...
    def keep_file(self, address: bytes, entry: Entry, location: Location, size: int, shared: bytes) -> None: ...
    def answer(self, connection: _Connection, socket: int, data: bytes, arrived: int) -> bool: ...
    def park(self, connection: _Connection, socket: int) -> None: ...
    def unpark(self, socket: int) -> None: ...
    def heard(self, socket: int) -> int: ...
    def turn(self) -> None: ...
    def fileno(self) -> int: ...
