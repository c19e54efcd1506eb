"""A test that cannot fail shows nothing: each protection is taken out once, and the test that holds it must fail."""

from __future__ import annotations

import ast
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
from tests.faults.taken_out import PROTECTIONS, Marked, Protection, instead, markers, without

COPIED = ("stat7store", "storage", "tests", "scripts", "pyproject.toml")
TESTS = sorted({protection.test for protection in PROTECTIONS})
TIMEOUT_S = 600


def test_every_protection_is_where_it_is_said_to_be() -> None:
    """Each marker stands in the code exactly once and is in the table, and what is below it can be taken out."""
    found = markers(ROOT)
    assert {marker: len(places) for marker, places in found.items()} == {p.marker: 1 for p in PROTECTIONS}
    assert len({p.protection for p in PROTECTIONS}) == len(PROTECTIONS)
    for protection in PROTECTIONS:
        file, line = place_of(ROOT, protection)
        whole = (ROOT / file).read_text()
        changed = without(whole, line, protection.change)
        compile(changed, str(file), "exec")
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(whole)), protection.protection


def test_what_is_put_in_its_place_must_be_of_the_source() -> None:
    """Code that names what its file does not know is refused, wherever in the file the marker stands."""
    source = "def double(number):\n    # protection: it-doubles\n    return (2 *\n            number)\n"
    assert without(source, 1, instead("return number")) == source[: source.index("    return")] + "    return number\n"
    with pytest.raises(ValueError, match="not in the source: amount"):
        without(source, 1, instead("return amount"))


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
            taken_out=f"{place_of(copied, protection).file}: {protection.taken_out}",
            test=protection.test,
            caught=caught,
        )
    )
    assert caught, done.stdout + done.stderr


def place_of(folder: Path, protection: Protection) -> Marked:
    """Return where the marker of a protection stands."""
    (place,) = markers(folder)[protection.marker]
    return place


@contextmanager
def taken_out(folder: Path, protection: Protection) -> Iterator[None]:
    """Take a protection out of a copy for the length of the context."""
    place = place_of(folder, protection)
    path = folder / place.file
    whole = path.read_text()
    path.write_text(without(whole, place.line, protection.change))
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
