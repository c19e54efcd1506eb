"""Bytes on their way out: hashed once, while they are sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from stat7store.address import Hasher
from stat7store.errors import Malformed

BLOCK_BYTES = 1024 * 1024
_LETTING_GO_S = 0.002
_LETTING_GO_TRIES = 1000

Source = str | Path | bytes | AsyncIterable[bytes]
Progress = Callable[[int], None]


class Sending:
    """The body of one upload, and the address of what was sent of it."""

    def __init__(self, source: Source, size: int | None, progress: Progress | None) -> None:
        """``size`` in bytes is asked of files, and None where it is not known: the body is then chunked."""
        self.hasher = Hasher()
        self.size = _size_of(source) if size is None else size
        self.failure: Exception | None = None
        self._source = source
        self._progress = progress

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes; an error of the source is kept in ``failure``, since HTTP buries it."""
        try:
            async with aclosing(_blocks_of(self._source)) as blocks:  # or an open file waits for the collector
                async for block in blocks:
                    self.hasher.update(block)
                    yield block
                    if self._progress is not None:
                        self._progress(len(block))
            if self.size is not None and self.hasher.size != self.size:
                raise Malformed(f"{self.hasher.size} bytes came where {self.size} were announced; did the file change?")
        except Exception as error:
            self.failure = error
            raise


async def end(blocks: AsyncGenerator[bytes, None]) -> None:
    """Close what ``Sending.blocks`` gave, and with it the file that was read.

    Where the answer came before the sender saw the end, the sender still holds it for a moment.
    """
    for _ in range(_LETTING_GO_TRIES):
        try:
            await blocks.aclose()
        except RuntimeError:
            await asyncio.sleep(_LETTING_GO_S)
        else:
            return


def filename_of(source: Source) -> str:
    """Return the name a source has of its own; "" for bytes and streams."""
    return Path(source).name if isinstance(source, str | Path) else ""


def _size_of(source: Source) -> int | None:
    if isinstance(source, bytes):
        return len(source)
    return os.stat(source).st_size if isinstance(source, str | Path) else None


def _opened(source: str | Path) -> BinaryIO:
    """Open a file, not in a thread: an answer that comes early cancels the sender, and the file would stay open."""
    return open(source, "rb")


async def _blocks_of(source: Source) -> AsyncGenerator[bytes, None]:
    if isinstance(source, str | Path):
        with _opened(source) as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block
    elif isinstance(source, bytes):
        for start in range(0, len(source), BLOCK_BYTES):
            yield source[start : start + BLOCK_BYTES]
    else:
        async for block in source:
            yield block
