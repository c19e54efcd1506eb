"""The project's own files, as the tests of the house read them."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
_PORTS_EACH = 500


def read(name: str) -> str:
    """The text of a file of the project, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def pip() -> list[str]:
    """The command that calls pip: the pinned one that ``make`` keeps."""
    return [sys.executable, str(ROOT / ".tools" / "pip")]


def free_port() -> int:
    """A TCP port that nothing listens on, and that nobody takes until it is used.

    It is below those that the kernel gives to outgoing connections, and no other process of these tests gets it.
    """
    for port in _own_ports():
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@cache
def _own_ports() -> Iterator[int]:
    """The ports that are this process's own: by its number among those that share the tests (pytest-xdist)."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = lowest_given - _PORTS_EACH * (number + 1)
    assert first >= 1024, "too few ports are below those of outgoing connections"
    ports = list(range(first, first + _PORTS_EACH))
    random.shuffle(ports)  # other tests may run on this machine
    return iter(ports)


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of ``GET path`` from a server on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def running(
    command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in ``folder`` until the context ends; it is ready when the context begins, and must stop cleanly."""
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=folder, env={**environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_until_ready(server, port, log)
        yield server
        server.terminate()
        assert server.wait(60) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def plain_environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the server, and ``more``."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STAT7_")} | more


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            if fetch(port, "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after a minute:\n{log.read_text()}")
