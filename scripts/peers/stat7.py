"""This store, as the peers see it: ``stat7store serve`` of this tree."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil

from scripts.peers.files import MOST_WRITTEN, File
from scripts.peers.processes import CHECKOUT, listens, running
from scripts.peers.work import Writing
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.latency.phase1 import Maker
from stat7store.opening import prepare
from stat7store.settings import Settings

_BATCH = 10_000  # entries added in one transaction
_WRITING = Writing("POST", "/v1/files")


@dataclass(frozen=True)
class Stat7:
    """The store: with a setting turned off (``without``), or with ``entries`` of other files in its catalog.

    ``module`` is the one that Python runs.
    """

    name: str = "stat7"
    module: str = "stat7store"
    without: str = ""
    entries: int = 0
    durable: bool = True
    remark: str = (
        "one sync of the filesystem for all uploads that wait; every retrieval timed, stage by stage; "
        "no access log (installed: JSON to a file, as by default)"
    )
    path: str = "/v1/files/{address}"
    writing: Writing | None = _WRITING
    most_written: int = MOST_WRITTEN
    access_log: bool = False

    def with_access_log(self) -> Self:
        return replace(self, access_log=True)

    def missing(self) -> str | None:
        if self.without and self.without not in Settings.model_fields:
            return f"this tree has no setting {self.without} to turn off"
        return None

    def version(self) -> str:
        return version("stat7store")

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        """Fill the catalog with made-up entries, as Phase 1's stress test does; files come over HTTP."""
        folder.mkdir()
        if self.entries:
            prepare(Settings(data=folder / "data"))
            asyncio.run(_fill(folder / "data" / "catalog", self.entries))
        return False

    def serving(
        self, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        flags = [f"--data={folder / 'data'}", f"--workers={workers}", f"--port={port}"]
        if not self.access_log:
            flags += ["--no-access-log", "--log-level=warning"]  # as of all others
        if self.without:
            flags.append(f"--no-{self.without.replace('_', '-')}")
        return running(
            [sys.executable, "-m", self.module, "serve", *flags],
            folder=folder,
            cores=cores,
            ready=lambda: listens(port),
            environment={"PYTHONPATH": str(CHECKOUT)},
        )

    def blobs(self, folder: Path) -> Path | None:
        return folder / "data" / "blobs"


async def _fill(folder: Path, entries: int) -> None:
    catalog, maker = LmdbCatalog(folder), Maker(1)
    try:
        for start in range(0, entries, _BATCH):
            batch = [maker.file() for _ in range(min(_BATCH, entries - start))]
            catalog.add_many(sorted(batch, key=lambda file: file.record.address))
    finally:
        await catalog.close()
