"""The two commands a newcomer needs, and what stands behind them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.house.project import ROOT, read


def targets() -> dict[str, str]:
    """Every target a person may make, with what is said of it."""
    return dict(re.findall(r"^([a-z]+):.*?## (.+)$", read("Makefile"), re.MULTILINE))


def test_make_alone_says_what_there_is() -> None:
    """`make` without a target prints one line for each, and does nothing else."""
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True)
    printed = [line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()]
    assert printed == [[name, meaning] for name, meaning in targets().items()]


def test_every_target_is_told_of() -> None:
    """A target that is no file is phony and has its line in the list."""
    phony = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets().keys()


def test_continuous_integration_runs_the_test_command() -> None:
    """What CI runs is `make test`, as a person would."""
    assert "exec make test </dev/null" in read(".ci/run").splitlines()


def test_bootstrap_explains_itself() -> None:
    """`scripts/bootstrap.sh help` tells every word it takes, and another word is refused."""
    script = ROOT / "scripts" / "bootstrap.sh"
    told = subprocess.run([script, "help"], check=True, capture_output=True, text=True).stdout
    for word in ("tools", "run", "dev", "system", "lock"):
        assert f"bootstrap.sh {word} " in told
    refused = subprocess.run([script, "nonsense"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "there is no 'nonsense'" in refused.stderr


OLD_PYTHON = """#!/bin/sh
exec {python} -c 'import platform, sys
sys.version_info = (3, 10, 9)
platform.python_version = lambda: "3.10.9"
exec(sys.argv[1])' "$2"
"""


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """A Python that is too old, or none at all, is named in a clear message, and nothing is made or removed."""
    old = tmp_path / "python3.10"
    old.write_text(OLD_PYTHON.format(python=sys.executable))
    old.chmod(0o755)
    before = sorted((ROOT / ".tools").iterdir())
    for python, what in ((str(old), "3.10.9"), ("/bin/false", "no Python")):
        done = subprocess.run(
            [ROOT / "scripts" / "bootstrap.sh", "tools"],
            env={"PATH": "/usr/bin:/bin", "PYTHON": python},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert f"Python 3.11 or newer is needed; {python} is {what}." in done.stderr
    assert sorted((ROOT / ".tools").iterdir()) == before
