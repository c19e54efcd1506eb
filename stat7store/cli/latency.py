"""``stat7store latency``: where the time of retrievals goes, under load."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer
from rich.table import Table
from rich.text import Text

from stat7store.cli import show
from stat7store.cli.options import examples
from stat7store.errors import Malformed

if TYPE_CHECKING:
    from stat7store.latency.compare import Comparison
    from stat7store.latency.report import Report, Run, Summary
    from stat7store.latency.run import Temperature

T = TypeVar("T")

EXAMPLES = {
    "stat7store latency --images 1000": "makes 1,000 images, starts a server, loads it",
    "stat7store latency --images 1000,100000 --cold --html report.html": "two sizes, warm and cold, with charts",
    "stat7store latency --movies 1000 --range 1MiB --rate 200,400": "seeks in movies, open loop",
    "stat7store latency --server http://127.0.0.1:7377 --from-store 5000": "files that are there already",
    "stat7store latency --compare before.json after.json": "what changed",
}
_BAR = 16
_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("latency", epilog=examples(EXAMPLES))(latency)


def latency(
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="BEFORE AFTER", help="Compare two reports (JSON) and do nothing else."),
    ] = None,
    images: Annotated[
        str, typer.Option("--images", metavar="N,…", help="Make so many images; several sizes in turn.")
    ] = "",
    movies: Annotated[int, typer.Option("--movies", metavar="N", help="Make so many movies.")] = 0,
    movie_size: Annotated[str, typer.Option("--movie-size", metavar="SIZE", help="Pad movies to this size.")] = "0",
    from_store: Annotated[
        int, typer.Option("--from-store", metavar="N", help="Ask for up to N files that are stored already.")
    ] = 0,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="A running server; otherwise one is started.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="The store's folder; a temporary one unless given."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Of the server started; 0: one a core.")] = 0,
    samples: Annotated[
        Path, typer.Option("--samples", metavar="FOLDER", help="Photographs and clips that files are made of.")
    ] = Path(".cache/samples"),
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="N,…", help="Closed loop: so many requests at a time; 0: none.")
    ] = "1,8,64,256",
    rate: Annotated[
        str, typer.Option("--rate", metavar="N,…", help="Open loop: so many requests a second, in even steps.")
    ] = "",
    connections: Annotated[
        int, typer.Option("--connections", metavar="N", min=1, help="Most connections of an open loop.")
    ] = 256,
    choice: Annotated[
        str, typer.Option("--choice", metavar="CHOICE", help="Which files: uniform, zipf, or each once.")
    ] = "uniform",
    exponent: Annotated[float, typer.Option("--zipf", metavar="S", min=0, help="The exponent of zipf.")] = 1.1,
    range_size: Annotated[
        str, typer.Option("--range", metavar="SIZE", help="Ask for ranges of this length: of movies if there are any.")
    ] = "",
    cold: Annotated[
        bool, typer.Option("--cold", metavar="", help="Also with the files out of the page cache (needs the folder).")
    ] = False,
    only_cold: Annotated[bool, typer.Option("--only-cold", metavar="", help="Only so.")] = False,
    mix: Annotated[
        str, typer.Option("--mix", metavar="R/W", help="Percent of reads and of uploads; these are deleted after.")
    ] = "100/0",
    requests: Annotated[int, typer.Option("--requests", metavar="N", min=1, help="Requests of each run.")] = 20_000,
    no_check: Annotated[
        bool, typer.Option("--no-check", metavar="", help="Do not begin by fetching and verifying every file once.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of all that is left to chance.")] = 7,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - prints it.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page with charts.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="Write the report into a Markdown file.")
    ] = None,
    section: Annotated[str, typer.Option("--section", metavar="NAME", help="The section of that file.")] = "retrieval",
) -> None:
    """Load a server and tell, stage by stage, where the time of its retrievals went.

    Every whole file is verified against its address. The exit code is 1 if any request failed.
    """
    if compared is not None:
        _compare(*compared, html, as_json)
        return
    from stat7store.latency.choosing import CHOICES  # noqa: PLC0415 - long to import, as all of the engine
    from stat7store.latency.run import LatencyTest, Plan  # noqa: PLC0415

    if choice not in CHOICES:
        raise Malformed(f"{choice!r} is no way to choose files", expected=list(CHOICES))
    plan = Plan(
        server=server,
        data=data,
        workers=workers,
        images=_numbers(images, int, "--images"),
        movies=movies,
        movie_bytes=_size(movie_size, "--movie-size"),
        from_store=from_store,
        samples=samples,
        concurrency=_numbers("" if concurrency == "0" else concurrency, int, "--concurrency"),
        rates=_numbers(rate, float, "--rate"),
        connections=connections,
        choice=choice,
        exponent=exponent,
        range_bytes=_size(range_size, "--range") or None,
        temperatures=_temperatures(cold, only_cold),
        writes=_writes(mix),
        requests=requests,
        each_first=not no_check,
        seed=seed,
        command=_typed(),
    )
    quiet = as_json == Path("-")
    shown = show.console(stderr=quiet)
    test = LatencyTest(
        plan,
        lambda line: shown.print(Text(line, style="dim")),
        lambda run: shown.print(_run_table(run)),
    )
    report = asyncio.run(test.run())
    _write(report, as_json, html, results, section)
    if report.error_count:
        shown.print(Text(f"{report.error_count} requests failed", style="bold red"))
        raise typer.Exit(1)


def _write(report: Report, as_json: Path | None, html: Path | None, results: Path | None, section: str) -> None:
    from stat7store.latency.page import html_of  # noqa: PLC0415
    from stat7store.latency.report import write_report  # noqa: PLC0415
    from stat7store.latency.results import write_latency  # noqa: PLC0415

    if as_json == Path("-"):
        show.as_json(report)
    elif as_json is not None:
        write_report(report, as_json)
    if html is not None:
        html.write_text(html_of(report), encoding="utf-8")
    if results is not None:
        write_latency(report, results, section)


def _compare(before: Path, after: Path, html: Path | None, as_json: Path | None) -> None:
    from stat7store.latency.compare import compare  # noqa: PLC0415
    from stat7store.latency.page import html_of_comparison  # noqa: PLC0415
    from stat7store.latency.report import read_report  # noqa: PLC0415

    comparison = compare(read_report(before), read_report(after))
    if html is not None:
        html.write_text(html_of_comparison(comparison, before.name, after.name), encoding="utf-8")
    if as_json is not None:
        show.as_json({name: {one.stage: one.verdict for one in found} for name, found in comparison.runs.items()})
        return
    shown = show.console()
    for table in _comparison_tables(comparison):
        shown.print(table)
    for name in comparison.unmatched:
        shown.print(Text(f"only in one of them: {name}", style="dim"))


def _run_table(run: Run) -> Table:
    """Return a run in the shape of a breakdown: stage, time, share, percentiles."""
    usage = run.usage
    facts = [
        f"{run.per_second:,.0f} requests/s",
        f"{show.size(run.bytes / run.seconds if run.seconds else 0)}/s",
        f"{run.error_count} errors" + "".join(f" ({kind}: {count})" for kind, count in run.errors.items()),
        f"{run.verified:,} verified",
        ", ".join(f"{count:,} from {source}" for source, count in run.sources.items()),
        *([] if usage.server_cpu_s is None else [f"server {usage.server_cpu_s:.1f} s CPU"]),
        *([] if usage.server_memory is None else [show.size(usage.server_memory)]),
        *([] if usage.client_cpu_s is None else [f"client {usage.client_cpu_s:.1f} s CPU"]),
        *run.notes,
    ]
    table = Table(
        title=run.name, caption="; ".join(filter(None, facts)), box=None, pad_edge=False, title_justify="left"
    )
    table.caption_justify = "left"
    for name in ("stage", "time", "share", "", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    for stage, summary in run.stages.items():
        table.add_row(*_row(stage, summary), style="bold" if stage == "total" else None)
    return table


def _row(stage: str, summary: Summary) -> list[str]:
    share = summary.share
    percentiles = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.p999_ms, summary.max_ms)
    return [
        stage,
        show.milliseconds(summary.mean_ms),
        "" if share is None else f"{share:.1%}".replace("%", " %"),
        "" if share is None else "█" * round(max(share, 0.0) * _BAR),
        *map(show.milliseconds, percentiles),
    ]


def _comparison_tables(comparison: Comparison) -> list[Table]:
    tables = []
    for name, verdicts in comparison.runs.items():
        table = Table(title=name, box=None, pad_edge=False, title_justify="left")
        for column in ("stage", "p50 before", "after", "p99 before", "after", "verdict"):
            table.add_column(column, justify="left" if column in ("stage", "verdict") else "right")
        for one in verdicts:
            colour = {"faster": "green", "slower": "red"}.get(one.verdict, "dim")
            figures = (one.before.p50_ms, one.after.p50_ms, one.before.p99_ms, one.after.p99_ms)
            table.add_row(one.stage, *map(show.milliseconds, figures), Text(one.verdict, style=colour))
        tables.append(table)
    return tables


def _typed() -> str:
    """Return the command as it was typed, without the folder it lies in on this machine."""
    name = Path(sys.argv[0]).name
    return shlex.join([f"scripts/{name}" if name.endswith(".py") else name, *sys.argv[1:]])


def _temperatures(cold: bool, only_cold: bool) -> tuple[Temperature, ...]:
    if only_cold:
        return ("cold",)
    return ("warm", "cold") if cold else ("warm",)


def _numbers(text: str, kind: Callable[[str], T], flag: str) -> tuple[T, ...]:
    try:
        found = tuple(kind(part) for part in text.replace("_", "").split(",") if part.strip())
    except ValueError as error:
        raise Malformed(f"{flag}: {text!r} is no list of numbers", expected="such as 1,8,64") from error
    if any(cast("float", number) <= 0 for number in found):
        raise Malformed(f"{flag}: every number must be above 0", expected="such as 1,8,64")
    return found


def _size(text: str, flag: str) -> int:
    digits = text.rstrip("BbKkMmGgIi")
    try:
        return int(float(digits or 0) * _UNITS[text[len(digits) :].upper()])
    except (ValueError, KeyError) as error:
        raise Malformed(f"{flag}: {text!r} is no size", expected="such as 65536, 64KiB, 1MB") from error


def _writes(text: str) -> int:
    reads, slash, writes = text.partition("/")
    if not (slash and reads.isdecimal() and writes.isdecimal() and int(reads) + int(writes) == 100 and int(reads)):
        raise Malformed(f"--mix: {text!r} is no mix", expected="reads/writes in percent, such as 70/30")
    return int(writes)
