"""What several verbs take, spelled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stat7store.client import Client

DEFAULT_SERVER = "http://127.0.0.1:7377"

Server = Annotated[str, typer.Option("--server", envvar="STAT7_SERVER", metavar="URL", help="Where the store is.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.", metavar="")]
OneAddress = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="64 hex digits, sha256:… or ni:///sha-256;…", show_default=False)
]
Addresses = Annotated[
    list[str], typer.Argument(metavar="ADDRESS", help="64 hex digits, sha256:… or ni:///sha-256;…", show_default=False)
]


def connect(server: str) -> Client:
    """Return a client of the server; it is to be entered with ``async with``."""
    from stat7store.client import Client  # noqa: PLC0415 - takes longer to import than ``address`` takes to run

    return Client(server)


def examples(lines: dict[str, str]) -> str:
    """Return the examples of a verb's help: what to type, and what it does; square brackets are markup."""
    width = max(map(len, lines))
    shown = [f"[cyan]{typed.ljust(width)}[/cyan]  {does}" for typed, does in lines.items()]
    return "\n".join(["[bold]Examples[/bold]", *shown])
