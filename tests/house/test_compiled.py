"""The parts in C: compiled wherever tests run, done without where they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hatch_build
from storage import compiled
from tests.house.project import BIN, ROOT, plain_environment

SOURCES = hatch_build.sources(ROOT)
USED = (
    "from stat7store import coordinates; from stat7store.catalog import codec;"
    "print(coordinates.plain_form.__module__, type(codec.decode_locator).__name__)"
)


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env=plain_environment(**environment), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is needed to build the project, with nothing compiled yet."""
    for package in hatch_build.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "hatch_build.py"):
        shutil.copy2(ROOT / name, tmp_path)
    return tmp_path


def wheel(checkout: Path, **environment: str) -> Path:
    """Make a wheel as any installer does; return its file."""
    out = checkout / "dist"
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", cwd=checkout, **environment)
    (made,) = out.iterdir()
    return made


def modules_in(folder: Path) -> list[Path]:
    """What was compiled there."""
    return sorted(folder.rglob("*.so"))


def test_every_part_is_compiled() -> None:
    """Where tests run, every part is there, made of its source as it is: otherwise `make install` was forgotten."""
    assert [source.name for source in SOURCES if not hatch_build.is_fresh(hatch_build.module_of(source), source)] == []
    assert os.environ.get("STAT7_PURE") or compiled.missing() == []


def test_every_part_is_known() -> None:
    """Each C file is one of the parts that ``--version`` tells of, and has its types beside it."""
    names = [".".join(source.relative_to(ROOT).with_suffix("").parts) for source in SOURCES]
    assert sorted(compiled.PARTS) == names
    assert [source.name for source in SOURCES if not source.with_suffix(".pyi").is_file()] == []


def test_a_changed_source_is_compiled_again() -> None:
    """`make` installs anew after a change of any C file, or of how they are compiled."""
    for source in [*SOURCES, ROOT / "hatch_build.py"]:
        for mark, word in ((".venv/.made-run", "run"), (".venv/.made-dev", "dev")):
            told = run("make", "--dry-run", f"--what-if={source.relative_to(ROOT)}", mark)
            assert f"scripts/bootstrap.sh {word}" in told, source


def test_nothing_compiled_outlives_its_source(checkout: Path) -> None:
    """A part whose source changed is compiled again; if it no longer can be, the old one is gone."""
    hatch_build.build(checkout)
    before = modules_in(checkout)
    assert len(before) == len(SOURCES)
    source, *_ = hatch_build.sources(checkout)
    module = hatch_build.module_of(source)
    os.utime(module, (1, 1))
    hatch_build.build(checkout)
    assert hatch_build.is_fresh(module, source)
    source.write_text("this is not C")
    os.utime(module, (1, 1))
    with pytest.raises(hatch_build.CannotCompile, match=source.name):
        hatch_build.build(checkout)
    assert modules_in(checkout) == [other for other in before if other != module]


def test_a_wheel_has_the_parts(checkout: Path) -> None:
    """With a compiler the wheel is for this platform, holds every part, and none of their sources."""
    made = wheel(checkout)
    assert not made.name.endswith("-none-any.whl")
    files = zipfile.ZipFile(made).namelist()
    assert sorted(name for name in files if name.endswith((".so", ".c"))) == [
        str(hatch_build.module_of(source).relative_to(ROOT)) for source in SOURCES
    ]


@pytest.mark.parametrize("pure", ["1", ""])
def test_a_wheel_says_what_it_holds(checkout: Path, pure: str) -> None:
    """Its name and tags do; with STAT7_PURE it has no parts, even compiled ones. Each has licence, notice and types."""
    hatch_build.build(checkout)
    made = wheel(checkout, STAT7_PURE=pure)
    archive = zipfile.ZipFile(made)
    files = archive.namelist()
    (info,) = {name.partition("/")[0] for name in files if ".dist-info/" in name}
    tags = archive.read(f"{info}/WHEEL").decode().splitlines()
    modules = [name for name in files if name.endswith(".so")]
    if pure:
        assert made.name.endswith("-py3-none-any.whl")
        assert {"Root-Is-Purelib: true", "Tag: py3-none-any"} <= set(tags)
        assert modules == []
    else:
        assert "-none-any" not in made.name
        assert "Root-Is-Purelib: false" in tags
        assert f"Tag: {'-'.join(made.stem.split('-')[2:])}" in tags
        assert len(modules) == len(SOURCES)
    assert {f"{package}/py.typed" for package in hatch_build.PACKAGES} <= set(files)
    for name in ("LICENSE", "NOTICE"):
        assert archive.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()
    told = archive.read(f"{info}/METADATA").decode().splitlines()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE", "License-File: NOTICE"} <= set(told)


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_without_a_compiler_it_is_installed_all_the_same(checkout: Path, compiler: str) -> None:
    """Without one, or with one that fails, the wheel is anybody's, and one line says what to install."""
    made = wheel(checkout, CC=compiler)
    assert made.name.endswith("-py3-none-any.whl")
    assert modules_in(checkout) == []
    told = run(sys.executable, "hatch_build.py", cwd=checkout, CC=compiler)
    assert told.startswith(f"stat7store: {compiler} cannot ")
    assert told.count("\n") == 1
    assert "apt-get install gcc libc6-dev python3-dev" in told


@pytest.mark.parametrize(("pure", "parts"), [("1", compiled.PARTS), ("", ())])
def test_the_parts_may_be_left_aside(pure: str, parts: tuple[str, ...]) -> None:
    """With STAT7_PURE nothing compiled is used, and the command says so."""
    told = run(BIN / "stat7store", "--version", STAT7_PURE=pure)
    assert [part for part in compiled.PARTS if part in told] == list(parts)
    used = ["stat7store.coordinates", "function"] if pure else ["stat7store._plain", "builtin_function_or_method"]
    assert run(sys.executable, "-c", USED, STAT7_PURE=pure).split() == used


@pytest.mark.parametrize("pure", ["1", ""])
def test_a_server_says_that_it_runs_without_the_parts(tmp_path: Path, pure: str) -> None:
    """A start without them is told in one line, a start with them in none."""
    command = [str(BIN / "stat7store"), "serve", f"--data={tmp_path / 'data'}", "--port=0", "--workers=1"]
    with subprocess.Popen(
        command,
        env=plain_environment(STAT7_PURE=pure),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline()]
        server.terminate()
        lines += server.stdout
    assert server.returncode == 0
    assert lines[0].startswith("STAT7 Store serves")
    assert len([line for line in lines if all(part in line for part in compiled.PARTS)]) == (1 if pure else 0)
