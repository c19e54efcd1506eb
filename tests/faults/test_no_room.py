"""No room for a file: it is refused as that, and nobody else suffers."""

from __future__ import annotations

import resource
from http.client import HTTPConnection
from pathlib import Path

import psutil

from tests.media import distinct_jpeg, large_mp4
from tests.running import RunningServer

LIMIT = 4 << 20  # more than the catalog has


def test_a_file_without_room_is_507_and_no_other_suffers(tmp_path: Path, samples: Path) -> None:
    """A file larger than may be written is answered with 507 and leaves nothing; smaller ones are stored as ever,
    and it is itself as soon as there is room. It holds the answer's status, by which a client knows what to do."""
    large_mp4(tmp_path / "large.mp4", 2 * LIMIT)
    large = (tmp_path / "large.mp4").read_bytes()
    photo = (samples / "rocket.jpg").read_bytes()
    with RunningServer(tmp_path / "data") as server:
        for process in server.processes:
            limit(process, LIMIT)
        for number in range(5):
            assert upload(server.url, large) == 507
            assert upload(server.url, distinct_jpeg(photo, number)) == 201
        assert len(server.stored()) == 5
        for process in server.processes:
            limit(process, resource.RLIM_INFINITY)
        assert upload(server.url, large) == 201


def limit(process: psutil.Process, size: int) -> None:
    """Let a process write files of so many bytes at most."""
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size, most))


def upload(url: str, data: bytes) -> int:
    """Upload over a connection of its own; return the status."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/v1/files", body=data)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
