"""How far an import is: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stat7store.cli.units import size as written
from stat7store.importer.gauge import Gauge
from stat7store.importer.outcome import Summary, Tally
from stat7store.importer.walk import Walk

if TYPE_CHECKING:
    from rich.console import Console

_LIVE_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


@contextmanager
def following(tally: Tally, walk: Walk, gauge: Gauge, *, hidden: bool) -> Iterator[None]:
    """Show on standard error how far it is, for the length of the context."""
    if hidden:
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - takes as long to import as a second import of many files

    console = Console(stderr=True, highlight=False)
    ended = threading.Event()
    if console.is_terminal:
        threads = [
            threading.Thread(target=_live, args=(console, tally, gauge, ended), name="import-progress"),
            threading.Thread(target=_count, args=(walk, tally, gauge), name="import-count"),
        ]
    else:
        threads = [threading.Thread(target=_lines, args=(console, tally, gauge, ended), name="import-progress")]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        gauge.stop()
        ended.set()
        for thread in threads:
            thread.join()


def sentence(summary: Summary) -> str:
    """Return the totals in one line."""
    rate = summary.files / summary.seconds if summary.seconds else 0.0
    bytes_rate = summary.bytes / summary.seconds if summary.seconds else 0.0
    parts = [
        f"{summary.files:,} files, {written(summary.bytes)}: {counts(summary)}",
        f"in {summary.seconds:.1f} s ({rate:,.0f} files/s, {written(bytes_rate)}/s)",
    ]
    if summary.deleted:
        parts.append(f"{summary.deleted:,} sources deleted")
    if summary.dry_run:
        parts.append("nothing was changed (dry run)")
    if summary.interrupted:
        parts.append("interrupted; run it again to go on")
    return "; ".join([" ".join(parts[:2]), *parts[2:]])


def counts(summary: Summary) -> str:
    """Return how many files had which outcome."""
    return (
        f"{summary.stored:,} stored, {summary.there:,} already there, {summary.refused:,} refused, "
        f"{summary.failed:,} failed, {summary.skipped:,} skipped"
    )


def _live(console: Console, tally: Tally, gauge: Gauge, ended: threading.Event) -> None:
    from rich import progress  # noqa: PLC0415 - as above

    shown = progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.fields[files]}"),
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
        task = shown.add_task("", total=None, files="")
        last = False
        while not last:
            last = ended.wait(_LIVE_EVERY_S)
            files, size = tally.expected or (0, None)
            of = f" of {files:,}" if files else ""
            shown.update(
                task,
                completed=max(tally.summary.bytes, gauge.read),
                total=size,
                files=f"{tally.summary.files:,}{of} files: {counts(tally.summary)}",
            )


def _lines(console: Console, tally: Tally, gauge: Gauge, ended: threading.Event) -> None:
    before, then = 0, time.monotonic()
    while not ended.wait(_LINE_EVERY_S):
        size, now = max(tally.summary.bytes, gauge.read), time.monotonic()
        rate = written((size - before) / (now - then))
        console.print(
            f"{tally.summary.files:,} files, {written(size)}, {rate}/s: {counts(tally.summary)}", soft_wrap=True
        )
        before, then = size, now


def _count(walk: Walk, tally: Tally, gauge: Gauge) -> None:
    """Look ahead how much there is, so that the time left can be told."""
    files = size = 0
    for batch in replace(walk, journal=None).batches():
        if gauge.stopped:
            return
        files += len(batch.files)
        size += sum(found.facts.size for found in batch.files)
    tally.expected = files, size
