"""The lock files pin everything that is installed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.house.project import read

LOCKS = ("run", "dev", "build", "tools")
PINNED = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<marker> ; [^\\]+)?(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)"
)


def locked(name: str) -> dict[str, Version]:
    """What a lock file pins."""
    return {found["name"]: Version(found["version"]) for found in PINNED.finditer(read(f"requirements/{name}.lock"))}


def satisfied(wanted: Iterable[str], pins: dict[str, Version]) -> list[str]:
    """Those of ``wanted`` that the pins do not satisfy."""
    requirements = [Requirement(line) for line in wanted]
    return [str(each) for each in requirements if each.name not in pins or pins[each.name] not in each.specifier]


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_with_hashes(name: str) -> None:
    """A lock file holds nothing but pinned versions with hashes, and names no address to fetch them from."""
    text = read(f"requirements/{name}.lock")
    assert locked(name)
    rest = PINNED.sub("", text)
    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert "://" not in text


def test_the_lock_files_are_up_to_date() -> None:
    """What pyproject.toml asks for is what the lock files pin; otherwise `make lock` was forgotten."""
    project = tomllib.loads(read("pyproject.toml"))
    assert satisfied(project["project"]["dependencies"], locked("run")) == []
    assert satisfied(project["dependency-groups"]["dev"], locked("dev")) == []
    assert satisfied(project["build-system"]["requires"], locked("build")) == []


@pytest.mark.parametrize("name", ["run", "build"])
def test_one_resolution_for_all(name: str) -> None:
    """Developers test the very versions that servers run and that the wheel is built with."""
    dev = locked("dev")
    differing = {package for package, version in locked(name).items() if dev.get(package, version) != version}
    assert differing == set()


def test_servers_run_what_developers_have() -> None:
    """Nothing runs on a server that is not installed where the tests run."""
    assert locked("run").keys() <= locked("dev").keys()
