#!/usr/bin/env python3
"""Compare the import of a tree of images with other ways to hash and keep the same files, in one run.

Each round stores the same tree (real, distinct, decodable images) in turn by `stat7store import`, by `sha256sum` with
`cp -r` and `sync`, and by the bulk ways of disk-objectstore and hashfs, which are installed into an environment of
their own; each round begins with another. Then: the second import of the unchanged tree, and one that is killed in the
middle and run again.

examples:
  scripts/compare_import.py                                           20,000 files, 3 rounds
  scripts/compare_import.py --files 100000 --results docs/results.md
  scripts/compare_import.py --files 200 --rounds 1 --no-peers         tiny

exit codes: 0 done; 1 it could not be done, or a state was wrong; 2 bad usage
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from stat7store.address import Address
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Stat7Error
from stat7store.latency.dataset import DEFAULT_SAMPLES, image_maker
from stat7store.latency.machine import this_machine
from stat7store.latency.report import Machine
from stat7store.latency.results import provenance, put_section, table

OURS, BASE = "stat7store import", "sha256sum, cp -r, sync"
DURABLE = {
    OURS: "yes: every file, before it counts",
    BASE: "at the end, by sync",
    "disk-objectstore, pack": "one fsync, at the end",
    "disk-objectstore, loose": "fsync of each file",
    "hashfs, put": "no",
}
PEERS = Path(__file__).parent / "import_peers"
ENVIRONMENT = Path(".cache/import-peers")
FILES_A_FOLDER = 1000
POLL_S = 0.02
_COLUMNS = ("way", "s", "files/s", "CPU s", "CPU µs a file", "speed beside sha256sum, cp, sync", "durable")
_BESIDE_THE_BYTES = 1.2  # blocks of files, catalogs, folders


class Took(msgspec.Struct):
    """One way in one round: seconds on the clock, and of processor time."""

    way: str
    round: int
    seconds: float
    cpu: float


class Killed(msgspec.Struct):
    """What was there when an import was killed, how long the next took, and whether all is as it should be."""

    blobs_before: int
    seconds: float
    as_it_should_be: bool


class Found(msgspec.Struct):
    """All that was found; sizes in bytes."""

    made_at: str
    command: str
    machine: Machine
    files: int
    bytes: int
    first: list[Took]
    second: list[Took]
    killed: Killed


def make_tree(tree: Path, files: int, samples: Path) -> tuple[set[Address], int]:
    """Make the tree; return the addresses of its files, and their size together."""
    make = image_maker(samples)
    addresses, size = set(), 0
    for number in range(files):
        folder = tree / f"{number // FILES_A_FOLDER:04}"
        if number % FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        data = b"".join(make(number))
        (folder / f"photo {number}.jpg").write_bytes(data)
        addresses.add(Address.of(data))
        size += len(data)
    return addresses, size


def importing(tree: Path, data: Path) -> list[str]:
    """Return the command of an import."""
    return [sys.executable, "-m", "stat7store", "import", "--json", "--data", str(data), str(tree)]


def ways(tree: Path, into: Path, python: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Yield every way to store the tree, each into a folder of its own below ``into``."""
    yield OURS, importing(tree, into / "ours")
    script = 'find "$1" -type f -print0 | xargs -0 sha256sum > "$2.sums" && cp -r "$1" "$2" && sync'
    yield BASE, ["sh", "-c", script, "sh", str(tree), str(into / "copied")]
    if python is not None:
        for way in ("pack", "loose"):
            arguments = [str(PEERS / "object_store.py"), str(tree), str(into / way), way]
            yield f"disk-objectstore, {way}", [str(python), *arguments]
        yield "hashfs, put", [str(python), str(PEERS / "hash_fs.py"), str(tree), str(into / "hashfs")]


def timed(way: str, number: int, command: list[str]) -> Took:
    """Run a command to its end, with nothing left to be written by those before it."""
    os.sync()
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Took(way, number, round(took, 3), round(usage.ru_utime + usage.ru_stime, 3))


def environment() -> dict[str, str]:
    """Return the environment without settings of a store, and with compiled modules kept."""
    left_out = ("STAT7_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def read_through(tree: Path) -> None:
    """Bring the tree into the page cache, so that all ways begin alike."""
    for path in tree.rglob("*.jpg"):
        path.read_bytes()


def kill_and_go_on(tree: Path, data: Path, addresses: set[Address]) -> Killed:
    """Kill an import with SIGKILL once half of the blobs are there; run it again and look at what there is."""
    process = subprocess.Popen(importing(tree, data), stdout=subprocess.DEVNULL, env=environment())
    while process.poll() is None and len(blobs_in(data)) < len(addresses) / 2:
        time.sleep(POLL_S)
    process.kill()
    process.wait()
    before = len(blobs_in(data))
    again = timed(OURS, 0, importing(tree, data))
    known, count = asyncio.run(known_of(data, addresses))
    names = sorted(name.partition(".")[0] for name in blobs_in(data))
    right = known == addresses and count == len(addresses) and names == sorted(map(str, addresses))
    return Killed(before, again.seconds, right)


def blobs_in(data: Path) -> list[str]:
    """Return the names of all blobs of a store, each as often as it is stored."""
    return [path.name for path in (data / "blobs").glob("[0-9a-f][0-9a-f][0-9a-f]/*")]


async def known_of(data: Path, addresses: set[Address]) -> tuple[set[Address], int]:
    """Return those addresses that a store knows, and how many files it knows in all."""
    catalog = LmdbCatalog(data / "catalog")
    try:
        return await catalog.present(list(addresses)), (await catalog.counters()).files
    finally:
        await catalog.close()


def install_peers() -> Path:
    """Make the peers' own environment if there is none; return its Python."""
    python = ENVIRONMENT / "venv" / "bin" / "python"
    if not (ENVIRONMENT / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT / "venv")], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(PEERS / "requirements.txt")]
        subprocess.run(install, check=True)
        (ENVIRONMENT / "installed").touch()
    return python.absolute()


def compare(options: argparse.Namespace) -> Found:
    """Do all rounds in a folder of its own, which is removed after.

    Nothing is deleted in between: the file system would be slower for whoever comes next.
    """
    python = None if options.no_peers else install_peers()
    folder = Path(tempfile.mkdtemp(prefix="stat7-import-", dir=options.folder))
    try:
        tree = folder / "tree"
        addresses, size = make_tree(tree, options.files, options.samples)
        copies = options.rounds * (2 if python is None else 5) + 1
        refuse_too_little_room(folder, int(size * copies * _BESIDE_THE_BYTES))
        first, second = [], []
        for number in range(1, options.rounds + 1):
            into = folder / str(number)
            into.mkdir()
            in_turn = list(ways(tree, into, python))
            first_way = (number - 1) % len(in_turn)  # another each round: memory and disk are not the same for all
            for way, command in in_turn[first_way:] + in_turn[:first_way]:
                read_through(tree)
                first.append(timed(way, number, command))
                print(f"round {number}: {way}: {first[-1].seconds:.2f} s", file=sys.stderr, flush=True)
            second.append(timed(OURS, number, importing(tree, into / "ours")))
        killed = kill_and_go_on(tree, folder / "killed", addresses)
    finally:
        shutil.rmtree(folder)
    return Found(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["scripts/compare_import.py", *sys.argv[1:]]),
        machine=this_machine(),
        files=options.files,
        bytes=size,
        first=first,
        second=second,
        killed=killed,
    )


def refuse_too_little_room(folder: Path, needed: int) -> None:
    """Raise ``OSError`` if so many bytes are not free there: a disk that fills up would be found out much later."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{needed / 1e9:.0f} GB are needed, for nothing is deleted before the end, and {free / 1e9:.0f} GB are "
            f"free in {folder.parent}; name a folder with more by --folder, or ask for fewer --files or --rounds"
        )


def speed_of(found: Found, way: str) -> float:
    """Return how fast a way is as a share of the base's speed: the median of the rounds."""
    base = {took.round: took.seconds for took in found.first if took.way == BASE}
    return median(base[took.round] / took.seconds for took in found.first if took.way == way)


def summary(found: Found) -> str:
    """What was found, as Markdown: medians of the rounds."""
    first = {way: [took for took in found.first if took.way == way] for way in DURABLE}
    rows = []
    for way, took in first.items():
        if took:
            seconds = median(one.seconds for one in took)
            cpu = median(one.cpu for one in took)
            cells = [f"{seconds:.2f}", f"{found.files / seconds:,.0f}", f"{cpu:.2f}", f"{cpu / found.files * 1e6:,.0f}"]
            rows.append([way, *cells, f"{speed_of(found, way):.2f}", DURABLE[way]])
    second = median(took.seconds for took in found.second)
    faster = median(took.seconds for took in first[OURS]) / second
    killed = found.killed
    state = "the same as without, no file stored twice" if killed.as_it_should_be else "WRONG"
    went_on = f"Killed (SIGKILL) with {killed.blobs_before:,} blobs there and run again, {killed.seconds:.2f} s"
    return "\n\n".join(
        [
            f"{found.files:,} images, {found.bytes / 1e6:,.0f} MB, rounds: {len(found.second)}; medians.",
            table(_COLUMNS, rows),
            f"Second import of the unchanged tree: {second:.2f} s, {faster:.1f} times faster than the first.",
            f"{went_on}: the state is {state}.",
        ]
    )


def write_section(found: Found, path: Path) -> None:
    """Put what was found into a results file."""
    where = provenance(found.command, found.machine, found.made_at)
    put_section(path, "import", f"## Bulk import\n\n{where}\n\n{summary(found)}")


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=positive, default=20_000, metavar="N", help="files of the tree")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="how often each way is tried")
    parser.add_argument("--no-peers", action="store_true", help="neither install nor run disk-objectstore and hashfs")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--samples", type=Path, default=DEFAULT_SAMPLES, help="photographs to make the images from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, all rounds")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the section of docs/results.md")
    options = parser.parse_args()
    try:
        found = compare(options)
    except (OSError, Stat7Error, subprocess.CalledProcessError) as error:
        print(f"compare_import.py: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if options.results is not None:
        write_section(found, options.results)
    print(summary(found))
    return 0 if found.killed.as_it_should_be else 1


if __name__ == "__main__":
    sys.exit(main())
