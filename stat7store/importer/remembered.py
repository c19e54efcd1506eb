"""What is remembered of the files of one folder: rows in the order of their names, in one piece of bytes.

A row is the length of a name in two bytes, the name, the file's facts, and its address. That takes some
70 bytes a file, and a program in C reads it as it is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property

from stat7store.address import ADDRESS_BYTES, Address
from stat7store.importer.files import FACTS_BYTES, Facts

Row = bytes  # facts, and the address behind them

_LENGTH_BYTES = 2
_ROW_BYTES = FACTS_BYTES + ADDRESS_BYTES


def facts_in(row: Row) -> Facts:
    """Return the facts of a row."""
    return Facts.unpacked(row)


def size_in(row: Row) -> int:
    """Return the size of a row's facts."""
    return int.from_bytes(row[:8], "little")


def address_in(row: Row) -> Address:
    """Return the address of a row; if something else wrote it, it is an address of nothing."""
    return Address.of_digest(row[FACTS_BYTES:])


def pack(rows: Iterable[tuple[bytes, Row]]) -> bytes:
    """Write names with their rows; of several with one name the last one counts."""
    latest = dict(rows)
    return b"".join([len(name).to_bytes(_LENGTH_BYTES, "little") + name + latest[name] for name in sorted(latest)])


def unpack(data: bytes) -> Iterator[tuple[bytes, Row]]:
    """Yield what ``pack`` was given, as far as it is whole."""
    for name, end in _places(data):
        yield data[name : end - _ROW_BYTES], data[end - _ROW_BYTES : end]


class Remembered:
    """The rows of a folder, ``rows`` as ``pack`` wrote them."""

    def __init__(self, rows: bytes = b"") -> None:
        self.rows = rows

    def get(self, name: bytes) -> Row | None:
        """Return the row of a name; None if there is none. Some microseconds."""
        if not self.rows:
            return None
        found = bisect_left(self._names, name, key=self._name)
        if found == len(self._names) or self._name(self._names[found]) != name:
            return None
        end = self._names[found] + len(name)
        return self.rows[end : end + _ROW_BYTES]

    @cached_property
    def _names(self) -> array[int]:
        return array("Q", (name for name, _ in _places(self.rows)))

    def _name(self, begin: int) -> bytes:
        length = int.from_bytes(self.rows[begin - _LENGTH_BYTES : begin], "little")
        return self.rows[begin : begin + length]


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each row's name begins and the row ends."""
    name = _LENGTH_BYTES
    while (end := name + int.from_bytes(data[name - _LENGTH_BYTES : name], "little") + _ROW_BYTES) <= len(data):
        yield name, end
        name = end + _LENGTH_BYTES
