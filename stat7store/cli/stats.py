"""``stat7store stats``: totals, and where the time goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from stat7store.cli import show
from stat7store.cli.options import DEFAULT_SERVER, Json, Server, connect, examples

if TYPE_CHECKING:
    from stat7store.client import Stats

EXAMPLES = {
    "stat7store stats": "totals and the stages' percentiles",
    "stat7store stats --json | jq .files": "for programs",
    "watch -c -n 1 stat7store stats": "live",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("stats", epilog=examples(EXAMPLES))(stats)


def stats(as_json: Json = False, server: Server = DEFAULT_SERVER) -> None:
    """Show how much is stored, and how long each stage takes."""
    found = asyncio.run(_stats(server))
    if as_json:
        show.as_json(found)
        return
    shown = show.console()
    shown.print(show.totals(found))
    for period, title in (("last_minute", "over the last minute"), ("since_start", "since the start")):
        shown.print()
        shown.print(show.percentiles(found.stages[period], title))


async def _stats(server: str) -> Stats:
    async with connect(server) as client:
        return await client.stats()
