"""The server under test: one that is started for the test, and what its processes use."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stat7store.errors import Unavailable

_STOP_TIMEOUT_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def started(data: Path, workers: int) -> Iterator[str]:
    """Run ``stat7store serve`` on a folder, at a free port, for the length of the context; yields its URL.

    Raises ``Unavailable`` with what it wrote if it does not start. ``workers`` 0: one for each core.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STAT7_")}
    # the access log is off: it is no part of a retrieval, and a terminal would be what is measured
    flags = [f"--data={data}", f"--workers={workers}", "--port=0", "--no-access-log", "--log-level=warning"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "stat7store", "serve", *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            cwd=data.parent,  # its own stat7.toml is not to be found by chance
        )
        assert server.stdout is not None
        try:
            found = re.search(r"http://\S+?(?=/ )", server.stdout.readline())
            if found is None:
                log.seek(0)
                raise Unavailable(f"the server did not start: {log.read().strip()[-500:]}")
            yield found[0]
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()


def cpu_seconds(processes: Iterable[int]) -> float | None:
    """Return the CPU time that these processes of this machine have used; None if it cannot be read."""
    try:
        return sum(_cpu_of(process) for process in processes)
    except (OSError, ValueError, IndexError):
        return None


def memory_bytes(processes: Iterable[int]) -> int | None:
    """Return the proportional set size of these processes of this machine; None if it cannot be read."""
    try:
        return sum(_memory_of(process) for process in processes)
    except (OSError, ValueError, IndexError):
        return None


def _cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime: proc(5)


def _memory_of(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss")


def blob_paths(data: Path) -> Iterator[tuple[str, Path]]:
    """Yield address and file of every blob that the store in this folder keeps in the filesystem."""
    for folder in sorted((data / "blobs").glob("[0-9a-f][0-9a-f][0-9a-f]")):
        with contextlib.suppress(FileNotFoundError):
            for file in folder.iterdir():
                yield file.name.partition(".")[0], file
