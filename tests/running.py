"""Running servers for tests: the real command in processes of its own, and one in this process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

import psutil

from stat7store.client import Client
from stat7store.errors import NotFound
from stat7store.server.board import Board, BoardMemory
from stat7store.server.log import make_log
from stat7store.server.node import Node
from stat7store.server.worker import access_of, serving
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.timing import Timing
from storage.s3_options import S3Options
from tests.s3_servers import OWNER, Keys, flags_for, keys_in, server_of

START_TIMEOUT_S = 60.0
PATIENCE_S = 120.0  # what comes about ends the wait; only what does not takes so long


class RunningServer:
    """``stat7store serve`` on a free port; start, stop and kill it as often as a test likes."""

    def __init__(
        self, data: Path, *flags: str, workers: int = 2, bucket: S3Options | None = None, keys: Keys = OWNER
    ) -> None:
        """``bucket`` is where the blobs go; without one they go to files. ``keys`` are those of the server's user."""
        self.data = data
        self.url = ""
        self._bucket = bucket
        self._keys = keys
        self._flags = [f"--workers={workers}", "--port=0", *(flags_for(bucket) if bucket else ()), *flags]
        self._log_path = data.with_name(f"{data.name}.log")
        self._process: subprocess.Popen[str] | None = None
        self._reserved: socket.socket | None = None

    @property
    def process(self) -> psutil.Process:
        """The supervisor."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def processes(self) -> list[psutil.Process]:
        """The supervisor, its workers and its janitor."""
        return [self.process, *self.process.children(recursive=True)]

    @property
    def log(self) -> str:
        """What all runs so far wrote to standard error."""
        return self._log_path.read_text()

    def stored(self) -> list[str]:
        """Return the names of the files or the keys of the objects that hold blobs."""
        if self._bucket is None:
            return sorted(blob.name for folder in (self.data / "blobs").glob("???") for blob in folder.iterdir())
        client = server_of(self._bucket).client()
        try:
            owner = f"{self._bucket.folder}owner"  # names the store that the bucket is for
            return [key for key in keys_in(client, self._bucket.bucket) if key != owner]
        finally:
            client.close()

    def start(self) -> RunningServer:
        """Start it and wait until it says where it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STAT7_")}
        if self._bucket:
            environment |= self._keys.environment
        with self._log_path.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stat7store", "serve", "--data", str(self.data), *self._flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        self.url = self._announced(self._process.stdout)
        port = self.url.rpartition(":")[2]
        self._reserve(int(port))
        self._flags = [f"--port={port}" if flag.startswith("--port=") else flag for flag in self._flags]
        return self

    def _reserve(self, port: int) -> None:
        """Keep the port from being given to others while the server is down, as long as this object lives.

        A bound socket that does not listen refuses connections like none at all, and is in no server's way.
        """
        if self._reserved is None:
            host = str(urlsplit(self.url).hostname)
            self._reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            weakref.finalize(self, self._reserved.close)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind((host, port))

    def _announced(self, output: IO[str]) -> str:
        line = output.readline()
        found = re.search(r"http://\S+?(?=/ )", line)
        if found is None:
            raise AssertionError(f"the server did not start: {line!r}\n{self.log}")
        return found[0]

    def stop(self) -> int:
        """Stop it gracefully; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(START_TIMEOUT_S)
        self._process.stdout.close()  # type: ignore[union-attr]  # made with a pipe
        self._process = None
        return code

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut would."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            self.process.suspend()  # or it might replace those that die first
            wait_until(lambda: self.process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
        doomed = self.processes
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        wait_until(lambda: all(map(_is_dead, doomed)), START_TIMEOUT_S)
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()


def _is_dead(process: psutil.Process) -> bool:
    """Tell whether a process has ended with all its threads, though nobody may have asked yet how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and len(os.listdir(f"/proc/{process.pid}/task")) == 1
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


@asynccontextmanager
async def serving_here(store: Store, settings: Settings) -> AsyncIterator[tuple[str, Board]]:
    """Serve a store in this process, so that a test may have wrapped its parts; yields URL and board."""
    board = Board(BoardMemory())
    node = Node(settings, store, board, access_of(settings), make_log(settings))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        async with serving(node, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", board


async def recorded(client: Client, request_id: str) -> Timing:
    """Return the record of a retrieval, which is there a moment after its last byte has come."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await client.timing(request_id)
            except NotFound:
                await asyncio.sleep(0.02)


def wait_until(condition: object, timeout_s: float = PATIENCE_S) -> None:
    """Wait until a callable returns something true; fail after the time-out."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
