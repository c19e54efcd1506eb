"""How far a migration is: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich import progress
from rich.console import Console

from stat7store.cli import show
from stat7store.migrating import Moves

_LIVE_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


@asynccontextmanager
async def following(moves: Moves, *, hidden: bool) -> AsyncIterator[None]:
    """Show on standard error how far it is, for the length of the context."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield
        return
    telling = asyncio.create_task((_live if console.is_terminal else _lines)(console, moves))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])


def counts(moves: Moves) -> str:
    """Return how many files had which outcome."""
    return f"{moves.moved:,} of {moves.files:,} files moved, {moves.gone:,} gone meanwhile, {moves.failed:,} failed"


def sentence(moves: Moves, seconds: float) -> str:
    """Return the totals in one line."""
    rate = moves.moved_bytes / seconds if seconds else 0.0
    return f"{counts(moves)}: {show.size(moves.moved_bytes)} in {seconds:.1f} s ({show.size(rate)}/s)"


async def _live(console: Console, moves: Moves) -> None:
    shown = progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.fields[counts]}"),
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        expand=True,
        redirect_stdout=False,
    )
    with shown:
        task = shown.add_task("", total=None, counts="")
        while True:
            shown.update(task, completed=moves.copied, total=moves.bytes or None, counts=counts(moves))
            await asyncio.sleep(_LIVE_EVERY_S)


async def _lines(console: Console, moves: Moves) -> None:
    before, then = 0, time.monotonic()
    while True:
        await asyncio.sleep(_LINE_EVERY_S)
        now = time.monotonic()
        rate = show.size((moves.copied - before) / (now - then))
        console.print(f"{counts(moves)}: {show.size(moves.copied)}, {rate}/s", soft_wrap=True)
        before, then = moves.copied, now
