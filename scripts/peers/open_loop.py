"""The open loop's client: a program in C, compiled where it is used, on a core of its own."""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scripts.peers.processes import CHECKOUT, pinned
from scripts.peers.work import Ask, Done
from stat7store.errors import Unavailable

COMPILER = "apt-get install gcc libc6-dev"
_SOURCE = Path(__file__).with_name("open_loop.c")
_FLAGS = ("-O2", "-Wall", "-Wextra")
_LONGEST_S = 120.0


def program(folder: Path = CHECKOUT / ".cache" / "peers") -> Path:
    """Return the client, compiled anew if its source is newer. Raises ``Unavailable`` if it cannot be compiled."""
    compiled = folder / "open_loop"
    if compiled.exists() and compiled.stat().st_mtime_ns > _SOURCE.stat().st_mtime_ns:
        return compiled
    folder.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC") or "cc")
    unfinished = folder / f"open_loop.{os.getpid()}.tmp"  # nobody runs a part of it
    try:
        subprocess.run(
            [*compiler, *_FLAGS, str(_SOURCE), "-o", str(unfinished)], check=True, capture_output=True, text=True
        )
        unfinished.replace(compiled)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{compiler[0]} cannot compile {_SOURCE.name} ({COMPILER}): {error.stderr[:500]}") from error
    except OSError as error:
        raise Unavailable(f"there is no {compiler[0]} to compile {_SOURCE.name} with: {COMPILER}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return compiled


def open_loop(asks: Sequence[Ask], port: int, connections: int, seconds: float, rate: float, core: int) -> Done:
    """Ask for ``seconds``, ``rate`` requests a second, each when it is due, evenly spaced, chosen at random.

    Raises ``Unavailable`` with what the client wrote if it breaks.
    """
    with tempfile.NamedTemporaryFile(prefix="stat7-asks-") as file:
        for ask in asks:
            file.write(b"%d %d %d\n%s" % (ask.status, ask.size, len(ask.request), ask.request))
        file.flush()
        seed = random.randrange(2**31)  # noqa: S311 - a choice of files, not a secret
        words = [port, connections, rate, seconds, seed, file.name]
        done = subprocess.run(
            pinned([str(program()), *map(str, words)], [core]),
            capture_output=True,
            check=False,
            timeout=seconds + _LONGEST_S,
        )
    if done.returncode != 0:
        raise Unavailable(f"the open loop's client broke: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=Done)
