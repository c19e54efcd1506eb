"""What the kernel tells of a process: memory, processor time, open files (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_USER_TIME, _SYSTEM_TIME, _THREADS, _RESIDENT = 11, 12, 17, 21  # fields of stat, counted after the name


class Usage(NamedTuple):
    """What a process takes: seconds of processor time since it started, bytes of memory, files and threads now."""

    cpu_s: float
    resident_bytes: int
    open_files: int
    threads: int


def usage(pid: int) -> Usage | None:
    """Return what a process takes; None if there is no such process, or it is not ours to look at."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold anything
    ticks = int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
    return Usage(
        ticks / os.sysconf("SC_CLK_TCK"),
        int(fields[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE"),
        open_files,
        int(fields[_THREADS]),
    )
