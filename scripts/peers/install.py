"""Finding the peers' programs, and installing them: Debian's packages, and a Python environment of their own."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.peers.processes import CHECKOUT
from stat7store.errors import Unavailable

ENVIRONMENT = CHECKOUT / ".cache" / "peers" / "venv"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_MADE_OF = ENVIRONMENT / "made-of.txt"


def find(program: str) -> str:
    """Return the path of a program, "" if there is none."""
    return shutil.which(program, path=_PATH) or ""


def environment_missing() -> str | None:
    """Say how the environment of the Python peers is made; None if it is there and up to date."""
    if _MADE_OF.exists() and _MADE_OF.read_text() == REQUIREMENTS.read_text():
        return None
    return "scripts/compare_peers.py --install"


def install(command: str) -> None:
    """Carry out what a peer said it misses. Raises ``Unavailable`` if it fails."""
    words = shlex.split(command)
    if words[0] == "apt-get":
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        _run([*as_root, "apt-get", "-qq", "update"])
        _run([*as_root, "env", "DEBIAN_FRONTEND=noninteractive", words[0], "--yes", "-qq", *words[1:]])
    elif command == "scripts/compare_peers.py --install":
        _make_environment()
    else:
        raise Unavailable(command)


def _make_environment() -> None:
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(ENVIRONMENT)])
    _run([*_pip(), "--python", str(PYTHON), "install", "-qq", "--no-deps", "--requirement", str(REQUIREMENTS)])
    shutil.copy(REQUIREMENTS, _MADE_OF)


def _pip() -> list[str]:
    kept = CHECKOUT / ".tools" / "pip"
    if kept.is_dir():
        return [sys.executable, str(kept)]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    raise Unavailable("this Python has no pip; `make install` brings one")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Unavailable(f"{shlex.join(command)}: {error}") from error
    if done.returncode != 0:
        raise Unavailable(f"{shlex.join(command)} failed")
