"""Every request has its line in the log: the same from all ways of answering, in order, and no request waits for it."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.running import RunningServer
from tests.server.test_fastlane import PNG

PICTURE = PNG + random.Random(9).randbytes(4000)
PATH = f"/v1/files/{hashlib.sha256(PICTURE).hexdigest()}"
STAGES = ("queue_ms", "index_ms", "metadata_ms", "disk_ms", "network_ms")


class Client:
    """A connection to a server, which holds the picture from then on."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self.ask(PATH, "first", "PUT", PICTURE)

    def ask(self, path: str, name: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """Send a request of this name and return what comes back."""
        self._connection.request(method, path, body, {"X-Request-ID": name})
        return self._connection.getresponse().read()

    def timing(self, path: str, name: str) -> str:
        """Send a request of this name and return the answer's ``Server-Timing``."""
        self._connection.request("GET", path, headers={"X-Request-ID": name})
        answer = self._connection.getresponse()
        answer.read()
        return answer.headers["Server-Timing"]

    def told(self, path: str) -> Any:
        """Return what the server tells in JSON."""
        return json.loads(self.ask(path, "told"))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@pytest.mark.parametrize("flags", [[], ["--no-fast-path"]], ids=["fast path", "framework"])
def test_a_line_says_what_the_record_says(tmp_path: Path, flags: list[str]) -> None:
    """The lines of all requests come in their order, with the times that /v1/timings tells."""
    names = [f"{random.Random(number).randrange(10**number)}_{number}" for number in range(1, 40)]
    with (
        RunningServer(tmp_path / "data", "--log-format=json", *flags, workers=1) as server,
        closing(Client(server.url)) as client,
    ):
        for number, name in enumerate(names):
            client.ask("/healthz" if number % 10 == 9 else PATH, name, "HEAD" if number % 7 == 6 else "GET")
        records = {name: client.told(f"/v1/timings/{name}") for name in names[:9]}
        took_fast_lane = client.told("/v1/stats")["counters"]["fast_lane"]
    assert took_fast_lane > 20 if not flags else took_fast_lane == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    lines = [line for line in lines if line.get("request_id") in names]
    assert [line["request_id"] for line in lines] == names
    for line in lines[:9]:
        record = records[line["request_id"]]
        assert {stage: line[stage] for stage in STAGES} == pytest.approx(
            {stage: record[stage] for stage in STAGES}, abs=0.000_051
        )
        assert {field: line[field] for field in ("method", "status", "client", "path", "level", "process")} == {
            "method": record["method"],
            "status": 200,
            "client": "127.0.0.1",
            "path": PATH,
            "level": "info",
            "process": "worker 1",
        }
        assert line["timestamp"][:16] in {record["at"][:16], lines[-1]["timestamp"][:16]}
        if not flags and line is not lines[0]:
            assert line["ms"] == pytest.approx(record["total_ms"], abs=0.000_051)


def test_lines_of_different_clients_and_seconds(tmp_path: Path) -> None:
    """Each connection's lines name its own client, by its address in either family; times rise with the seconds."""
    lines: list[dict[str, Any]] = []
    for host in ("127.0.0.1", "::1"):
        with (
            RunningServer(tmp_path / f"data{len(lines)}", f"--host={host}", workers=1) as server,
            closing(Client(server.url)) as client,
        ):
            for number in range(3):
                client.ask(PATH, f"one-{number}")
        lines += [json.loads(line) for line in server.log.splitlines() if '"one-' in line]
    assert [line["client"] for line in lines] == ["127.0.0.1"] * 3 + ["::1"] * 3
    times = [line["timestamp"] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)
    assert times == sorted(times)


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of one worker whose standard error is a pipe that nobody reads yet."""
    command = [sys.executable, "-m", "stat7store", "serve", f"--data={tmp_path / 'data'}", "--port=0", "--workers=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            yield server
        finally:
            server.kill()


def test_a_log_that_nobody_reads_stops_no_request(unread: subprocess.Popen[bytes]) -> None:
    """Requests are answered while standard error takes nothing; lines are dropped, counted, and told of later."""
    assert unread.stdout is not None and unread.stderr is not None
    found = re.search(r"http://[^/]+(?=/)", unread.stdout.readline().decode())
    assert found is not None
    client = Client(found[0])

    def dropped() -> int:
        sample = re.search(rb"^stat7_log_lines_dropped_total (\d+)", client.ask("/metrics", "told"), re.MULTILINE)
        assert sample is not None
        return int(sample[1])

    asked = 0
    for asked in range(1, 20_000):
        client.ask(f"/v1/files/{asked}-{'x' * 4000}", str(asked))
        if asked % 100 == 0 and dropped() > 300:
            break
    assert client.ask(PATH, "hot") == PICTURE
    lost = dropped()
    assert lost > 300
    lines: list[dict[str, Any]] = []
    while not lines or "lost" not in lines[-1]["event"]:  # lines are lost until the pipe has taken those that waited
        lines.append(json.loads(unread.stderr.readline()))
    assert lines[-1]["lines"] >= lost
    assert lines[-1]["level"] == "warning"
    names = [int(line["request_id"]) for line in lines if line.get("request_id", "").isdigit()]
    assert names == sorted(names)
    assert len(names) < asked
    client.close()
    unread.terminate()
    rest = unread.stderr.read()
    assert unread.wait(60) == 0
    assert all(json.loads(line) for line in rest.splitlines())
