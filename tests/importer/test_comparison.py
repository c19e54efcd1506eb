"""The comparison of imports, tiny."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.compare_import import refuse_too_little_room
from tests.importer.making import environment

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "compare_import.py"


@pytest.mark.usefixtures("samples")
def test_a_tiny_comparison(tmp_path: Path) -> None:
    """Both ways are timed, a killed import goes on to the right state, and the section is written."""
    written, results = tmp_path / "found.json", tmp_path / "results.md"
    options = ["--files", "30", "--rounds", "1", "--no-peers", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--json", written, "--results", results],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(written.read_bytes())
    assert {took["way"] for took in found["first"]} == {"stat7store import", "sha256sum, cp -r, sync"}
    assert found["killed"]["as_it_should_be"]
    assert "<!-- import -->" in results.read_text()
    assert not list(tmp_path.glob("stat7-import-*"))


def test_too_little_room_is_told(tmp_path: Path) -> None:
    """Before anything is timed, with what to do."""
    refuse_too_little_room(tmp_path, 1)
    with pytest.raises(OSError, match=r"GB are free in .*--folder"):
        refuse_too_little_room(tmp_path, 1 << 60)
