"""Small programs over a blob store, run as processes of their own: traced, limited or killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_PRELUDE = """
import asyncio, hashlib, os, resource, signal, sys
from pathlib import Path
from storage.base import *
from storage.filesystem import FilesystemBlobs

def say(*words):
    print(*words, flush=True)

async def keep(blobs, data):
    spool = await blobs.spool()
    try:
        spool.append(data)
        return await blobs.put(spool, hashlib.sha256(data).hexdigest())
    finally:
        spool.close()

async def tried(work):
    try:
        return await work
    except BlobError as error:
        return type(error).__name__

async def main(blobs):
{body}

async def run():
    blobs = FilesystemBlobs(Path(sys.argv[1]))
    await main(blobs)
    await blobs.close()

asyncio.run(run())
"""


def command(root: Path, body: str) -> list[str]:
    """Return the command that runs ``body`` over the store ``blobs`` in ``root``."""
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return [sys.executable, "-c", _PRELUDE.format(body=indented), str(root)]


def run(root: Path, body: str, *wrapper: str | Path) -> list[str]:
    """Run ``body`` over the store in ``root``, under a wrapper such as strace; return the lines it said."""
    done = subprocess.run(
        [*wrapper, *command(root, body)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def killed(root: Path, body: str, *wrapper: str | Path) -> None:
    """Run ``body`` under a wrapper that kills it before it has said anything."""
    done = subprocess.run([*wrapper, *command(root, body)], cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stdout == b""


def start(root: Path, body: str) -> subprocess.Popen[str]:
    """Start ``body`` over the store in ``root`` and return the process; its output can be read."""
    return subprocess.Popen(command(root, body), cwd=ROOT, stdout=subprocess.PIPE, text=True)
