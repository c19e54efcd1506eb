"""Whether this machine lets tests mount filesystems; where it does not, they are left out and say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

_TOOLS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs"}
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # the last two are not in the path of users


def require_mounts(*kinds: str) -> None:
    """Skip the test where the kinds (``tmpfs``, ``ext4``, ``xfs``) cannot be mounted; in CI a missing program fails."""
    missing = missing_programs(*kinds)
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if reason := missing or refusal(*kinds):
        pytest.skip(reason)


def missing_programs(*kinds: str) -> str:
    """Return which programs are missing, or ""."""
    needed = ["mount", "umount", *(_TOOLS[kind] for kind in kinds if kind in _TOOLS)]
    missing = [name for name in needed if program(name) is None]
    return f"{', '.join(missing)} missing; on Debian: apt-get install e2fsprogs xfsprogs mount" if missing else ""


def program(name: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(name, path=_PATH)


@cache
def refusal(*kinds: str) -> str:
    """Return why the system refuses to mount, or "": root may be without that right, as in most containers."""
    if os.geteuid():
        return "mounting needs root"
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="stat7-mount-") as folder:
            command = ["mount", "-t", "tmpfs", "none", folder]
            if kind in _TOOLS:
                image = Path(f"{folder}/image")
                with image.open("wb") as file:
                    file.truncate(320 << 20)
                subprocess.run([_TOOLS[kind], "-q", image], check=True, env={**os.environ, "PATH": _PATH})
                command = ["mount", "-t", kind, "-o", "loop", str(image), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{kind} cannot be mounted here: {done.stderr.strip()}"
            subprocess.run(["umount", "--lazy", folder], check=True)
    return ""
