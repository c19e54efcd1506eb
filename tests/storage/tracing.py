"""System calls as strace sees them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def strace(trace: Path, *options: str) -> list[str | Path]:
    """Return the command that traces a process and its threads; each line in the order of the call's end."""
    return [*strace_event_loop(trace, *options), "-f"]


def strace_event_loop(trace: Path, *options: str) -> list[str | Path]:
    """Return the command that traces a process without its threads, which is to say its event loop."""
    program = shutil.which("strace")
    assert program is not None, "strace must be installed (make system)"
    return [program, "-y", "-o", trace, *options]


def calls(trace: Path) -> list[str]:
    """Return the traced calls that succeeded, each whole, in the order in which they returned."""
    begun: dict[str, str] = {}
    whole = []
    for line in trace.read_text().splitlines():
        process, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", call):
            call = begun.pop(process) + call[resumed.end() :]
        if re.search(r"= \d+", call):
            whole.append(call)
    return whole
