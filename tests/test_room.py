"""Room is promised as bytes come, and an announced length keeps nobody out."""

from __future__ import annotations

from pathlib import Path

import pytest

from stat7store.errors import NoSpace
from stat7store.room import Pledges, Room

MIB = 1024**2


def test_an_announced_length_holds_nothing(tmp_path: Path) -> None:
    """While it is looked whether it fits, and afterwards, others find as much room as before."""
    seen: list[int] = []
    pledges = Pledges()

    def stored_bytes() -> int:
        seen.append(pledges.unstored)
        return 0

    room = Room([tmp_path], min_free=0, max_store_bytes=8 * MIB, stored_bytes=stored_bytes, pledges=pledges)
    room.check(8 * MIB)
    with pytest.raises(NoSpace):
        room.check(8 * MIB + 1)
    with room.promise(8 * MIB):
        seen.append(pledges.unstored)
    assert seen == [0, 0, 0, 0]


def test_what_fits_is_taken_though_not_as_much_again(tmp_path: Path) -> None:
    """A body of unknown length goes on as long as what came of it fits."""
    pledges = Pledges()
    room = Room([tmp_path], min_free=0, max_store_bytes=4 * MIB, stored_bytes=lambda: 0, pledges=pledges)
    with room.promise() as promise:
        for _ in range(4):
            promise.take(MIB)
        with pytest.raises(NoSpace):
            promise.take(1)
    assert pledges.unstored == 0
