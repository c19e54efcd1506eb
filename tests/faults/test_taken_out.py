"""A test that cannot fail shows nothing: each protection is taken out once, and the test that holds it must fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.reliability import Reliability, Removal
from tests.faults.taken_out import PROTECTIONS, Protection

COPIED = ("stat7store", "storage", "tests", "scripts", "pyproject.toml")
TESTS = sorted({protection.test for protection in PROTECTIONS})
TIMEOUT_S = 600


def test_every_protection_is_where_it_is_said_to_be() -> None:
    """The text to be taken out of the code stands there exactly once, so the table is of this code."""
    counts = {p.protection: (ROOT / p.file).read_text().count(p.old) for p in PROTECTIONS}
    assert set(counts.values()) == {1}, counts
    assert len(counts) == len(PROTECTIONS)


def test_every_test_exists() -> None:
    """The tests that hold the protections can be collected, all of them."""
    done = pytest_in(ROOT, "--collect-only", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, soak: bool) -> Path:
    """A copy of the project, whose tests all pass as it is."""
    if not soak:
        pytest.skip("taking out every protection takes some minutes: --soak does it")
    folder = tmp_path_factory.mktemp("taken out") / "project"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    (folder / ".cache").symlink_to(ROOT / ".cache")
    done = pytest_in(folder, *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.protection.replace(" ", "-"))
def test_it_is_missed(copied: Path, protection: Protection, reliability: Reliability) -> None:
    """Without the protection, its test fails."""
    with taken_out(copied, protection):
        done = pytest_in(copied, "-x", protection.test)
    caught = done.returncode == 1 and re.search(r"\d+ failed", done.stdout) is not None
    reliability.add(
        Removal(
            protection=protection.protection,
            taken_out=f"{protection.file}: {protection.taken_out}",
            test=protection.test,
            caught=caught,
        )
    )
    assert caught, done.stdout + done.stderr


@contextmanager
def taken_out(folder: Path, protection: Protection) -> Iterator[None]:
    """Take a protection out of a copy for the length of the context."""
    path = folder / protection.file
    whole = path.read_text()
    path.write_text(whole.replace(protection.old, protection.new))
    try:
        yield
    finally:
        path.write_text(whole)


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the code in a folder."""
    # bytecode is told from its source by size and second: too coarse for one that changes and changes back
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command: Sequence[str] = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
