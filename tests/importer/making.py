"""Trees to import, ways to run an import, and what a store then holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from stat7store.address import Address
from stat7store.catalog.base import Page, Query
from stat7store.opening import open_store
from stat7store.record import Entry
from stat7store.settings import load_settings
from tests.media import distinct_jpeg, sample
from tests.running import wait_until

LONG_AGO = 1_600_000_000  # a change now shows in the time of change


def photograph(n: int) -> bytes:
    """A real JPEG, another for each ``n``."""
    return distinct_jpeg(sample("rocket.jpg").read_bytes(), n)


def small_images(folder: Path, count: int) -> list[Address]:
    """Write so many distinct GIFs of some KB into a folder; return their addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    base = sample("no_time_for_that_tiny.gif").read_bytes()
    addresses = []
    for n in range(count):
        text = f"copy {n}".encode()
        data = base[:-1] + b"\x21\xfe" + bytes([len(text)]) + text + b"\x00" + base[-1:]  # a comment before the end
        path = folder / f"image {n}.gif"
        path.write_bytes(data)
        os.utime(path, (LONG_AGO, LONG_AGO))
        addresses.append(Address.of(data))
    return addresses


def photographs(folder: Path, count: int, *, start: int = 0) -> dict[Path, Address]:
    """Write so many photographs into a folder, none of them new by their times; return their addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for n in range(start, start + count):
        path = folder / f"photo {n}.jpg"
        path.write_bytes(photograph(n))
        os.utime(path, (LONG_AGO, LONG_AGO))
        made[path] = Address.of(path.read_bytes())
    return made


@dataclass(frozen=True)
class Done:
    """A finished import: exit code, totals, what it printed on standard error."""

    code: int
    summary: dict[str, Any]
    errors: str

    @property
    def counts(self) -> tuple[int, ...]:
        """Stored, there, refused, failed."""
        return tuple(self.summary[kind] for kind in ("stored", "there", "refused", "failed"))


def command(*arguments: str | Path) -> list[str]:
    """The command line of an import."""
    return [sys.executable, "-m", "stat7store", "import", *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of this process without the project's variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STAT7_")}


def run_import(*arguments: str | Path, prefix: Sequence[str] = ()) -> Done:
    """Run ``stat7store import --json`` to its end in a process of its own, by a command before it if need be."""
    done = subprocess.run(
        [*prefix, *command("--json", *arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    return Done(done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr)


class Halted:
    """An import that is stopped (SIGSTOP) in the midst of its work, with all its processes.

    ``others`` are the processes that it has begun; ``data`` is the store's folder. Signals that it is sent take
    effect when it goes on.
    """

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self.process = process
        self.data = data
        self.others = psutil.Process(process.pid).children(recursive=True)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the import and to all its processes, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """Have it go on, and wait until all its processes have ended; return its exit code, and what it said."""
        self.signal_all(signal.SIGCONT)
        output, errors = self.process.communicate(timeout=120)
        _, alive = psutil.wait_procs(self.others, timeout=60)
        assert not alive
        return self.process.returncode, output, errors

    def kill(self) -> None:
        """Kill all its processes that are left."""
        with suppress(ProcessLookupError):
            self.signal_all(signal.SIGKILL)
        self.process.communicate()


def halted_import(tree: Path, count: int, folder: Path, *flags: str) -> Halted:
    """Begin to import a tree of ``count`` files into a store in ``folder``, and stop that in the midst.

    On a busy machine it may be over before it is looked at; then another one is begun, with a new store.
    """
    for number in range(5):
        data = folder / f"data {number}"
        process = subprocess.Popen(
            command("--data", data, *flags, tree),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        wait_until(lambda data=data, run=process: about_stored(data) or run.poll() is not None, 120)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGSTOP)
            halted = Halted(process, data)
            wait_until(lambda halted=halted: _stand_still(halted))
            if process.poll() is None and halted.others and len(blobs_in(data)) < count / 2:
                return halted
            halted.kill()
        process.communicate()
    raise AssertionError("no import was met in the midst of its work")


def _stand_still(halted: Halted) -> bool:
    """Tell whether all processes are stopped, or have ended."""
    still = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    for pid in (halted.process.pid, *(other.pid for other in halted.others)):
        try:
            if psutil.Process(pid).status() not in still:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def entries_in(data: Path) -> dict[Address, Entry]:
    """All that a store's catalog knows."""

    async def query() -> Page:
        async with open_store(load_settings(data=data)) as store:
            return await store.query(Query(), 10_000)

    return {entry.address: entry for entry in asyncio.run(query()).entries}


def blobs_in(data: Path) -> list[str]:
    """The addresses of all blobs in a store's folder, one for each blob."""
    return sorted(path.name.partition(".")[0] for path in (data / "blobs").glob("???/*"))


def about_stored(data: Path) -> int:
    """About how many blobs there are; quick, to be asked again and again."""
    return 16 * sum(1 for _ in (data / "blobs").glob("0??/*"))


def texts(addresses: Sequence[Address]) -> list[str]:
    """The addresses as blobs are named, in order, each once."""
    return sorted({str(address) for address in addresses})
