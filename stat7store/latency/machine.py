"""The machine that results were measured on; every section of results names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from stat7store.latency.report import Machine

_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def this_machine() -> Machine:
    """Return processor, cores, memory, Python, and as ``system`` the kernel with its TCP congestion control.

    The congestion control decides what a large answer costs, and who is charged for it: under bbr, timers send a
    part of it, which no process pays for.
    """
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return Machine(
        system=f"{platform.system()} {platform.release().partition('-')[0]}, TCP {congestion_control()}",
        processor=processor or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
    )


def congestion_control() -> str:
    """Return the congestion control of new TCP connections, such as cubic; "unknown" without /proc."""
    try:
        return _CONGESTION.read_text().strip()
    except OSError:
        return "unknown"
