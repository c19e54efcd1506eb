"""``stat7store verify``: read everything again, and tell what is not as it was stored."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import Json, examples
from stat7store.errors import Malformed, Stat7Error

if TYPE_CHECKING:
    from stat7store.settings import Settings
    from stat7store.store import Store
    from stat7store.verifying import Finding, Tally

EXAMPLES = {
    "stat7store verify": "all of ./stat7-data, which a server may be serving",
    "stat7store verify --rate 50": "with 50 MB/s at most",
    "stat7store verify --sample 1": "one file in a hundred",
    "stat7store verify --resume": "go on where the last one was stopped",
    "stat7store verify --repair-from /mnt/copy": "and fetch what is damaged from another store",
}
STATE_FILE = "verify.json"
INTERRUPTED = 130
_SHOW_EVERY_S = 0.2
_LINE_EVERY_S = 10.0
_SAVE_EVERY_S = 5.0


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("verify", epilog=examples(EXAMPLES))(verify)


def verify(
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The store's folder; also while it is served.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings.", show_default=False)
    ] = None,
    sample: Annotated[
        float, typer.Option(min=0.0, max=100.0, metavar="PERCENT", help="Read so many of the files, chosen at random.")
    ] = 100.0,
    rate: Annotated[float, typer.Option(min=0.0, metavar="MB/S", help="Read no faster than this; 0: no limit.")] = 0.0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Files read at a time.")] = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last one was stopped.", metavar="")] = False,
    repair_from: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A second store to fetch damaged files from.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every stored file again, past the memory that stands before the disk, and compare it with its address.

    What is damaged or missing is marked: it is not served any more, and the next upload of the same file heals it.
    --repair-from heals all that is marked. What was marked and is whole again is served again.

    Exit codes: 0 all is well, 1 something is damaged, missing or could not be read, 2 wrong usage, 130 interrupted;
    --resume goes on then.
    """
    from stat7store.settings import load_settings  # noqa: PLC0415 - takes long to import

    settings = load_settings(config, data=data)
    run = _Verifying(settings, sample / 100, rate * 1e6 or math.inf, jobs, repair_from, as_json)
    raise typer.Exit(asyncio.run(run.run(resume=resume)))


class _Verifying:
    """One scrub as a person sees it."""

    def __init__(
        self, settings: Settings, sample: float, bytes_per_s: float, jobs: int, donor: Path | None, as_json: bool
    ) -> None:
        self._settings = settings
        self._sample = sample
        self._bytes_per_s = bytes_per_s
        self._jobs = jobs
        self._donor = donor
        self._as_json = as_json
        self._state = settings.data / STATE_FILE
        self._saved_at = 0.0
        self._repaired = 0
        self._left: int | None = None

    async def run(self, *, resume: bool) -> int:
        """Run it; return the exit code."""
        from stat7store.folder import read_facts  # noqa: PLC0415
        from stat7store.opening import open_store  # noqa: PLC0415
        from stat7store.verifying import Tally  # noqa: PLC0415

        read_facts(self._settings.data)  # is it a store at all?
        tally = self._load() if resume else Tally()
        stopped = False
        async with open_store(self._settings) as store:
            work = asyncio.ensure_future(self._work(store, tally))
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, work.cancel)
            try:
                await work
            except asyncio.CancelledError:
                stopped = True
        return self._finish(tally, stopped=stopped)

    async def _work(self, store: Store, tally: Tally) -> None:
        with _following(tally, (await store.counters()).bytes * self._sample, hidden=self._as_json):
            await self._scrub(store, tally)
        if self._donor is not None:
            await self._repair(store, self._donor)
            self._left = tally.records + (await store.counters()).damaged

    async def _scrub(self, store: Store, tally: Tally) -> None:
        verifier = store.verifier(tally, self._tell, bytes_per_s=self._bytes_per_s, jobs=self._jobs)
        try:
            await verifier.run(self._sample, lambda: self._save(tally, every_s=_SAVE_EVERY_S))
        finally:
            self._save(tally)

    def _tell(self, finding: Finding) -> None:
        if finding.kind == "sound":
            print(f"{finding.kind} {finding.name}: {finding.reason}", file=sys.stderr)
        else:
            report(Stat7Error(finding.reason), subject=f"{finding.kind} {finding.name}")

    async def _repair(self, store: Store, donor: Path) -> None:
        from stat7store.folder import read_facts  # noqa: PLC0415
        from stat7store.opening import open_store  # noqa: PLC0415
        from stat7store.repairing import repair  # noqa: PLC0415

        read_facts(donor)  # is it a store at all?
        async with open_store(self._settings.model_copy(update={"data": donor})) as second:
            async for address in store.marked():  # also what was found before, by whomever
                try:
                    await repair(store, second, address)
                except Stat7Error as error:
                    report(error, subject=f"not repaired {address}")
                else:
                    self._repaired += 1

    def _load(self) -> Tally:
        from stat7store.verifying import Tally, load_tally  # noqa: PLC0415

        tally = load_tally(self._state)
        if tally is None:
            raise Malformed(f"there is nothing to go on with: no scrub of {self._settings.data} was begun")
        return tally if tally.finished_at is None else Tally()

    def _save(self, tally: Tally, every_s: float = 0.0) -> None:
        from stat7store.verifying import save_tally  # noqa: PLC0415

        if time.monotonic() - self._saved_at >= every_s:
            save_tally(self._state, tally)
            self._saved_at = time.monotonic()

    def _finish(self, tally: Tally, *, stopped: bool) -> int:
        import msgspec  # noqa: PLC0415

        if self._as_json:
            show.as_json({**msgspec.structs.asdict(tally), "repaired": self._repaired, "interrupted": stopped})
        else:
            print(_sentence(tally, self._repaired, stopped=stopped))
        if stopped:
            return INTERRUPTED
        left = tally.damaged if self._left is None else self._left
        return 1 if left or tally.unreadable else 0


@contextmanager
def _following(tally: Tally, expected: float, *, hidden: bool) -> Iterator[None]:
    """Show on standard error how far it is: a live line in a terminal, plain lines elsewhere."""
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    if hidden:
        yield
        return
    ended = threading.Event()

    def live() -> None:
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
        )
        with shown:
            task = shown.add_task("", total=expected, completed=tally.bytes, files="")
            while not ended.wait(_SHOW_EVERY_S):
                shown.update(task, completed=tally.bytes, files=_counts(tally))

    def lines() -> None:
        console.print(f"reading {show.size(int(expected))}", soft_wrap=True)
        while not ended.wait(_LINE_EVERY_S):
            console.print(f"{show.size(tally.bytes)} of {show.size(int(expected))}: {_counts(tally)}", soft_wrap=True)

    thread = threading.Thread(target=live if console.is_terminal else lines, name="verify-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _counts(tally: Tally) -> str:
    return (
        f"{tally.files:,} files, {tally.bad:,} bad, {tally.missing:,} missing, {tally.records:,} without a record, "
        f"{tally.unreadable:,} unreadable, {tally.orphans:,} orphans"
    )


def _sentence(tally: Tally, repaired: int, *, stopped: bool) -> str:
    rate = tally.bytes / tally.seconds if tally.seconds else 0.0
    parts = [f"{show.size(tally.bytes)} read in {tally.seconds:.1f} s ({show.size(int(rate))}/s): {_counts(tally)}"]
    if tally.skipped:
        parts.append(f"{tally.skipped:,} files left out of the sample")
    if tally.sound:
        parts.append(f"{tally.sound:,} that were damaged found whole again")
    if repaired:
        parts.append(f"{repaired:,} repaired")
    if stopped:
        parts.append("interrupted; --resume goes on")
    return "; ".join(parts)
