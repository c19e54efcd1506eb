"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from stat7store.latency.compare import Comparison
from stat7store.latency.pictures import groups, pictures
from stat7store.latency.report import Report, Run, Summary

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1d2433;--faint:#56607a;--line:#d5dae5;--card:#f6f8fc}
@media(prefers-color-scheme:dark){:root{--back:#12161f;--text:#e8ecf4;--faint:#a9b3c8;--line:#2c3547;--card:#1a2030}}
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p,dl{margin:.4rem 0}
.faint{color:var(--faint)}figure{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:1rem 0;
padding:1rem}svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}summary{cursor:pointer;margin:.6rem 0;font-weight:600}
.good{color:#0a7d45}.bad{color:#c2410c}
@media(prefers-color-scheme:dark){.good{color:#4ade80}.bad{color:#fb923c}}
code{background:var(--card);padding:.1rem .3rem;border-radius:4px;overflow-wrap:anywhere}
"""
_COLUMNS = ("stage", "mean ms", "share", "p50", "p90", "p99", "p99.9", "max", "count")


def html_of(report: Report) -> str:
    """Return the page."""
    machine = report.machine
    errors = report.error_count
    verdict = '<b class="good">no errors</b>' if not errors else f'<b class="bad">{errors} errors</b>'
    requests = sum(run.requests for run in report.runs)
    verified = sum(run.verified for run in report.runs)
    facts = (
        f"{report.made_at} · version {report.version} · {machine.processor}, {machine.cores} cores, "
        f"{machine.memory / 1e9:.0f} GB · {machine.system} · Python {machine.python} · server: {report.server}"
    )
    body = [
        "<h1>Retrieval latency of STAT7 Store</h1>",
        f'<p class="faint">{escape(facts)}</p>',
        f"<p><code>{escape(report.command)}</code></p>",
        f"<p>{requests:,} requests, {verdict}; {verified:,} answers verified against the file's address.</p>",
        *(f'<p class="faint">{escape(line)}</p>' for line in report.built),
        "<h2>Overview</h2>",
        _overview(report.runs),
        "<h2>Charts</h2>",
        *(f"<figure>{svg}</figure>" for _, svg in pictures(report.runs)),
        "<h2>Every stage</h2>",
        *(piece for _, group in groups(report.runs) for piece in _tables(group)),
        f'<p class="faint">{_LEGEND}</p>',
    ]
    return _page("Retrieval latency", body)


_LEGEND = (
    "<b>schedule</b>: open loop, from the intended start to the sending. <b>queue</b> to <b>network</b>: the server's "
    "stages. <b>other</b>: the rest of the server's time. <b>client</b>: what the server's clock does not see, "
    "that is, waiting in the kernel until a worker reads, and the client; slightly negative where the client had the "
    "last byte before the server's clock stopped. Means add up to the total."
)


def html_of_comparison(comparison: Comparison, before: str, after: str) -> str:
    """Return a page of what changed between two reports."""
    head = "".join(f"<th>{name}</th>" for name in ("stage", "p50 before", "after", "p99 before", "after", "verdict"))
    body = [f"<h1>{escape(before)} against {escape(after)}</h1>"]
    for name, verdicts in comparison.runs.items():
        rows = "".join(
            f"<tr><td>{escape(one.stage)}</td><td>{one.before.p50_ms:.4g}</td><td>{one.after.p50_ms:.4g}</td>"
            f"<td>{one.before.p99_ms:.4g}</td><td>{one.after.p99_ms:.4g}</td>"
            f'<td class="{ {"faster": "good", "slower": "bad"}.get(one.verdict, "faint") }">{one.verdict}</td></tr>'
            for one in verdicts
        )
        body.append(f"<h2>{escape(name)}</h2><table><tr>{head}</tr>{rows}</table>")
    return _page("Comparison", body)


def _page(title: str, body: list[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _overview(runs: list[Run]) -> str:
    names = ("run", "per second", "MB/s", "p50 ms", "p99", "p99.9", "errors", "server CPU s", "memory MB")
    rows = []
    for run in runs:
        total, usage = run.stages["total"], run.usage
        cells = (
            f"{run.per_second:,.0f}",
            f"{run.bytes / run.seconds / 1e6:,.1f}" if run.seconds else "–",
            f"{total.p50_ms:.4g}",
            f"{total.p99_ms:.4g}",
            f"{total.p999_ms:.4g}",
            f"{run.error_count}",
            "–" if usage.server_cpu_s is None else f"{usage.server_cpu_s:.1f}",
            "–" if usage.server_memory is None else f"{usage.server_memory / 1e6:.0f}",
        )
        rows.append(f"<tr><td>{escape(run.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _tables(group: list[Run]) -> Iterator[str]:
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    for run in group:
        rows = "".join(_row(stage, summary) for stage, summary in run.stages.items())
        notes = "".join(f'<p class="bad">{escape(note)}</p>' for note in run.notes)
        sources = ", ".join(f"{count:,} from {source}" for source, count in sorted(run.sources.items()))
        yield (
            f"<details><summary>{escape(run.name)}</summary>{notes}"
            f'<p class="faint">{run.requests:,} requests in {run.seconds:.1f} s; {escape(sources)}; '
            f"{run.joined:,} joined with the server's records</p>"
            f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div></details>'
        )


def _row(stage: str, summary: Summary) -> str:
    share = "" if summary.share is None else f"{summary.share:.1%}"
    numbers = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.p999_ms, summary.max_ms)
    cells = "".join(f"<td>{number:.4g}</td>" for number in numbers)
    return (
        f"<tr><td>{escape(stage)}</td><td>{summary.mean_ms:.4g}</td><td>{share}</td>{cells}"
        f"<td>{summary.count:,}</td></tr>"
    )
