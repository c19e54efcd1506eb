"""``stat7store rm``: delete files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.address import Address
from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import DEFAULT_SERVER, Addresses, Server, connect, examples
from stat7store.errors import Stat7Error, Unavailable

if TYPE_CHECKING:
    from stat7store.client import StoredFile

EXAMPLES = {
    "stat7store rm ADDRESS": "asks before it deletes",
    "stat7store rm --yes ADDRESS ADDRESS": "does not ask",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("rm", epilog=examples(EXAMPLES))(rm)


def rm(
    addresses: Addresses,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.", metavar="")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Delete files for good."""
    found, failed = asyncio.run(_records(addresses, server))
    if found and not yes:
        show.print_files(show.console(), found)
        if not _confirmed(len(found)):
            raise Stat7Error("nothing was deleted; --yes deletes without asking")
    failed += asyncio.run(_delete(found, server))
    raise typer.Exit(1 if failed else 0)


def _confirmed(count: int) -> bool:
    try:
        return typer.confirm(f"Delete {'this file' if count == 1 else f'these {count} files'} for good?")
    except typer.Abort:  # nobody is there to answer
        print()
        return False


async def _records(addresses: list[str], server: str) -> tuple[list[StoredFile], int]:
    """Return the records of the files to delete, and how many are not there."""
    wanted = dict.fromkeys([Address.parse_any(address) for address in addresses])
    found, failed = [], 0
    async with connect(server) as client:
        for address in wanted:
            try:
                found.append(await client.metadata(address))
            except Unavailable:
                raise
            except Stat7Error as error:
                report(error)
                failed += 1
    return found, failed


async def _delete(files: list[StoredFile], server: str) -> int:
    """Delete the files; return how many could not be."""
    failed = 0
    async with connect(server) as client:
        for file in files:
            try:
                await client.delete(file.address)
            except Stat7Error as error:
                report(error)
                failed += 1
            else:
                print(f"deleted {file.address}  {file.filename}")
    return failed
