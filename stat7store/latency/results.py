"""Sections of docs/results.md, each written by the command that measured it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from stat7store.latency.pictures import pictures
from stat7store.latency.report import CLIENT, OTHER, Machine, Report, Run
from stat7store.timing import STAGES

_HEADING = "# Results\n\nMeasured, not promised: each section is written by the command it shows.\n"
_CHART = re.compile(r"\]\((results/[\w.-]+\.svg)\)")


def put_section(path: Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, in the place of the one of that name, or at the end.

    The file is made if there is none; charts that only the section before showed go. Raises ``OSError``.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    whole = path.read_text(encoding="utf-8") if path.exists() else _HEADING
    section = f"{start}\n{text.strip()}\n\n{end}"
    before, found, rest = whole.partition(start)
    last, _, after = rest.partition(end)
    whole = f"{before}{section}{after}" if found else f"{whole.rstrip()}\n\n{section}"
    path.write_text(whole, encoding="utf-8")
    for chart in _CHART.findall(last):
        if chart not in whole:
            (path.parent / chart).unlink(missing_ok=True)


def write_charts(path: Path, name: str, charts: Iterable[tuple[str, str]]) -> list[str]:
    """Write charts as SVG beside a Markdown file, in ``results/``; return the lines that show them."""
    folder = path.parent / "results"
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for chart, svg in charts:
        file = folder / f"{name}-{chart}.svg"
        file.write_text(f"{svg}\n", encoding="utf-8")
        shown.append(f"![{chart.replace('-', ' ')}](results/{file.name})")
    return shown


def provenance(command: str, machine: Machine, made_at: str) -> str:
    """Say how and where it was measured."""
    return (
        f"`{command}`  \n{made_at[:10]}, {machine.processor}, {machine.cores} cores, "
        f"{machine.memory / 1e9:.0f} GB, {machine.system}, Python {machine.python}"
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    head = list(header)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_latency(report: Report, path: Path, name: str) -> None:
    """Write a latency report as a section: throughput and percentiles, then the stages, then charts."""
    parts = (*STAGES, OTHER, CLIENT)
    text = [
        f"## Retrieval latency: {name}",
        provenance(report.command, report.machine, report.made_at),
        f"{sum(run.requests for run in report.runs):,} requests, {report.error_count} errors; "
        f"{sum(run.verified for run in report.runs):,} answers verified against the file's address. "
        + " ".join(f"Made: {line}." for line in report.built),
        table(
            ("run", "per second", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "server CPU s", "memory MB"),
            (_latency_row(run) for run in report.runs),
        ),
        "Each stage, p50 / p99 in ms, and its share of the mean total:",
        table(("run", *parts), ([run.name, *(_stage_cell(run, part) for part in parts)] for run in report.runs)),
        *(f"Note, {run.name}: {note}." for run in report.runs for note in run.notes),
        *write_charts(path, f"latency-{name}", pictures(report.runs)),
    ]
    put_section(path, f"latency {name}", "\n\n".join(text))


def _latency_row(run: Run) -> list[str]:
    total, usage = run.stages["total"], run.usage
    latencies = (total.p50_ms, total.p90_ms, total.p99_ms, total.p999_ms, total.max_ms)
    return [
        run.name,
        f"{run.per_second:,.0f}",
        *(f"{latency:.3g}" for latency in latencies),
        str(run.error_count),
        "–" if usage.server_cpu_s is None else f"{usage.server_cpu_s:.1f}",
        "–" if usage.server_memory is None else f"{usage.server_memory / 1e6:.0f}",
    ]


def _stage_cell(run: Run, part: str) -> str:
    summary = run.stages[part]
    return f"{summary.p50_ms:.3g} / {summary.p99_ms:.3g}, {summary.share or 0.0:.0%}"
