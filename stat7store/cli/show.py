"""How records, lists and timings are shown: the one place for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stat7store.cli.units import as_json, milliseconds, moment, size
from stat7store.timing import STAGES, Timing

if TYPE_CHECKING:
    from stat7store.client import Retrieval, StageSummary, Stats, StoredFile

__all__ = ["as_json", "milliseconds", "moment", "size"]

_COLOURS = dict(zip(STAGES, ("bright_black", "cyan", "blue", "yellow", "green"), strict=True))
_WIDE = 132  # columns in which a whole address fits beside the rest, names included
_UNLIMITED = 400  # columns where nobody looks: in files and pipes
_BAR = 24


def console(*, stderr: bool = False) -> Console:
    """Return standard output (or error) as rich writes to it; lines are not cut when it is no terminal."""
    shown = Console(stderr=stderr, highlight=False)
    return shown if shown.is_terminal else Console(stderr=stderr, highlight=False, width=_UNLIMITED)


def stage_table(timing: Timing) -> Table:
    """Return where the time of one retrieval went: each stage, its time, its share of the total."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    spent = {stage: getattr(timing, f"{stage}_ms") for stage in STAGES}
    spent["other"] = max(timing.total_ms - sum(spent.values()), 0.0)
    for stage, took in spent.items():
        share = took / timing.total_ms if timing.total_ms else 0.0
        source = f"  {timing.source}" if stage == "disk" and timing.source else ""
        table.add_row(
            stage,
            milliseconds(took),
            f"{share:.1%}".replace("%", " %"),
            Text(_bar(share), style=_COLOURS.get(stage, "bright_black")) + Text(source, style="dim"),
        )
    table.add_section()
    table.add_row("total", milliseconds(timing.total_ms), "", "", style="bold")
    return table


def record(file: StoredFile) -> Table:
    """Return all that is known of a file, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    at, media = file.coordinates, file.media
    pixels = f"{media.width} × {media.height} pixels" if media.width and media.height else ""
    lasts = f"{media.duration_s:g} s" if media.duration_s else ""
    frames = f"{media.frames} frames" if media.frames and media.frames > 1 else ""
    rows = {
        "address": file.address,
        "uri": file.uri,
        "name": file.filename or "–",
        "size": f"{size(file.size)} ({file.size:,} bytes)" if file.size >= 1000 else size(file.size),
        "type": file.media_type,
        "media": ", ".join(filter(None, (pixels, frames, lasts, media.codec or ""))) or "–",
        "stored": f"{moment(file.stored_at)} UTC",
        "revision": str(file.revision),
        "tags": ", ".join(file.tags) or "–",
        "realm": at.realm,
        "lineage": str(at.lineage),
        "horizon": at.horizon,
        "resonance": str(at.resonance),
        "velocity": str(at.velocity),
        "density": str(at.density),
        "adjacency": "\n".join(at.adjacency) or "–",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def print_files(shown: Console, files: list[StoredFile]) -> None:
    """Print a list of files: a row each, or in a narrow terminal two lines each."""
    if shown.width >= _WIDE:
        table = Table(box=None, pad_edge=False)
        # where it is tight, only the name is cut
        table.add_column("address", no_wrap=True, min_width=64)
        table.add_column("size", justify="right", no_wrap=True, min_width=8)
        table.add_column("type", no_wrap=True, min_width=10)
        table.add_column("stored (UTC)", no_wrap=True, min_width=16)
        table.add_column("name", overflow="ellipsis", no_wrap=True)
        for file in files:
            table.add_row(
                file.address, size(file.size), file.media_type, moment(file.stored_at)[:16], Text(file.filename or "–")
            )
        shown.print(table)
        return
    for file in files:
        facts = f"  {size(file.size):>9}  {file.media_type:<12} {moment(file.stored_at)[:16]}  {file.filename or '–'}"
        shown.print(Text(file.address))
        shown.print(Text(facts, style="dim"), no_wrap=True, overflow="ellipsis")


def seen_by_client(retrieval: Retrieval) -> str:
    """Return one line: what of the retrieval the client saw."""
    connect = milliseconds(retrieval.connect_ms) if retrieval.connect_ms else "kept"
    breaks = f", resumed {retrieval.breaks} times" if retrieval.breaks else ""
    return (
        f"seen from here: connection {connect}, first byte {milliseconds(retrieval.first_byte_ms)}, "
        f"all {milliseconds(retrieval.total_ms)}{breaks}"
    )


def retrieval_json(retrieval: Retrieval) -> dict[str, object]:
    """Return a retrieval as a JSON object."""
    return {
        "address": str(retrieval.address),
        "request_id": retrieval.request_id,
        "start": retrieval.span.start,
        "bytes": retrieval.span.length,
        "connect_ms": retrieval.connect_ms,
        "first_byte_ms": retrieval.first_byte_ms,
        "total_ms": retrieval.total_ms,
        "breaks": retrieval.breaks,
    }


def totals(stats: Stats) -> Table:
    """Return how much is stored, by realm and in all."""
    table = Table(box=None, pad_edge=False)
    table.add_column("realm")
    table.add_column("files", justify="right")
    table.add_column("bytes", justify="right")
    for realm, count in sorted(stats.by_realm.items()):
        table.add_row(realm, f"{count.files:,}", size(count.bytes))
    table.add_row("all", f"{stats.files:,}", size(stats.bytes), style="bold")
    if stats.damaged:
        table.add_row("damaged", f"{stats.damaged:,}", "", style="bold red")
    return table


def percentiles(stages: dict[str, StageSummary], title: str) -> Table:
    """Return how long each stage took in half, 90 %, 99 %, 99.9 % of the retrievals, and at most."""
    count = stages["total"].count
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{count:,} {'retrieval' if count == 1 else 'retrievals'} {title}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("stage")
    for heading in ("p50", "p90", "p99", "p99.9", "slowest"):
        table.add_column(heading, justify="right")
    for stage in (*STAGES, "total"):
        took = stages[stage]
        columns = (took.p50_ms, took.p90_ms, took.p99_ms, took.p999_ms, took.max_ms)
        table.add_row(
            Text(stage, style=_COLOURS.get(stage, "bold")),
            *map(milliseconds, columns),
            style="bold" if stage == "total" else "",
        )
    return table


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
