"""Charts as SVG: no script, nothing fetched, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7570b3", "#7f7f7f")
"""Told apart by the colour-blind as well (Okabe and Ito, Color Universal Design, 2008), but for two."""
STYLE = (
    "text{fill:#1d2433;font:12px system-ui,sans-serif}.faint{fill:#56607a}.grid{stroke:#7a8499;stroke-opacity:.28}"
    ".line{fill:none;stroke-width:2}.in{fill:#fff;font-size:11px}"
    "@media(prefers-color-scheme:dark){text{fill:#e8ecf4}.faint{fill:#a9b3c8}.in{fill:#fff}}"
)
_WIDTH = 860
_ROW = 30
_LEFT, _RIGHT = 72, 40
_PLOT_HEIGHT = 240
_LEGEND_COLUMN = 210
_FEWEST_TICKS = 3

Series = Mapping[str, Sequence[tuple[float, float]]]


def stacked_bars(title: str, rows: Sequence[tuple[str, Mapping[str, float], str]]) -> str:
    """Draw one bar a row: a label, its parts (drawn as shares of their sum), and a note at its end."""
    names = list(dict.fromkeys(name for _, parts, _ in rows for name in parts))
    top = 34 + _legend_height(names)
    pieces = list(_legend(names, 34))
    start, end = 250, _WIDTH - 110
    for number, (label, parts, note) in enumerate(rows):
        y = top + number * _ROW
        pieces.append(f'<text x="{start - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        whole = sum(max(value, 0.0) for value in parts.values()) or 1.0
        x = float(start)
        for name, value in parts.items():
            share = max(value, 0.0) / whole
            width = share * (end - start)
            pieces.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="20" fill="{_colour(names, name)}">'
                f"<title>{escape(name)}: {share:.1%}</title></rect>"
            )
            if width > 34:
                pieces.append(
                    f'<text class="in" x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle">{share:.0%}</text>'
                )
            x += width
        pieces.append(f'<text x="{end + 8}" y="{y + 15}">{escape(note)}</text>')
    return _svg(title, top + len(rows) * _ROW + 6, pieces)


def lines(
    title: str,
    series: Series,
    *,
    x_name: str,
    y_name: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    logarithmic_x: bool = False,
) -> str:
    """Draw lines over a common plane; y is logarithmic, and so is x if asked for.

    ``x_ticks`` are positions and labels on the x axis; without them they are chosen.
    """
    names = list(series)
    points = [point for line in series.values() for point in line]
    y_low, y_high = _decades([y for _, y in points])
    place_x = math.log10 if logarithmic_x else float
    ticks = x_ticks or _ticks([x for x, _ in points], logarithmic=logarithmic_x)
    positions = [place_x(x) for x, _ in points] + [place_x(x) for x, _ in ticks]
    x_low, x_high = min(positions), max(positions)
    top = 40 + _legend_height(names)
    right, bottom = _WIDTH - _RIGHT, top + _PLOT_HEIGHT

    def to_x(value: float) -> float:
        return _LEFT + (place_x(value) - x_low) / ((x_high - x_low) or 1.0) * (right - _LEFT)

    def to_y(value: float) -> float:
        return bottom - (math.log10(max(value, 10.0**y_low)) - y_low) / (y_high - y_low) * _PLOT_HEIGHT

    pieces = [*_legend(names, 34), *_axes(range(y_low, y_high + 1), ticks, to_x, to_y, (right, bottom))]
    for name, line in series.items():
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line)
        colour = _colour(names, name)
        pieces.append(
            f'<polyline class="line" stroke="{colour}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
        if len(line) <= _FEWEST_TICKS * 2:
            pieces += [f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
    pieces.append(f'<text class="faint" x="{_LEFT}" y="{top - 8}">{escape(y_name)}</text>')
    pieces.append(f'<text class="faint" x="{right}" y="{bottom + 34}" text-anchor="end">{escape(x_name)}</text>')
    return _svg(title, bottom + 42, pieces)


def _axes(
    decades: range,
    ticks: Sequence[tuple[float, str]],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    corner: tuple[int, int],
) -> Iterator[str]:
    right, bottom = corner
    for decade in decades:
        y = to_y(10.0**decade)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text class="faint" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_power(decade)}</text>'
    for position, label in ticks:
        x = to_x(position)
        yield f'<line class="grid" x1="{x:.1f}" y1="{bottom - _PLOT_HEIGHT}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(label)}</text>'


def _svg(title: str, height: float, pieces: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<text x="0" y="16" style="font-weight:600;font-size:14px">{escape(title)}</text>{"".join(pieces)}</svg>'
    )


def _legend(names: Sequence[str], y: int) -> Iterator[str]:
    for number, name in enumerate(names):
        row, column = divmod(number, _WIDTH // _LEGEND_COLUMN)
        x, line = column * _LEGEND_COLUMN, y + row * 20
        yield f'<rect x="{x}" y="{line - 10}" width="12" height="12" rx="2" fill="{_colour(names, name)}"/>'
        yield f'<text x="{x + 18}" y="{line}">{escape(name)}</text>'


def _legend_height(names: Sequence[str]) -> int:
    return math.ceil(len(names) / (_WIDTH // _LEGEND_COLUMN)) * 20


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _power(decade: int) -> str:
    return f"{10**decade:,}" if decade >= 0 else f"{10.0**decade:g}"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    above = [value for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(above)))
    return low, max(math.ceil(math.log10(max(above))), low + 1)


def _ticks(values: Sequence[float], *, logarithmic: bool) -> list[tuple[float, str]]:
    if logarithmic:
        return [(value, f"{value:,.0f}") for value in sorted(set(values))]
    high = max(values, default=1.0) or 1.0
    step = 10.0 ** math.floor(math.log10(high))
    while high / step < _FEWEST_TICKS:
        step /= 2
    return [(number * step, f"{number * step:g}") for number in range(int(high / step) + 1)]
