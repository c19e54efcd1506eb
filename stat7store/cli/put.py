"""``stat7store put``: store files."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import DEFAULT_SERVER, Json, Server, connect, examples
from stat7store.cli.progress import Progress
from stat7store.errors import Stat7Error

if TYPE_CHECKING:
    from stat7store.client import Client, StoredFile

EXAMPLES = {
    "stat7store put photo.jpg clip.mp4": "store two files",
    "stat7store put --json *.jpg > stored.jsonl": "one record a line",
    "ffmpeg … | stat7store put - --name clip.mp4": "store standard input",
}
BLOCK_BYTES = 1024 * 1024


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("put", epilog=examples(EXAMPLES))(put)


def put(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files; - is standard input.", show_default=False)],
    name: Annotated[
        str | None, typer.Option("--name", help="Keep it under this name; for one file.", show_default=False)
    ] = None,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Store files durably; print their addresses and URIs."""
    if name is not None and len(files) > 1:
        raise typer.BadParameter("is for one file; several keep their own names", param_hint="--name")
    raise typer.Exit(asyncio.run(_put(files, name, as_json, server)))


async def _put(files: Sequence[str], name: str | None, as_json: bool, server: str) -> int:
    refused = 0
    sizes = [_size(file) for file in files]
    async with connect(server) as client:
        with Progress(sum(sizes), hidden=as_json) as progress:
            for file, size in zip(files, sizes, strict=True):
                progress.begin(file)
                try:
                    stored = await _put_one(client, file, name, progress)
                except (Stat7Error, OSError) as error:
                    progress.skip(size)
                    with progress.aside():
                        report(error, subject=file)
                    refused += 1
                else:
                    with progress.aside():
                        _print(stored, file, as_json)
    if len(files) > 1 and refused:
        report(Stat7Error(f"{refused} of {len(files)} files were not stored"))
    return 1 if refused else 0


async def _put_one(client: Client, file: str, name: str | None, progress: Progress) -> StoredFile:
    if file == "-":
        return await client.put(_standard_input(), filename=name, progress=progress.advance)
    if stat.S_ISDIR(os.stat(file).st_mode):
        raise IsADirectoryError("is a folder; name the files in it")
    return await client.put(file, filename=name, progress=progress.advance)


def _print(stored: StoredFile, file: str, as_json: bool) -> None:
    if as_json:
        show.as_json(stored)
        return
    what = "new" if stored.created else "already there"
    print(f"{stored.address}  {file}\n  {stored.uri}  {show.size(stored.size)}, {what}", flush=True)


def _size(file: str) -> int:
    try:
        return 0 if file == "-" else os.stat(file).st_size
    except OSError:
        return 0  # it is refused when its turn comes


async def _standard_input() -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(sys.stdin.buffer.read, BLOCK_BYTES):
        yield block
