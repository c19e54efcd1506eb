"""Reading files one after the other, and what becomes of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from stat7store.address import Address, Hasher
from stat7store.errors import Damaged, Stat7Error, Unavailable
from stat7store.importer.files import Changed, Facts, Found, Source, Stopped
from stat7store.importer.outcome import Outcome

T = TypeVar("T")
Judge = Callable[[bytes, int], object]

CHANGING = "it kept changing while it was read"
_TRIES = 3


class Hashed(NamedTuple):
    """A file that was read; ``data`` holds its bytes if they are few."""

    found: Found
    address: Address
    facts: Facts
    data: bytes | None


def read_each(files: Iterable[Found], read: Callable[[Found], T], done: list[T | Outcome]) -> None:
    """Read the files in order, and add to ``done`` what ``read`` makes of each, until the import is stopped.

    A file that changes meanwhile is read again. One that cannot be read, or that ``read`` refuses,
    has an outcome instead. Raises ``Unavailable``.
    """
    for found in files:
        try:
            done.append(_persistently(found, read))
        except Stopped:
            return


def _persistently(found: Found, read: Callable[[Found], T]) -> T | Outcome:
    for _ in range(_TRIES):
        try:
            return read(found)
        except Changed:
            continue
        except OSError as error:
            return failure(found, error)
        except Unavailable:
            raise
        except Damaged as error:
            return failure(found, error)
        except Stat7Error as error:
            return Outcome(found, "refused", reason=str(error))
    return Outcome(found, "failed", reason=CHANGING)


def failure(found: Found, error: OSError | Stat7Error) -> Outcome:
    """Return the outcome of a file that could not be brought."""
    reason = error.strerror if isinstance(error, OSError) else None
    return Outcome(found, "failed", reason=reason or str(error))


def hash_source(found: Found, source: Source, judge: Judge) -> Hashed:
    """Read a file to its end, unless ``judge`` refuses it by its first block and its size in bytes.

    Raises ``Changed``, ``Stopped``, ``OSError`` and what ``judge`` raises.
    """
    head = source.head()
    judge(head, source.facts.size)
    hasher = Hasher()
    hasher.update(head)
    for block in source.rest():
        hasher.update(block)
    source.check()
    return Hashed(found, hasher.address(), source.facts, head if len(head) == source.facts.size else None)
