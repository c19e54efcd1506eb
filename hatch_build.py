"""Compiles the parts written in C, where that can be done; without them the project is installed all the same.

Each ``_name.c`` in a package becomes the extension module beside it, which its users do without if it is
not there. As hatchling's build hook this runs whenever the project is installed or made into a wheel;
as a program it compiles what is missing or older than its source, and says in a line why it could not.
A wheel says in its name what it holds: with compiled parts it is tagged for this Python and platform,
without them, or with ``STAT7_PURE`` set, ``py3-none-any``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PACKAGES = ("stat7store", "storage")
FLAGS = ("-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror=implicit-function-declaration")
ADVICE = (
    "It works without its compiled parts, only slower. To have them, install gcc and Python's headers (Debian: apt-get "
    "install gcc libc6-dev python3-dev), then install again; in a checkout: .venv/bin/python hatch_build.py"
)


class CannotCompile(Exception):
    """There is no compiler, or no header of this Python, or the compiler failed."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Compiles before a wheel is made, and puts into it what could be compiled."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a wheel with compiled parts is this platform's, one without is anybody's."""
        if os.environ.get("STAT7_PURE") and version != "editable":
            return
        root = Path(self.root)
        try:
            modules = build(root)
        except CannotCompile as reason:
            self.app.display_warning(f"stat7store: {reason}. {ADVICE}")
            return
        if version != "editable":  # then they are found where they were made
            build_data["force_include"] |= {str(module): str(module.relative_to(root)) for module in modules}
            build_data |= {"pure_python": False, "infer_tag": True}


def sources(root: Path) -> list[Path]:
    """Return the C files of all extension modules."""
    return sorted(file for package in PACKAGES for file in (root / package).rglob("_*.c"))


def module_of(source: Path) -> Path:
    """Return where this Python looks for the module that is made of a C file."""
    return source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


def build(root: Path) -> list[Path]:
    """Compile what is missing or older than its source, or than this file; return all modules.

    Raises ``CannotCompile``.
    """
    for source in sources(root):
        module = module_of(source)
        if not is_fresh(module, source):
            module.unlink(missing_ok=True)  # better none than one of another source
            _compile(source, module)
    return [module_of(source) for source in sources(root)]


def is_fresh(module: Path, source: Path) -> bool:
    """Whether a module was made of the source as it is, in the way that this file says."""
    if not module.exists():
        return False
    made_of = (source, *source.parent.glob(f"{source.stem}_*.h"), Path(__file__))
    return module.stat().st_mtime_ns >= max(one.stat().st_mtime_ns for one in made_of)


def _compile(source: Path, module: Path) -> None:
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise CannotCompile(f"there is no {include / 'Python.h'}")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    # under a name of its own until it is whole, so that no program ever loads a part of it
    unfinished = module.with_suffix(f".{os.getpid()}.tmp")
    command = [*compiler, *FLAGS, f"-I{include}", str(source), "-o", str(unfinished)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise CannotCompile(f"{compiler[0]} cannot compile {source.name} ({first})")
        if done.stderr:
            sys.stderr.write(done.stderr)  # warnings
        unfinished.replace(module)
    except OSError as error:
        raise CannotCompile(f"{compiler[0]} cannot be run ({error.strerror})") from error
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        build(ROOT)
    except CannotCompile as why:
        print(f"stat7store: {why}. {ADVICE}")
