"""What was used of late, so many of them: a cache that costs one dictionary look-up for each use."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps ``most`` to twice as many values: those used since the last turn, and those used in the turn before.

    A turn takes place when ``most`` are young, or when it is asked for. Not for several threads.
    """

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value kept under a key, which is young from now on; None if there is none."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value under a key, in place of what was there."""
        if len(self._young) >= self._most:
            self.turn()
        self._young[key] = value

    def drop(self, key: Key) -> None:
        """Keep nothing under this key."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def turn(self) -> None:
        """Let go of what was not used since the last turn."""
        self._old = self._young
        self._young = {}

    def items(self) -> list[tuple[Key, Value]]:
        """Return what is kept, with its keys; a value may be there twice."""
        return [*self._young.items(), *self._old.items()]

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
