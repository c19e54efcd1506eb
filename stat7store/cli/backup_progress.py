"""A backup or a restore as a person sees it: how far it is, what failed, and how it ended."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from rich import progress
from rich.console import Console

from stat7store.address import Address
from stat7store.backups.copying import Copies
from stat7store.backups.depot import Note
from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.errors import Malformed, Stat7Error

INTERRUPTED = 130
_MOST_FAILURES_SHOWN = 20
_LIVE_EVERY_S = 0.2
_LINE_EVERY_S = 10.0

Tell = Callable[[Address, Stat7Error], None]


async def carry_out(name: str, work: Callable[[Copies, Tell], Awaitable[Note]], *, as_json: bool) -> int:
    """Do it, show how far it is, and how it ended; return the exit code. Ctrl-C ends it in order."""
    copies = Copies()
    failures = _Failures()
    problem: Stat7Error | None = None
    interrupted = False
    running = asyncio.ensure_future(work(copies, failures.tell))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        async with _following(copies, hidden=as_json):
            await running
    except asyncio.CancelledError:
        interrupted = True
    except Malformed:
        raise
    except Stat7Error as error:
        problem = error
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if problem is not None and not copies.files:  # it was refused before it began
        raise problem
    complete = problem is None and not interrupted
    if as_json:
        show.as_json({**msgspec.structs.asdict(copies), "complete": complete, "interrupted": interrupted})
    else:
        print(_sentence(copies))
    if problem is not None:
        report(problem)
    if not complete:
        why = "interrupted" if interrupted else f"the {name} is not complete"
        report(Stat7Error(f"{why}; run it again to go on"))
        return INTERRUPTED if interrupted else 1
    return 1 if copies.failed else 0


class _Failures:
    """Tells of the first failures, each on a line."""

    def __init__(self) -> None:
        self._count = 0

    def tell(self, address: Address, error: Stat7Error) -> None:
        self._count += 1
        if self._count <= _MOST_FAILURES_SHOWN:
            report(error, subject=str(address))
        elif self._count == _MOST_FAILURES_SHOWN + 1:
            report(Stat7Error("further failures are not shown"))


def _counts(copies: Copies) -> str:
    done = copies.held + copies.copied
    parts = [f"{done:,} of {copies.files:,} files ({copies.copied:,} copied, {copies.held:,} there before)"]
    if copies.gone:
        parts.append(f"{copies.gone:,} deleted meanwhile")
    parts.append(f"{copies.failed:,} failed")
    if copies.removed:
        parts.append(f"{copies.removed:,} old ones removed")
    return ", ".join(parts)


def _sentence(copies: Copies) -> str:
    rate = copies.copied_bytes / copies.seconds if copies.seconds else 0.0
    took = f"{show.size(copies.copied_bytes)} copied in {copies.seconds:.1f} s ({show.size(rate)}/s)"
    return f"{_counts(copies)}: {took}"


@asynccontextmanager
async def _following(copies: Copies, *, hidden: bool) -> AsyncIterator[None]:
    """Show on standard error how far it is, for the length of the context."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield
        return
    telling = asyncio.create_task((_live if console.is_terminal else _lines)(console, copies))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])


async def _live(console: Console, copies: Copies) -> None:
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
            left = max(copies.bytes - copies.held_bytes, 0)
            shown.update(task, completed=copies.read, total=left or None, counts=_counts(copies))
            await asyncio.sleep(_LIVE_EVERY_S)


async def _lines(console: Console, copies: Copies) -> None:
    before, then = 0, time.monotonic()
    while True:
        await asyncio.sleep(_LINE_EVERY_S)
        now = time.monotonic()
        rate = show.size((copies.read - before) / (now - then))
        console.print(f"{_counts(copies)}: {show.size(copies.read)}, {rate}/s", soft_wrap=True)
        before, then = copies.read, now
