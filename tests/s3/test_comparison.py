"""The comparison with boto3's own transfers runs, says what it found, and leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.s3_servers import OWNER, S3Server, keys_in

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "compare_s3.py"


@pytest.mark.real
def test_a_tiny_comparison(rgw_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions and the cache are measured, and written where it was asked for."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    results = tmp_path / "results.md"
    with rgw_server.bucket() as options:
        command: list[str | Path] = [
            sys.executable,
            SCRIPT,
            f"s3://{options.bucket}",
            f"--endpoint={rgw_server.endpoint}",
            "--cached",
        ]
        tiny = ["--mebibytes=20", "--rounds=1", f"--folder={tmp_path}", f"--results={results}"]
        run = subprocess.run([*command, *tiny], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert re.search(r"^\| upload \| \d+ \| \d+ \| \d+\.\d\d \|", run.stdout, re.MULTILINE)
        assert re.search(r"^\| download \| \d+ \| \d+ \| \d+\.\d\d \|", run.stdout, re.MULTILINE)
        assert "from the cache" in run.stdout
        assert run.stdout.strip() in results.read_text()
        client = rgw_server.client()
        assert keys_in(client, options.bucket) == []
        client.close()
    assert list(tmp_path.iterdir()) == [results]
