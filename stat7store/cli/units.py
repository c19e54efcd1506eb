"""How sizes, durations and moments are written, and values as JSON: the one place for each.

It imports next to nothing, for verbs that are to start at once.
"""

from __future__ import annotations

import sys

import msgspec

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Write a number of bytes, in powers of 1000: ``791.6 kB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in _UNITS:
        count /= 1000
        if count < 999.95 or unit == _UNITS[-1]:
            break
    return f"{count:.1f} {unit}"


def milliseconds(value: float | None) -> str:
    """Write a duration given in milliseconds, with the digits that count: ``0.0013 ms``, ``12.4 ms``, ``3.21 s``."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    decimals = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{decimals}f} ms"


def moment(text: str) -> str:
    """Write a moment of the API to the second: ``2026-01-01 00:00:00``."""
    return text[:19].replace("T", " ")


def as_json(value: object, *, stderr: bool = False) -> None:
    """Print a value as one line of JSON."""
    print(msgspec.json.encode(value).decode(), file=sys.stderr if stderr else sys.stdout, flush=True)
