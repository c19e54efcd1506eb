"""Processes that the comparison starts: pinned to cores, watched, and gone at the end with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from stat7store.errors import Unavailable

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000
_PORTS_APART = 37  # of two processes whose ids follow each other
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


def pinned(command: Sequence[str], cores: Sequence[int]) -> list[str]:
    """Return the command that runs another on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def free_port() -> int:
    """Return a TCP port that nothing uses now, and that no other call returns as long as this process runs.

    It is outside of the range that the kernel takes the ports of outgoing connections from. Processes agree by names
    of Unix sockets in the abstract namespace, which leave no files, and are as far apart as their networks are. Raises
    ``Unavailable`` if there is none.
    """
    ports = server_ports(*map(int, _OUTGOING.read_text().split()))
    start = os.getpid() * _PORTS_APART % len(ports)
    for port in ports[start:] + ports[:start]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as claim, socket.socket() as probe:
            claim.bind(f"\0stat7-port-{port}")
            probe.bind(("127.0.0.1", port))
            claim.detach()  # open until this process ends: the port is its own
            return port
    raise Unavailable("no TCP port is free")


def server_ports(low: int, high: int) -> list[int]:
    """Return the ports outside of a range, the lower first; all that there are if it leaves none."""
    every = range(_FIRST_PORT, 65536)
    return [port for port in every if not low <= port <= high] or list(every)


def listens(port: int) -> bool:
    """Whether something takes connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str],
    *,
    folder: Path,
    cores: Sequence[int],
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[psutil.Process]]:
    """Run a server on these cores for the length of the context; it is ready when the context begins.

    What it writes goes to a log in the folder. Raises ``Unavailable`` with the end of it if it does not start.
    """
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            pinned(command, cores),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the comparison, which stops its servers in order
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready():
            if server.poll() is not None or time.monotonic() > deadline:
                told = log.read_text(errors="replace").strip()[-500:]
                raise Unavailable(f"{Path(command[0]).name} did not start: {told}")
            time.sleep(0.02)
        yield [psutil.Process(server.pid)]
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU time that these processes, and those they started and that still run, have used."""
    total = 0.0
    for process in processes:
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                used = each.cpu_times()
                total += used.user + used.system
    return total


def output_of(command: Sequence[str]) -> str:
    """Return what a command writes, "" if there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()
