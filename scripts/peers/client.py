"""Running the clients, each in a process of its own on a core of its own: wrk, and the generator."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scripts.peers.processes import CHECKOUT, pinned
from scripts.peers.work import Ask, Done, Work
from stat7store.errors import Unavailable

_SCRIPT = Path(__file__).with_name("wrk.lua")
_LONGEST_S = 120.0


class _Told(msgspec.Struct):
    requests: int
    us: int
    bytes: int
    p50_us: float
    p99_us: float
    broken: int
    refused: int


def generate(work: Work, core: int) -> Done:
    """Carry out a load with the generator. Raises ``Unavailable`` with what it wrote if it breaks."""
    done = subprocess.run(
        pinned([sys.executable, "-m", "scripts.peers.generator"], [core]),
        input=msgspec.json.encode(work),
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        check=False,
        timeout=work.seconds + _LONGEST_S,
    )
    if done.returncode != 0:
        raise Unavailable(f"the client broke: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=Done)


def wrk(asks: Sequence[Ask], port: int, connections: int, seconds: int, core: int) -> Done:
    """Ask with wrk, one thread, for whole ``seconds``; all answers are to have the same size.

    Raises ``Unavailable`` with what it wrote if it breaks.
    """
    with tempfile.NamedTemporaryFile(prefix="stat7-asks-") as file:
        file.write(b"\0".join(ask.request for ask in asks))
        file.flush()
        before = _cpu_of_children()
        flags = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=30s", "-s", str(_SCRIPT)]
        seed = str(random.randrange(2**31))  # noqa: S311 - a choice of files, not a secret
        done = subprocess.run(
            pinned(["wrk", *flags, f"http://127.0.0.1:{port}", "--", file.name, seed], [core]),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + _LONGEST_S,
        )
        spent = _cpu_of_children() - before
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise Unavailable(f"wrk broke: {(done.stderr or done.stdout).strip()[-500:]}")
    told = msgspec.json.decode(lines[-1], type=_Told)
    refused = told.refused if asks[0].status < 400 else 0
    short = told.bytes < told.requests * asks[0].size
    wrong = [(told.broken, "broken connections"), (refused, "refused requests"), (short, "answers too short")]
    return Done(
        requests=told.requests - refused,
        seconds=told.us / 1e6,
        p50_ms=told.p50_us / 1000,
        p99_ms=told.p99_us / 1000,
        client_cpu_s=spent,
        errors=told.broken + refused + short,
        error=", ".join(what for count, what in wrong if count),
    )


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
