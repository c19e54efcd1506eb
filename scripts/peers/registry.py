"""docker-registry: content-addressed as well, in Go, on a filesystem."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.peers.files import MOST_WRITTEN, File
from scripts.peers.install import find
from scripts.peers.processes import listens, output_of, running
from scripts.peers.work import Writing

_CONFIGURATION = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {folder}/files}}
http: {{addr: "127.0.0.1:{port}"}}
"""

_WRITING = Writing("POST", "/v2/peers/blobs/uploads/", in_two_steps=True)


@dataclass(frozen=True)
class Registry:
    """Debian's docker-registry; an upload takes two requests."""

    name: str = "registry"
    durable: bool = True
    remark: str = "descriptors cached in memory, no access log; two requests and 11 fsyncs a write"
    path: str = "/v2/peers/blobs/sha256:{address}"
    writing: Writing | None = _WRITING
    most_written: int = MOST_WRITTEN

    def missing(self) -> str | None:
        return None if find("docker-registry") else "apt-get install docker-registry"

    def version(self) -> str:
        return output_of([find("docker-registry"), "--version"]).rpartition(" ")[2]

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        (folder / "files").mkdir(parents=True)
        return False

    def serving(
        self, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        configuration = folder / "registry.yml"
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=port))
        return running(
            [find("docker-registry"), "serve", str(configuration)],
            folder=folder,
            cores=cores,
            ready=lambda: listens(port),
            environment={"GOMAXPROCS": str(workers), "OTEL_TRACES_EXPORTER": "none"},
        )

    def blobs(self, folder: Path) -> Path | None:
        return folder / "files"
