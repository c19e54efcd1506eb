"""Processes that share the folder of a cache: one fetches, whoever dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from storage.base import Location
from storage.file_commit import FileCommit, NewName
from storage.filesystem import FilesystemBlobs
from storage.linux import FOLDER, Linux
from tests.storage.programs import ROOT

_SIZE = 100 << 20
_LIMIT = 1 << 30

# Every read of the backend behind adds the process to a file. A turtle stops after a part until it is killed.
_PROGRAM = """
import asyncio, hashlib, os, sys
from pathlib import Path
from storage.base import Location
from storage.cache import CachedBlobs
from storage.filesystem import FilesystemBlobs

root, cache, opens, location, limit, turtle = sys.argv[1:]

class Reader:
    source = "s3"

    def __init__(self, inner):
        self.inner, self.size, self.done = inner, inner.size, 0

    async def read(self, limit):
        if turtle == "turtle" and self.done >= 10 << 20:
            print("stuck", flush=True)
            await asyncio.sleep(1000)
        data = await self.inner.read(limit)
        self.done += len(data)
        await asyncio.sleep(0.001)
        return data

    def close(self):
        self.inner.close()

class Behind(FilesystemBlobs):
    async def open(self, location, span=None):
        file = os.open(opens, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{os.getpid()} {span}\\n".encode())
        os.close(file)
        return Reader(await super().open(location, span))

async def main():
    blobs = CachedBlobs(Behind(Path(root)), Path(cache), int(limit))
    print("ready", flush=True)
    sys.stdin.readline()
    reader = await blobs.open(Location.parse(location))
    sha256 = hashlib.sha256()
    while data := await reader.read(1 << 20):
        sha256.update(data)
    print(sha256.hexdigest(), flush=True)
    reader.close()
    await blobs.close()

asyncio.run(main())
"""


class Workers:
    """Processes over one folder of a cache."""

    def __init__(self, root: Path, folder: Path, location: Location) -> None:
        self.root = root
        self.cache = folder / "cache"
        self.location = location
        self._opens = folder / "opens"

    def start(self, *, turtle: bool = False) -> subprocess.Popen[str]:
        """Start a process that is ready to read the blob, and return it."""
        arguments = [self.root, self.cache, self._opens, self.location, _LIMIT, "turtle" if turtle else ""]
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert said(process) == "ready"
        return process

    def opens(self) -> list[str]:
        """Return the processes that have read the backend behind, and what of the blob they asked for."""
        return self._opens.read_text().splitlines()

    def files(self) -> list[Path]:
        """Return the files of blobs in the cache."""
        return list(self.cache.glob("??/*"))


def go(process: subprocess.Popen[str]) -> None:
    """Let a process read the blob."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a process, which must be a good one."""
    process.communicate(timeout=120)
    assert process.returncode == 0


def large_blob(root: Path) -> Location:
    """Put 100 MiB into a store of files, without a thread to wait for."""
    piece = os.urandom(1 << 20)
    sha256 = hashlib.sha256()
    file = os.open(root / "spool", os.O_TMPFILE | os.O_RDWR, 0o600)
    for number in range(_SIZE >> 20):
        data = number.to_bytes(8, "big") + piece[8:]
        sha256.update(data)
        os.write(file, data)
    location = Location(sha256.hexdigest(), b"8 bytes.")
    folder = os.open(root, FOLDER)
    commit = FileCommit(folder, Linux())
    assert commit.put([NewName(file, str(location))]) == [None]
    commit.close()
    os.close(folder)
    return location


def test_eight_processes_fetch_once(blobs: FilesystemBlobs, root: Path, tmp_path: Path) -> None:
    """Eight processes that miss the same 100 MiB at once read the backend behind once, and all get every byte."""
    workers = Workers(root, tmp_path, large_blob(root))
    processes = [workers.start() for _ in range(8)]
    for process in processes:
        go(process)
    assert [said(process) for process in processes] == [workers.location.name] * 8
    for process in processes:
        ended(process)
    assert len(workers.opens()) == 1
    assert [file.stat().st_size for file in workers.files()] == [_SIZE]
    assert list((workers.cache / "fills").iterdir()) == []


def test_another_takes_over_from_a_killed_filler(blobs: FilesystemBlobs, root: Path, tmp_path: Path) -> None:
    """When the process that fetches is killed, one of those who wait goes on, and all get every byte."""
    workers = Workers(root, tmp_path, large_blob(root))
    turtle = workers.start(turtle=True)
    go(turtle)
    assert said(turtle) == "stuck"
    others = [workers.start() for _ in range(3)]
    for process in others:
        go(process)
    time.sleep(0.3)  # they may well be following by now
    turtle.send_signal(signal.SIGKILL)
    turtle.communicate()
    assert [said(process) for process in others] == [workers.location.name] * 3
    for process in others:
        ended(process)
    assert [line.partition(" ")[2] for line in workers.opens()] == ["None", "None"]
    assert [file.stat().st_size for file in workers.files()] == [_SIZE]
    assert list((workers.cache / "fills").iterdir()) == []


def test_a_part_of_the_dead_is_never_served(blobs: FilesystemBlobs, root: Path, tmp_path: Path) -> None:
    """What a killed process left behind is dropped by the next that opens the cache, and not counted."""
    workers = Workers(root, tmp_path, large_blob(root))
    turtle = workers.start(turtle=True)
    go(turtle)
    assert said(turtle) == "stuck"
    turtle.send_signal(signal.SIGKILL)
    turtle.communicate()
    assert workers.files() == []
    assert len(list((workers.cache / "fills").iterdir())) == 2
    process = workers.start()
    assert list((workers.cache / "fills").iterdir()) == []
    assert int.from_bytes((workers.cache / "room").read_bytes(), "little") == 0
    go(process)
    assert said(process) == workers.location.name
    ended(process)
