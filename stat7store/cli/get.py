"""``stat7store get``: fetch a file, verified."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli import show
from stat7store.cli.options import DEFAULT_SERVER, Json, OneAddress, Server, connect, examples
from stat7store.cli.progress import Progress
from stat7store.errors import Malformed, Stat7Error

if TYPE_CHECKING:
    from stat7store.client import ByteRange, Client, Retrieval, StoredFile

EXAMPLES = {
    "stat7store get ADDRESS": "under its stored name",
    "stat7store get ADDRESS -o copy.jpg --timings": "show the stages too",
    "stat7store get ADDRESS -o - | ffprobe -": "to standard output",
    "stat7store get ADDRESS --range 0-999 -o head": "its first 1,000 bytes",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("get", epilog=examples(EXAMPLES))(get)


def get(
    address: OneAddress,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; a folder takes the stored name, - is standard output.",
            show_default=False,
        ),
    ] = None,
    asked: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="RANGE", help="Part of it: 0-99, 100- or -500 (not verified).", show_default=False
        ),
    ] = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="Show where the time went, stage by stage.", metavar="")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that is there.", metavar="")] = False,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Fetch a file, verified: it appears only once its bytes hash to the address."""
    asyncio.run(_get(address, output, asked, timings, force, as_json, server))


async def _get(
    address: str, output: str | None, asked: str | None, timings: bool, force: bool, as_json: bool, server: str
) -> None:
    from stat7store.client import ByteRange  # noqa: PLC0415 - see connect

    span = None if asked is None else ByteRange.parse(asked)
    async with connect(server) as client:
        if output == "-":
            retrieval = await _to_standard_output(client, address, span)
            path = None
        else:
            record = await client.metadata(address)
            path = _path(output, record)
            retrieval = await _to_file(client, record, path, span, force)
        timing = await client.timing(retrieval.request_id) if timings else None
    shown = show.console(stderr=path is None)
    if as_json:
        told = {**show.retrieval_json(retrieval), "file": None if path is None else str(path)}
        show.as_json(told if timing is None else {**told, "timing": timing}, stderr=path is None)
        return
    if path is not None:
        checked = "verified" if span is None else f"bytes {retrieval.span.start}–{retrieval.span.end - 1}"
        shown.print(f"{path}  {show.size(retrieval.span.length)}, {checked}", markup=False, soft_wrap=True)
    if timing is not None:
        shown.print()
        shown.print(show.stage_table(timing))
        shown.print(show.seen_by_client(retrieval), style="dim")


async def _to_file(client: Client, record: StoredFile, path: Path, span: ByteRange | None, force: bool) -> Retrieval:
    with Progress(record.size if span is None else 0) as progress:
        progress.begin(path.name)
        try:
            return await client.download(record.address, path, span, overwrite=force, progress=progress.advance)
        except FileExistsError:
            raise Stat7Error(f"{path} is there already; --force replaces it, -o FILE writes elsewhere") from None


async def _to_standard_output(client: Client, address: str, span: ByteRange | None) -> Retrieval:
    if sys.stdout.isatty():
        raise Malformed("a terminal cannot show these bytes; send them into a file or a pipe")
    async with client.open(address, span) as body:
        async for data in body:
            await asyncio.to_thread(sys.stdout.buffer.write, data)
    await asyncio.to_thread(sys.stdout.buffer.flush)
    assert body.retrieval is not None  # it was iterated to its end
    return body.retrieval


def _path(output: str | None, record: StoredFile) -> Path:
    """Return where to write; a stored name never leads into another folder."""
    name = Path(record.filename).name or record.address
    if output is None:
        return Path(name)
    return Path(output) / name if Path(output).is_dir() else Path(output)
