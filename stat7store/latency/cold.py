"""Taking files out of the page cache, so that the next read of them goes to the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from stat7store.address import Address
from stat7store.latency.serving import blob_paths
from storage.linux import READ_ONLY, is_begun_in_memory

_CHECKED = 500  # files that are looked at afterwards
_WAITS_S = (0.02, 0.1, 0.3, 1.0)  # before the next try: a page that is being read, written or sent stays in memory


def evict(data: Path, addresses: Collection[Address]) -> float:
    """Drop the bytes of these files from the page cache; return which part of them is out of it now.

    Names and inodes stay cached. Checked on a sample. Blocks; raises ``OSError``.
    """
    wanted = {address.hex() for address in addresses}
    paths = [path for address, path in blob_paths(data) if address in wanted]
    sample = paths[:: max(len(paths) // _CHECKED, 1)]
    out = _drop_all(paths, sample)
    for wait in _WAITS_S:
        if out == 1.0:
            break
        time.sleep(wait)
        out = _drop_all(paths, sample)
    return out


def _drop_all(paths: Collection[Path], sample: Collection[Path]) -> float:
    os.sync()  # pages that are not yet written cannot be dropped
    for path in paths:
        _drop(path)
    return sum(map(_is_out, sample)) / len(sample) if sample else 0.0


def _drop(path: Path) -> None:
    file = os.open(path, READ_ONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _is_out(path: Path) -> bool:
    """Whether the first page is not resident; False if that cannot be told, so that nothing is called cold by mistake.

    Asked by mincore, which every kernel has; cachestat came with Linux 6.5.
    """
    file = os.open(path, READ_ONLY)
    try:
        return not is_begun_in_memory(file)
    finally:
        os.close(file)
