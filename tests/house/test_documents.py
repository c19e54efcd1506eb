"""The documents beside README.md: their links lead somewhere, and what they repeat of the code is so."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable

import pytest
import yaml

from scripts.phase1_stress import PHASE1
from stat7store import small
from stat7store.catalog import codec
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.importer import direct, reading, walk
from stat7store.importer import files as importer_files
from stat7store.server import answers, files, headers, outgoing, ranges, ring
from stat7store.timing import STAGES
from storage import file_commit
from storage.group import GroupCommit
from tests.house.project import ROOT, read
from tests.house.readme import Readme
from tests.house.test_makefile import targets

DOCUMENTS = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md", "docker/*.md", ".github/*.md")
    for file in ROOT.glob(pattern)
)
KIB, MIB = 1 << 10, 1 << 20
WORDS = {3: "three", 4: "four"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def default(function: Callable[..., object], name: str) -> int:
    """The default of a parameter."""
    value: int = inspect.signature(function).parameters[name].default
    return value


def limits(annotated: object) -> int:
    """The largest length that an annotated type of msgspec allows."""
    (meta,) = annotated.__metadata__  # type: ignore[attr-defined]
    length: int = meta.max_length
    return length


# Document, and a sentence of it as the code has it.
FACTS = [
    ("docs/design.md", f"the last {ring.CAPACITY:,} timings"),
    ("docs/design.md", f"a locator of {codec._LOCATOR.size + codec._LOCATOR_CHECKSUM.size} bytes"),
    ("docs/design.md", f"Up to {outgoing.INLINE_BYTES // KIB} KiB, head and body leave in one write."),
    ("docs/design.md", f"a window of {outgoing.WINDOW_BYTES // MIB} MiB at a time"),
    ("docs/design.md", f"one batch, of {default(GroupCommit.__init__, 'limit')} at most"),
    (
        "docs/design.md",
        f"from {WORDS[file_commit._FEW + 1]} on; up to {WORDS[file_commit._FEW]} are synced each by itself",
    ),
    ("docs/design.md", f"A file of up to {small.SMALL_BYTES // KIB} KiB stays in memory"),
    (
        "docs/design.md",
        f"A batch ends at {walk.NEW_FILES} files, {walk.NEW_BYTES // MIB} MiB or {walk.MOST_FOLDERS} folders.",
    ),
    ("docs/design.md", f"{walk.KNOWN_FILES:,} addresses at a time"),
    ("docs/design.md", f"links the files of up to {direct.BATCHES_AT_ONCE} batches"),
    ("docs/design.md", f"it is read again, {reading._TRIES} times in all."),
    ("docs/design.md", f"less than {importer_files._UNSETTLED_NS // 1_000_000} ms before it was read"),
    ("docs/design.md", f"JSON bodies ({answers.MAX_JSON_BYTES // MIB} MiB)"),
    ("docs/design.md", f"addresses in one `exists` ({files.MAX_ADDRESSES:,})"),
    (
        "docs/design.md",
        f"rows in one list ({files.MAX_LIMIT:,}; {default(LmdbCatalog.__init__, 'scan_limit'):,} scanned a page)",
    ),
    ("docs/design.md", f"ranges in one request ({ranges.MAX_RANGES})"),
    ("docs/design.md", f"file names ({headers.FILENAME_BYTES} bytes)"),
    ("docs/design.md", f"tags ({limits(files.Tags)} of {limits(files.Tag)} characters)"),
    ("docs/http.md", f"which of up to {files.MAX_ADDRESSES:,} addresses are stored"),
    ("docs/http.md", f"`limit` (1 to {files.MAX_LIMIT:,}, {files.DEFAULT_LIMIT} by default)"),
    ("docs/http.md", f"The last {ring.CAPACITY:,} are kept"),
    ("docs/glossary.md", f"that are timed: {', '.join(STAGES)}."),
]


def flat(name: str) -> str:
    """A document with every run of white space as one space."""
    return re.sub(r"\s+", " ", read(name))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(name: str, heading: str) -> str:
    """What is under a heading of a document, up to the next of its kind."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", read(name), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name} has no section {heading}"
    return found[1]


def constants(name: str, tree: ast.AST) -> set[str]:
    """The strings that a name or attribute is given: by assignment, as an argument, or as a default."""
    given: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            given += [node.value for target in node.targets if ast.unparse(target).rpartition(".")[2] == name]
        elif isinstance(node, ast.keyword) and node.arg == name:
            given.append(node.value)
        elif isinstance(node, ast.arguments):
            ordinary = [*node.posonlyargs, *node.args]
            pairs = [*zip(ordinary[len(ordinary) - len(node.defaults) :], node.defaults, strict=True)]
            keywords = [*zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            given += [value for argument, value in [*pairs, *keywords] if argument.arg == name]
    return {value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def in_storage(*names: str) -> set[str]:
    """The strings that these names are given anywhere in ``storage``."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "storage").rglob("*.py")]
    return {string for tree in trees for name in names for string in constants(name, tree)}


@pytest.mark.parametrize(("name", "sentence"), FACTS)
def test_what_a_document_repeats_is_so(name: str, sentence: str) -> None:
    """A number that a document repeats is the one in the code."""
    assert sentence in flat(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    """Each file that is linked exists, and has the heading that the link names."""
    for link in LINK.findall(read(name)):
        target, _, anchor = link.partition("#")
        if "://" not in link:
            file = (ROOT / name).parent / target if target else ROOT / name
            assert file.exists(), link
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link


def test_every_source_is_documented() -> None:
    """docs/http.md lists exactly the places that the backends name as the source of bytes, and their kinds."""
    timings = section("docs/http.md", "Timings")
    listed = set(re.findall(r"^\| `([^`]+)` \|", timings, re.MULTILINE)) - {"source"}
    assert listed == in_storage("source", "slower")
    (kinds,) = re.findall(r"`backend` is the kind .+?: (.+?);", flat("docs/http.md"))
    assert set(re.findall(r"`(.+?)`", kinds)) == in_storage("kind")


def test_every_decision_has_its_number() -> None:
    """Decisions are numbered in order; a number without a file is named as not used, and their titles agree."""
    folder = ROOT / "docs" / "decisions"
    numbered = {file.name[:3]: file for file in folder.glob("[0-9][0-9][0-9]-*.md")}
    assert len(numbered) == len([*folder.glob("*.md")]) - 1  # README.md
    (unused,) = re.findall(r"^Numbers not used: ([\d, ]+)\.", read("docs/decisions/README.md"), re.MULTILINE)
    missing = unused.split(", ")
    assert numbered.keys().isdisjoint(missing)
    assert sorted([*numbered, *missing]) == [f"{number:03}" for number in range(1, len(numbered) + len(missing) + 1)]
    for number, file in numbered.items():
        assert file.read_text(encoding="utf-8").startswith(f"# {number}. "), file.name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_decision_that_is_named_exists(name: str) -> None:
    """A document names only decisions that were made."""
    named = re.findall(r"\bdecisions?[ /](\d{3})\b", read(name), re.IGNORECASE)
    assert [number for number in named if not [*(ROOT / "docs" / "decisions").glob(f"{number}-*.md")]] == []


def test_the_glossary_is_in_order() -> None:
    """Each word is there once, in alphabetical order, and a word in italics has its own entry."""
    text = read("docs/glossary.md")
    words = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
    assert words == sorted(set(words), key=str.casefold)
    known = {word.casefold() for word in words} | {"fast lane"}
    assert [word for word in re.findall(r"(?<!\*)\*(\w[^*]*)\*(?!\*)", text) if word.casefold() not in known] == []


def test_phase_1_is_introduced_with_its_own_figures() -> None:
    """Three sentences, whose figures are those that the stress test reports; README.md links to them."""
    (said,) = re.findall(r"\*\*Phase 1\.\*\* (.+?)\s+\*\*", flat("docs/glossary.md"))
    assert len(re.findall(r"\.(?= |$)", said)) == 3
    reported = re.sub(r"\s+", " ", PHASE1)
    for figure in (
        "100,000",
        "2.7 s",
        "0.0008 ms",
        "1.6 KB",
        "13,600",
        "operations/s at 10,000 entities",
        "404 at 100,000",
    ):
        assert figure in said, figure
        assert figure in reported, figure
    assert "[Phase 1](docs/glossary.md)" in read("README.md")


def test_contributing_names_what_there_is() -> None:
    """Every make target and every path in CONTRIBUTING.md is real."""
    contributing = Readme(read("CONTRIBUTING.md"))
    assert {"install", "check", "test", "lock"} <= contributing.targets
    assert contributing.targets - targets().keys() == set()
    assert [path for path in sorted(contributing.paths) if not (ROOT / path).exists()] == []


def test_newcomers_find_the_way() -> None:
    """README.md links to what a newcomer asks for."""
    linked = Readme(read("README.md")).paths
    assert {"CONTRIBUTING.md", "SECURITY.md", "LICENSE", "NOTICE", "docs/glossary.md", "docs/design.md"} <= linked


def test_hooks_are_the_checks_of_make() -> None:
    """pre-commit runs the programs in .venv, all that `make check` runs, so that no version can drift."""
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe is not None
    assert [hook["entry"] for hook in hooks] == [line.strip() for line in recipe[1].splitlines()]


def test_hosted_ci_runs_what_ci_runs() -> None:
    """The workflow checks the code out and then runs .ci/run, on the Debian release that the image is built on."""
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    (job,) = workflow["jobs"].values()
    steps = job["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    assert any(step.get("uses", "").startswith("actions/checkout@") for step in steps[:-1])
    release = job["container"]["image"].removeprefix("debian:")
    assert read("docker/Dockerfile").count(f"-slim-{release}\n") == 1
    assert workflow["permissions"] == {"contents": "read"}


def test_templates_can_be_read() -> None:
    """Each form for issues has a name, a description and questions with distinct ids; the one for changes asks why."""
    for name in ("bug", "idea"):
        form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
        assert form["name"]
        assert form["description"]
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert ids
        assert len(ids) == len(set(ids))
    assert read(".github/pull_request_template.md").startswith("## Why\n")
