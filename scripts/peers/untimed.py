"""``stat7store`` with its timing taken out, so that a comparison tells what timing every retrieval costs.

No clock is read, no duration counted, no record kept, no ``Server-Timing`` worked out, and no socket asked for
what it has not sent. Requests are still counted. What is left of it are the calls that return nothing: some
0.3 µs a request. It is for measuring only: nothing can be told of where the time of such a server goes.
"""

from __future__ import annotations

from functools import partial

import stat7store.timing
from stat7store.server import headers, outgoing
from stat7store.timing import StageClock


def _no_times(clock: StageClock, source: str | None) -> str:
    return ""


def _nothing_unsent(socket_number: int) -> int:
    return 0


# before anything else is imported, which takes them by name
stat7store.timing.now_ns = int
headers.server_timing = _no_times
outgoing.unsent = _nothing_unsent

from stat7store.cli import main  # noqa: E402
from stat7store.server import fastlane  # noqa: E402
from stat7store.server.board import Board  # noqa: E402


def _only_count(board: Board, *, method: str, status: int, fast: bool = False, **_: object) -> None:
    if fast:
        board.count("fast_lane")
        board.count_request(method, status)


if fastlane.Lane is not None:
    fastlane.Lane = partial(fastlane.Lane, timed=False)  # type: ignore[assignment]
Board.record = _only_count  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    raise SystemExit(main())
