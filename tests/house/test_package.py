"""What the package says of itself, and NOTICE of what comes with it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import pytest
from trove_classifiers import classifiers as known_classifiers

import hatch_build
from tests.house.dockerfile import parse
from tests.house.project import ROOT, read
from tests.house.test_locks import locked

ROW = re.compile(
    r"^    (?P<name>[a-z0-9][a-z0-9-]*)(?P<windows> \*)? +(?P<licence>[A-Z][A-Za-z0-9. -]+)$", re.MULTILINE
)
ELSEWHERE = re.compile(r"(?:href|src|url)\s*[=(]\s*[\"']?(?:https?:)?//", re.IGNORECASE)
# How packages that state no SPDX expression name their licence.
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # python-dateutil
    "ISC License": "ISC",
    "MIT": "MIT",
    "MIT License": "MIT",
    "OLDAP-2.8": "OLDAP-2.8",
    "PSF-2.0": "PSF-2.0",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return table


def licence_of(package: str) -> str:
    """The SPDX expression for an installed package's licence, by its metadata."""
    told = metadata(package)
    classified = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License")]
    stated = told["License-Expression"] or told["License"] or "".join(classified)
    return SPELLINGS.get(stated, stated)


def test_the_licence_is_stated_as_pep_639_says(project: dict[str, Any]) -> None:
    """An expression and files, no classifier; the licence's text is whole."""
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    assert [line for line in project["classifiers"] if line.startswith("License")] == []
    text = read("LICENSE")
    assert text.lstrip().startswith("Apache License\n")
    assert re.findall(r"^   (\d)\. ", text, re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_metadata_are_what_indexes_know(project: dict[str, Any]) -> None:
    """Every classifier exists, in order and once; authors and URLs are given."""
    assert [line for line in project["classifiers"] if line not in known_classifiers] == []
    assert project["classifiers"] == sorted(set(project["classifiers"]))
    assert project["authors"] == [{"name": "The STAT7 Store developers"}]
    home = project["urls"]["Homepage"]
    assert all(url.startswith(home) for url in project["urls"].values())


def test_the_urls_name_files_that_exist(project: dict[str, Any]) -> None:
    """What the URLs name in the repository is there, and other documents use the same repository."""
    home = project["urls"]["Homepage"]
    named = [re.search(r"/(?:blob|tree)/main/(.+)", url) for url in project["urls"].values()]
    assert [found[1] for found in named if found and not (ROOT / found[1]).exists()] == []
    for name in ("CONTRIBUTING.md", "SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"):
        urls = re.findall(r"https://github\.com/[\w-]+/[\w-]+", read(name))
        assert set(urls) == {home}, name


def test_both_packages_are_typed(project: dict[str, Any]) -> None:
    """Each has the marker of PEP 561, which is empty, and the classifier says so."""
    assert [(ROOT / package / "py.typed").read_bytes() for package in hatch_build.PACKAGES] == [b"", b""]
    assert "Typing :: Typed" in project["classifiers"]


def test_the_notice_lists_every_package() -> None:
    """NOTICE has a row for each package in requirements/run.lock, in order, with the licence that it states."""
    table = read("NOTICE").partition("\n    ---")[2].partition("\nWhere ")[0]
    rows = [found.groupdict() for found in ROW.finditer(table)]
    assert [row["name"] for row in rows] == sorted(locked("run"))
    wrong = {}
    for row in rows:
        try:
            licence = licence_of(row["name"])
        except PackageNotFoundError:
            assert row["windows"], f"{row['name']} is not installed"
            continue
        assert not row["windows"], f"{row['name']} is installed here too"
        if licence != row["licence"]:
            wrong[row["name"]] = licence
    assert wrong == {}


def test_the_notice_names_the_base_image() -> None:
    """NOTICE names the base of the image as docker/Dockerfile does, and the image installs no Debian package."""
    image = parse(read("docker/Dockerfile"))[-1]
    assert f"docker/Dockerfile builds on {image.base}, " in read("NOTICE")
    assert [command for command in image.all("RUN") if "apt" in command] == []


def test_the_page_is_of_this_project_alone() -> None:
    """The page loads nothing from other sites, and all it consists of is HTML, CSS, JavaScript and one icon."""
    static = ROOT / "stat7store" / "server" / "static"
    files = [file for file in static.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".html", ".css", ".js", ".svg"}
    assert [file.name for file in files if file.suffix == ".svg"] == ["icon.svg"]
    assert [file.name for file in files if ELSEWHERE.search(file.read_text(encoding="utf-8"))] == []
