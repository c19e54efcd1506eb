"""The server that the comparison measures timing against does the same work, and times none of it."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path

import pytest

from scripts.compare_peers import known_peers
from scripts.peers.processes import free_port


@pytest.mark.parametrize("timed", [True, False])
def test_what_is_left_without_timing(samples: Path, tmp_path: Path, timed: bool) -> None:
    """Answers come from the fast lane and are counted either way; only the timed server knows how long they took."""
    (peer,) = (each for each in known_peers() if each.name == ("stat7" if timed else "stat7-without-timing"))
    peer.lay(tmp_path / "store", [])
    data = (samples / "astronaut.png").read_bytes()[:5000]
    port = free_port()
    with peer.serving(tmp_path / "store", port, 1, [min(os.sched_getaffinity(0))]):
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

        def ask(method: str, path: str, body: bytes | None = None) -> bytes:
            server.request(method, path, body)
            return server.getresponse().read()

        address = json.loads(ask("POST", "/v1/files", data))["address"]
        for _ in range(20):
            assert ask("GET", f"/v1/files/{address}") == data
        told = json.loads(ask("GET", "/v1/stats"))
        records = json.loads(ask("GET", "/v1/timings"))["timings"]
        server.close()
    assert told["counters"]["fast_lane"] > 0
    assert told["stages"]["since_start"]["total"]["count"] == len(records) == (20 if timed else 0)
