"""Trees to import, ways to run an import, and what a store then holds."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stat7store.address import Address
from stat7store.catalog.base import Page, Query
from stat7store.opening import open_store
from stat7store.record import Entry
from stat7store.settings import load_settings
from tests.media import distinct_jpeg, sample

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
