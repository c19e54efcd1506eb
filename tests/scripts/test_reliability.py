"""The report of the fault plan says what its tests found, and nothing of the machine's names."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.reliability import main
from tests.faults.reliability import Reliability, Removal, Row, recovery
from tests.house.project import ROOT, plain_environment

SCRIPT = ROOT / "scripts" / "reliability.py"


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """What a run kept: one fault that several processes did a part of, one that was left out, one removal."""
    path = tmp_path / "found.jsonl"
    kept = Reliability(path)
    for times, seconds in ((3, [0.5, 1.0, 1.5]), (2, [2.0, 4.0])):
        kept.add(
            Row(
                fault="kill -9",
                store="filesystem",
                how="of a|b",
                times=times,
                checked=f"{times},000 retrievals",
                lost=0,
                wrong=times - 2,
                **recovery(seconds),
            )
        )
    kept.add(Row("kill -9", "S3", "of all", 7, "7 retrievals", 1, 0, left_out="no RADOS Gateway here"))
    kept.add(Removal("the file is synced", "storage/file_commit.py: no fsync", "tests/test_a.py::test_b", True))
    return path


def test_rows_of_one_fault_are_one_row(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of the same fault on the same store are added up; the worst recovery is the worst of all."""
    assert main([str(found)]) == 0
    page = capsys.readouterr().out
    assert (
        "| kill -9 | filesystem | of a\\|b | 5 | 3,000 retrievals; 2,000 retrievals | 0 | 1 | 2.00 / 4.00 s |" in page
    )
    assert "| kill -9 | S3 | of all | 7 | 7 retrievals | 1 | 0 | – |" in page
    assert "- kill -9, S3: no RADOS Gateway here." in page
    assert "| the file is synced | storage/file_commit.py: no fsync | `tests/test_a.py::test_b` | yes |" in page
    assert socket.gethostname() not in page
    assert str(Path.home()) not in page


def test_the_page_is_written_whole(found: Path, tmp_path: Path) -> None:
    """The command writes the whole page in place of what was there."""
    page = tmp_path / "docs" / "reliability.md"
    page.parent.mkdir()
    page.write_text("what was there before")
    command = [sys.executable, str(SCRIPT), str(found), "--write", str(page)]
    done = subprocess.run(command, env=plain_environment(PYTHONPATH=str(ROOT)), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    text = page.read_text()
    assert text.startswith("# Reliability\n")
    assert "there before" not in text
    assert text.index("## Faults") < text.index("## Left out") < text.index("## Protections taken out")


@pytest.mark.parametrize("line", [None, "", '{"type":"fault"}\n', "no JSON\n"])
def test_what_is_no_report_is_told(tmp_path: Path, line: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing, empty or of something else is refused with one line that says which."""
    path = tmp_path / "found.jsonl"
    if line is not None:
        path.write_text(line)
    assert main([str(path)]) == 1
    said = capsys.readouterr().err
    assert str(path) in said
    assert said.count("\n") == 1
