"""The floor for writes in the order of this store: no server, but the syncs of one upload, one after the other.

Arguments: FOLDER SIZE THREADS SECONDS; prints what was ``Done`` as JSON. The files go at the end.

strace shows four syncs for one upload to a quiet ``stat7store serve``, each waited for before the next step: of the
nameless file (``fsync``), of the folder that it was linked into (``fsync``), of the pages of the catalog
(``fdatasync``), and of its page of 120 bytes that makes them count (a ``pwrite`` with ``O_DSYNC``).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from scripts.peers.files import LABEL_DIGITS, MOST_WRITTEN
from scripts.peers.work import Done

_FOLDER_DIGITS = 2  # of the name: 256 folders; the store has 4,096, which take long to make and to remove
_PAGE_BYTES = 4096
_CATALOG_PAGES = 1024
_PAGES_A_COMMIT = 11  # counted with strace: 6 in a new catalog, 11 in one of some thousand files
_META_BYTES = 120
_META_OFFSET = 32


class Catalog:
    """A file whose pages are overwritten and synced as LMDB does; all of it is on disk before, so no size changes."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(secrets.token_bytes(_CATALOG_PAGES * _PAGE_BYTES))
        self._pages = os.open(path, os.O_WRONLY)
        self._meta = os.open(path, os.O_WRONLY | os.O_DSYNC)
        os.fsync(self._pages)
        self._page = secrets.token_bytes(_PAGE_BYTES)
        self._next = 0

    def commit(self) -> None:
        """Write the pages of one commit, apart from each other, sync them, then the page that makes them count."""
        for _ in range(_PAGES_A_COMMIT):
            self._next = (self._next + 7) % (_CATALOG_PAGES - 1)
            os.pwrite(self._pages, self._page, (1 + self._next) * _PAGE_BYTES)
        os.fdatasync(self._pages)
        os.pwrite(self._meta, self._page[:_META_BYTES], _META_OFFSET)

    def close(self) -> None:
        """Close the file."""
        os.close(self._pages)
        os.close(self._meta)


def put(root: int, data: bytes) -> None:
    """Hash a file, write it without a name, sync it, give it its hash for a name, sync the folder of that."""
    name = hashlib.sha256(data).hexdigest()
    folder = name[:_FOLDER_DIGITS]
    file = os.open("spool", os.O_TMPFILE | os.O_RDWR, dir_fd=root)
    try:
        os.write(file, data)
        os.fsync(file)
        os.link(f"/proc/self/fd/{file}", f"{folder}/{name}", src_dir_fd=root, dst_dir_fd=root, follow_symlinks=True)
    finally:
        os.close(file)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write(folder: Path, size: int, threads: int, seconds: float) -> Done:
    """Write new files of ``size`` bytes for ``seconds``, in so many threads that wait for nothing of each other's.

    Each file is durable, and its commit as well, before its thread begins the next.
    """
    for name in ("spool", *(f"{number:0{_FOLDER_DIGITS}x}" for number in range(16**_FOLDER_DIGITS))):
        (folder / name).mkdir(parents=True)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    catalogs = [Catalog(folder / f"catalog-{number}") for number in range(threads)]
    rest = secrets.token_bytes(size - LABEL_DIGITS)
    most = max(MOST_WRITTEN // size // threads, 1)
    os.sync()  # the folders are not what is measured
    cpu, begun = time.process_time(), time.perf_counter()

    def write_some(number: int) -> list[float]:
        took: list[float] = []
        now = begun
        while now - begun < seconds and len(took) < most:
            put(root, b"%0*d%b" % (LABEL_DIGITS, number * 10**9 + len(took), rest))
            catalogs[number].commit()
            took.append(time.perf_counter() - now)
            now += took[-1]
        return took

    with ThreadPoolExecutor(threads) as pool:
        took = sorted(each for some in pool.map(write_some, range(threads)) for each in some)
    lasted, spent = time.perf_counter() - begun, time.process_time() - cpu
    for catalog in catalogs:
        catalog.close()
    os.close(root)
    return Done(
        requests=len(took),
        seconds=lasted,
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[len(took) * 99 // 100] * 1000,
        client_cpu_s=spent,
    )


def main(folder: str, size: str, threads: str, seconds: str) -> None:
    """Write, tell, clean up."""
    target = Path(folder)
    try:
        done = write(target, int(size), int(threads), float(seconds))
    finally:
        shutil.rmtree(target, ignore_errors=True)
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
