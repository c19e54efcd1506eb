"""A comparison for people: a table for the terminal, a section for Markdown, charts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.table import Table

from scripts.peers.cases import Case, Kind, all_cases
from scripts.peers.files import MOST_WRITTEN, size_text
from scripts.peers.report import Comparison, Measurement, Ratio
from stat7store.latency.charts import lines
from stat7store.latency.results import provenance, put_section, table, write_charts

_DURABLE = {True: "yes", False: "no", None: "–"}
_HOW = """Medians of rounds of {seconds:g} s each ({rounds}), in turns, after a warm-up. Each file, as each peer answers
with it, was compared byte for byte with what was stored before anything was measured. Cold: the files' bytes were
dropped from the page cache (`posix_fadvise`), then each was read once. Closed loops but for `open`: there requests are
due at a fixed rate, evenly spaced, half of what wrk's closed loop had just come to, for at least 2 s a round, and
latency counts from when they were due; their client never sleeps, so that its CPU tells nothing, but its own lateness
does. Installed: GETs with the server's access log on, written to a file on the same disk; all others have none. CPU µs:
CPU time of the processes for each answer; what the kernel sends from timers and interrupts, as it does under bbr, is
charged to no process and so is in no figure of CPU. A round of writes ends early when it has written {most} (RADOS
Gateway: 32). Where a peer erred, the last table says so, and it has no ratio."""


def terminal(found: Comparison) -> Table:
    """Return everything that was measured, one row for each case and peer."""
    shown = Table(title="server, client: busy cores; ! the client was the limit", show_lines=False)
    for name in _columns(found):
        shown.add_column(name, justify="left" if name in ("case", "peer", "") else "right")
    for row in _rows(found):
        shown.add_row(*row)
    return shown


def markdown(found: Comparison) -> str:
    """Return it all as Markdown."""
    return "\n\n".join(
        [
            "## Beside other servers",
            provenance(found.command, found.machine, found.made_at),
            _HOW.format(rounds=found.rounds, seconds=found.seconds, most=size_text(MOST_WRITTEN)),
            table(
                ("peer", "version", "an acknowledged write is on the disk", "remark"),
                ([peer.name, peer.version or "–", _DURABLE[peer.durable], peer.remark] for peer in found.peers),
            ),
            f"How many times as fast as each other {found.base} is (least–most of the rounds; above 1: faster):",
            _ratio_table(found, _cell),
            "The same of answers for each second of the server's CPU, which neighbours on the machine change least:",
            _ratio_table(found, _cpu_cell),
            "All of it; server, client: busy cores, ! where the client was the limit (open: half of p99 its lateness):",
            table(_columns(found), _rows(found)),
            *(f"{note}." for note in found.notes),
            *(f"Left out: {line}." for line in (*found.left_out, *found.broken)),
        ]
    )


def write_results(found: Comparison, path: Path, section: str) -> None:
    """Write it as a section of a Markdown file, with charts beside it. Raises ``OSError``."""
    shown = write_charts(path, section, charts(found))
    put_section(path, section, "\n\n".join([markdown(found), *shown]))


def charts(found: Comparison) -> list[tuple[str, str]]:
    """Return the charts: GETs by size, PUTs by connections. None for a single point."""
    cases = {case.name: case for case in all_cases()}
    drawn = []
    for congestion in dict.fromkeys(each.congestion for each in found.measurements):
        gets = _series(found, cases, _size_of_gets, congestion)
        if gets:
            name, title = (f"get-{congestion}", f"GET, hot, {congestion}") if congestion else ("get", "GET, hot")
            sizes = sorted({int(x) for line in gets.values() for x, _ in line})
            ticks = [(float(size), size_text(size)) for size in sizes]
            drawing = lines(title, gets, x_name="size", y_name="requests/s", x_ticks=ticks, logarithmic_x=True)
            drawn.append((name, drawing))
    for size in sorted({case.size for case in cases.values() if case.kind is Kind.PUT}):
        puts = _series(found, cases, partial(_connections, size))
        if puts:
            title = f"PUT, {size_text(size)}"
            drawing = lines(title, puts, x_name="connections", y_name="requests/s", logarithmic_x=True)
            drawn.append((f"put-{size_text(size)}", drawing))
    return drawn


def _size_of_gets(case: Case) -> int | None:
    return case.size if case.kind is Kind.GET else None


def _connections(size: int, case: Case) -> int | None:
    return case.connections if case.kind is Kind.PUT and case.size == size else None


def _series(
    found: Comparison, cases: Mapping[str, Case], place: Callable[[Case], int | None], congestion: str = ""
) -> dict[str, list[tuple[float, float]]]:
    """Return each peer's medians with one worker by where its case stands; nothing if that is one point.

    Only what was measured under that congestion control counts.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for each in found.measurements:
        at = place(cases[each.case.removesuffix(f"-{congestion}")]) if each.congestion == congestion else None
        if at is not None and each.workers == 1:
            series.setdefault(each.peer, []).append((at, statistics.median(each.per_second)))
    return series if any(len(line) > 1 for line in series.values()) else {}


def _columns(found: Comparison) -> list[str]:
    times = f"{found.base} / it"
    rates = ["per second", "from–to", times, "from–to"]
    spent = ["server CPU µs", times, "client CPU µs"]
    return ["case", "peer", *rates, *spent, "p50 ms", "p99 ms", "server", "client", ""]


def _rows(found: Comparison) -> Iterator[list[str]]:
    ratios = {(ratio.case, ratio.workers, ratio.peer): ratio for ratio in found.ratios}
    for each in found.measurements:
        ratio = ratios.get((each.case, each.workers, each.peer))
        yield [
            _case_name(each.case, each.workers),
            each.peer,
            _number(statistics.median(each.per_second)),
            _span(_number, each.per_second),
            f"{ratio.median:.2f}" if ratio else "",
            f"{ratio.low:.2f}–{ratio.high:.2f}" if ratio else "",
            _number(each.server_us),
            f"{ratio.by_cpu:.2f}" if ratio else "",
            "–" if each.rate else _number(each.client_us),
            f"{statistics.median(each.p50_ms):.3g}",
            f"{statistics.median(each.p99_ms):.3g}",
            f"{each.server_cpu:.2f}",
            f"{each.client_cpu:.2f}{'!' if each.client_bound else ''}",
            _remark(each),
        ]


def _remark(each: Measurement) -> str:
    said = []
    if each.rate:
        said.append(f"{each.rate:,.0f} due a second; p99 is {_times(each):.1f} times p50")
        said.append(f"p99 of what the client itself was late: {each.late_p99_ms:.3g} ms")
    if each.errors:
        said.append(f"{each.errors} errors: {each.error}")
    return "; ".join(said)


def _times(each: Measurement) -> float:
    p50 = statistics.median(each.p50_ms)
    return statistics.median(each.p99_ms) / p50 if p50 else 0.0


def _ratio_table(found: Comparison, cell: Callable[[Ratio], str]) -> str:
    names = list(dict.fromkeys(ratio.peer for ratio in found.ratios))
    by_case: dict[str, dict[str, Ratio]] = {}
    for ratio in found.ratios:
        by_case.setdefault(_case_name(ratio.case, ratio.workers), {})[ratio.peer] = ratio
    return table(
        ("case", *names),
        ([case, *(cell(row[name]) if name in row else "–" for name in names)] for case, row in by_case.items()),
    )


def _cell(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _cpu_cell(ratio: Ratio) -> str:
    return f"{ratio.by_cpu:.2f}"


def _case_name(case: str, workers: int) -> str:
    return case if workers == 1 else f"{case}, {workers} workers"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _span(text: Callable[[float], str], values: Sequence[float]) -> str:
    return f"{text(min(values))}–{text(max(values))}"
