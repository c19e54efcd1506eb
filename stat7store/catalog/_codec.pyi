from collections.abc import Callable
from typing import TypeAlias

from stat7store.record import Locator
from storage.base import Location

_Read: TypeAlias = Callable[[bytes, bytes, dict[int, str]], Locator]

def locator_reader(locator: type[Locator], location: type[Location], otherwise: _Read, /) -> _Read: ...
