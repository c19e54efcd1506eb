"""A server scrubs by itself: rot is found without anyone asking, never served, told, and healed."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until


def ask(url: str, data: bytes | None = None) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_server_scrubs_by_itself(tmp_path: Path) -> None:
    """The scheduled scrub finds a flipped bit; the file is refused, saying what to do, until it is healed."""
    photo = distinct_jpeg(sample("rocket.jpg").read_bytes(), 1)
    with RunningServer(tmp_path / "data", workers=1) as server:
        address = ask(f"{server.url}/v1/files", photo)[1]["address"]
        assert ask(f"{server.url}/v1/stats")[1]["damaged"] == 0
    blob = next((tmp_path / "data" / "blobs").glob(f"???/{address}.*"))
    rotten = bytearray(photo)
    rotten[len(rotten) // 2] ^= 1
    blob.write_bytes(rotten)
    with RunningServer(tmp_path / "data", "--scrub-every=30d", workers=1) as server:
        wait_until(lambda: ask(f"{server.url}/v1/stats")[1]["damaged"] == 1)
        status, problem = ask(f"{server.url}/v1/files/{address}")
        assert status == 500
        assert "uploading the file again heals" in problem["detail"]
        wait_until(lambda: "a scrub ended" in server.log)
        assert "a scrub found damage" in server.log
        assert ask(f"{server.url}/v1/files", photo)[0] in (200, 201)
        assert ask(f"{server.url}/v1/stats")[1]["damaged"] == 0
        with urllib.request.urlopen(f"{server.url}/v1/files/{address}", timeout=30) as answer:
            assert answer.read() == photo
    with RunningServer(tmp_path / "data", "--scrub-every=30d", workers=1) as server:
        assert ask(f"{server.url}/v1/stats")[1]["files"] == 1
    assert server.log.count("a scrub begins") == 1  # the next one is due in a month
    state = tmp_path / "data" / "scrub.json"
    ahead = json.loads(state.read_bytes()) | {"finished_at": int(time.time() + 1e7) * 1000}
    state.write_text(json.dumps(ahead))
    with RunningServer(tmp_path / "data", "--scrub-every=30d", workers=1) as server:
        wait_until(lambda: server.log.count("a scrub begins") == 2)  # a clock that was ahead does not put it off
