"""``stat7store info``: what is known of a file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from stat7store.cli import show
from stat7store.cli.options import DEFAULT_SERVER, Json, OneAddress, Server, connect, examples

if TYPE_CHECKING:
    from stat7store.client import StoredFile

EXAMPLES = {
    "stat7store info ADDRESS": "its record and its seven coordinates",
    "stat7store info ADDRESS --json | jq .uri": "for programs",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("info", epilog=examples(EXAMPLES))(info)


def info(address: OneAddress, as_json: Json = False, server: Server = DEFAULT_SERVER) -> None:
    """Show what is known of a file, its seven coordinates among it."""
    file = asyncio.run(_record(address, server))
    if as_json:
        show.as_json(file)
    else:
        show.console().print(show.record(file))


async def _record(address: str, server: str) -> StoredFile:
    async with connect(server) as client:
        return await client.metadata(address)
