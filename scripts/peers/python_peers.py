"""The peers in Python: hashfs and disk-objectstore behind a minimal aiohttp server, Starlette under uvicorn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.peers.files import MOST_WRITTEN, File
from scripts.peers.install import PYTHON, REQUIREMENTS, environment_missing
from scripts.peers.processes import listens, running
from scripts.peers.work import Writing

_SERVERS = Path(__file__).with_name("servers")
_POST = Writing("POST", "/")


@dataclass(frozen=True)
class PythonPeer:
    """A server script in the peers' own environment, around the package of that name."""

    name: str
    package: str
    script: str
    durable: bool
    remark: str
    writing: Writing | None = _POST
    path: str = "/{address}"
    most_written: int = MOST_WRITTEN

    def missing(self) -> str | None:
        return environment_missing()

    def version(self) -> str:
        pins = dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
        return pins[self.package]

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        (folder / "files").mkdir(parents=True)
        if self.writing is not None:
            return False
        for file in files:
            (folder / "files" / file.address).write_bytes(file.data)
        return True

    def serving(
        self, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        command = [str(PYTHON), str(_SERVERS / self.script), str(folder / "files"), str(port), str(workers)]
        return running(command, folder=folder, cores=cores, ready=lambda: listens(port))

    def blobs(self, folder: Path) -> Path | None:
        return folder / "files"


HASHFS = PythonPeer(
    "hashfs", "hashfs", "hashfs_server.py", durable=False, remark="behind a minimal aiohttp server; no fsync"
)
OBJECTSTORE = PythonPeer(
    "disk-objectstore",
    "disk_objectstore",
    "objectstore_server.py",
    durable=True,
    remark="behind a minimal aiohttp server; loose objects, 3 fsyncs a write",
)
STARLETTE = PythonPeer(
    "starlette",
    "starlette",
    "starlette_server.py",
    durable=False,
    remark="FileResponse under uvicorn with uvloop and httptools; takes no writes",
    writing=None,
)
