"""A local file that appears only when it is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedIOBase

BLOCK_BYTES = 1024 * 1024


class Target:
    """Takes bytes, and writes them in blocks of at least 1 MiB."""

    def __init__(self, file: AsyncBufferedIOBase) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._waiting_size = 0

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= BLOCK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        await self._file.write(b"".join(self._waiting))
        self._waiting = []
        self._waiting_size = 0


@asynccontextmanager
async def complete_or_absent(path: Path, *, overwrite: bool) -> AsyncIterator[Target]:
    """Write beside ``path``, and give it its name when the context ends without an error.

    Otherwise nothing is left behind. Raises ``FileExistsError`` unless ``overwrite``.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists")
    temporary = path.with_name(f".stat7-{secrets.token_hex(8)}.part")
    try:
        async with aiofiles.open(temporary, "xb") as file:
            target = Target(file)
            yield target
            await target.flush()
        if overwrite:
            temporary.replace(path)
        else:
            _move_to_free_name(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _move_to_free_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, it never replaces
    except FileExistsError:
        raise FileExistsError(f"{path} exists") from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists") from None
        temporary.rename(path)
