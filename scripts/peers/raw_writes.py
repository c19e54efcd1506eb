"""The floor for durable writes: no server at all, only hashing, files and a sync for each group of them.

Arguments: FOLDER SIZE GROUP SECONDS; prints what was ``Done`` as JSON. The files go at the end.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import time
from pathlib import Path

import msgspec

from scripts.peers.files import MOST_WRITTEN
from scripts.peers.work import Done
from storage.linux import Linux

_FOLDERS = 256


def write(folder: Path, size: int, group: int, seconds: float) -> Done:
    """Write groups of new files of ``size`` bytes; a group is durable before the next begins.

    Each is hashed, written under its hash, and then the filesystem synced once for all of a group. A
    group of one is synced by ``fsync``, which takes its new name along on ext4 and XFS.
    """
    for number in range(_FOLDERS):
        (folder / f"{number:02x}").mkdir(parents=True)
    held, linux = os.open(folder, os.O_RDONLY), Linux()
    rest = secrets.token_bytes(size - 16)
    cpu, begun = time.process_time(), time.perf_counter()
    took: list[float] = []
    written = 0
    now = begun
    while now - begun < seconds and written * size < MOST_WRITTEN:
        for _ in range(group):
            data = b"%016d%b" % (written, rest)
            name = hashlib.sha256(data).hexdigest()
            file = os.open(folder / name[:2] / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(file, data)
            if group == 1:
                os.fsync(file)
            os.close(file)
            written += 1
        if group > 1:
            linux.sync_filesystem(held)
        took.append(time.perf_counter() - now)
        now += took[-1]
    spent = time.process_time() - cpu
    os.close(held)
    took.sort()
    return Done(
        requests=written,
        seconds=now - begun,
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[len(took) * 99 // 100] * 1000,
        client_cpu_s=spent,
    )


def main(folder: str, size: str, group: str, seconds: str) -> None:
    """Write, tell, clean up."""
    target = Path(folder)
    try:
        done = write(target, int(size), int(group), float(seconds))
    finally:
        shutil.rmtree(target, ignore_errors=True)
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
