"""``stat7store import``: store whole trees of files."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli.failing import report
from stat7store.cli.options import Json, examples
from stat7store.cli.units import as_json
from stat7store.errors import Malformed, Stat7Error

if TYPE_CHECKING:
    from stat7store.importer.gauge import Gauge
    from stat7store.importer.opening import Request
    from stat7store.importer.outcome import Outcome, Tally
    from stat7store.importer.spoolers import Spoolers
    from stat7store.importer.walk import Passed

EXAMPLES = {
    "stat7store import ~/Pictures": "into ./stat7-data, which a server may be serving",
    "stat7store import --server http://127.0.0.1:7377 ~/Pictures": "over HTTP",
    "stat7store import --include '*.jpg' --tag holiday ~/Pictures": "some, with a tag",
    "stat7store import --dry-run --report what.csv ~/Pictures": "only say what would be",
}
INTERRUPTED = 130
MOST_FAILURES_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("import", epilog=examples(EXAMPLES))(import_)


def import_(
    roots: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders, or files.", show_default=False)],
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="STAT7_SERVER", help="Send to this server.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write to this store's folder; also while it is served.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings.", show_default=False)
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only files like this; repeatable.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="No files or folders like this; repeatable.", show_default=False),
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Hidden files too.", metavar="")] = False,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="What symbolic links lead to, too.", metavar="")
    ] = False,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Give every file this tag; repeatable.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, max=256, help="Processes that read, or threads; 0 chooses.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and ask, but change nothing.", metavar="")] = False,
    delete_source: Annotated[
        bool, typer.Option("--delete-source", help="Delete each file once it is durably stored.", metavar="")
    ] = False,
    report_to: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="What became of each path: .csv or .jsonl.", show_default=False),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to remember what was imported.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store all images and movies in folders, durably; what an earlier import brought is not read again.

    Exit codes: 0 done (files of other types are refused, which is no failure), 1 some failed, 2 wrong usage,
    130 interrupted; run it again to go on.
    """
    gc.set_threshold(100_000)  # there is next to nothing to find among what is imported
    # they take long to import, and only this verb needs them
    from stat7store.importer.choice import Choice  # noqa: PLC0415
    from stat7store.importer.gauge import Gauge  # noqa: PLC0415
    from stat7store.importer.opening import Request, forked, jobs_of  # noqa: PLC0415
    from stat7store.settings import load_settings  # noqa: PLC0415

    if data is not None and server is not None:
        if server != os.environ.get("STAT7_SERVER"):
            raise Malformed("--data and --server name two destinations; name one")
        server = None
    request = Request(
        roots=roots,
        target=load_settings(config, data=data) if server is None else server,
        choice=Choice(tuple(include or ()), tuple(exclude or ()), hidden=hidden, follow_symlinks=follow_symlinks),
        tags=tag or (),
        journal=journal,
        jobs=jobs,
        dry_run=dry_run,
        delete_sources=delete_source,
        report=report_to is not None,
    )
    gauge = Gauge(jobs_of(request))
    with forked(request, gauge) as spoolers:  # before there is any thread
        raise typer.Exit(asyncio.run(_Importing(request, spoolers, gauge, report_to, as_json).run()))


class _Importing:
    """One import as a person sees it."""

    def __init__(
        self, request: Request, spoolers: Spoolers | None, gauge: Gauge, report_to: Path | None, as_json: bool
    ) -> None:
        from stat7store.importer.outcome import Tally  # noqa: PLC0415

        self._request = request
        self._spoolers = spoolers
        self._gauge = gauge
        self._report_to = report_to
        self._as_json = as_json
        self._tally = Tally()
        self._failures = 0

    async def run(self) -> int:
        """Run it; return the exit code."""
        from stat7store.cli.import_progress import following  # noqa: PLC0415
        from stat7store.importer import opening  # noqa: PLC0415
        from stat7store.importer.report import Report  # noqa: PLC0415

        walk = opening.walk_of(self._request)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
        lines = None if self._report_to is None else Report(self._report_to)
        problem: Stat7Error | None = None

        def tell(item: Outcome | Passed) -> None:
            if lines is not None:
                lines.tell(item)
            if item.failed:
                self._show_failure(item)

        try:
            with following(self._tally, walk, self._gauge, hidden=self._as_json):
                await opening.run(self._request, self._spoolers, self._tally, tell, self._gauge)
        except Malformed:
            raise
        except Stat7Error as error:
            problem = error
        finally:
            if lines is not None:
                lines.close()
        return self._finish(self._tally, problem)

    def _interrupt(self) -> None:
        self._tally.summary.interrupted = True
        self._gauge.stop()
        # who cannot wait for what is under way may end it the hard way: nothing is lost by that either
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _show_failure(self, item: Outcome | Passed) -> None:
        self._failures += 1
        if self._failures <= MOST_FAILURES_SHOWN:
            path = os.fsdecode(item.path).encode(errors="backslashreplace").decode()
            report(Stat7Error(item.reason), subject=path)
        elif self._failures == MOST_FAILURES_SHOWN + 1:
            report(Stat7Error("further failures are not shown; --report FILE has them all"))

    def _finish(self, tally: Tally, problem: Stat7Error | None) -> int:
        from stat7store.cli.import_progress import sentence  # noqa: PLC0415

        if self._as_json:
            as_json(tally.summary)
        else:
            print(sentence(tally.summary))
        if problem is not None:
            report(problem)
            report(Stat7Error("the import was stopped; run it again to go on"))
            return 1
        if tally.summary.interrupted:
            return INTERRUPTED
        return 1 if tally.summary.failed else 0
