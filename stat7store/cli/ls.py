"""``stat7store ls``: list files by what is known of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from stat7store.address import Address
from stat7store.cli import show
from stat7store.cli.options import DEFAULT_SERVER, Server, connect, examples
from stat7store.errors import Malformed
from stat7store.record import HORIZONS

if TYPE_CHECKING:
    from stat7store.client import Filters, StoredFile

EXAMPLES = {
    "stat7store ls": "the 100 newest files",
    "stat7store ls --realm movie --sort -size": "movies, largest first",
    "stat7store ls --tag moon --resonance-min 0.5": "the best of them",
    "stat7store ls --stored-after 2026-01-31 --all": "all since then",
    "stat7store ls --all --json | jq -r .address": "for programs",
}
SORTS = ("stored_at", "size", "resonance", "velocity", "density")
ORDERS = (*SORTS, *(f"-{sort}" for sort in SORTS))
Horizon = Literal[HORIZONS]  # type: ignore[valid-type]  # spelled once, in record.py
Sort = Literal[ORDERS]  # type: ignore[valid-type]
TIME_HELP = "2026-01-31, or 2026-01-31T12:00+01:00; UTC if not said."


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("ls", epilog=examples(EXAMPLES))(ls)


def ls(
    realm: Annotated[str | None, typer.Option(help="image, movie …", show_default=False)] = None,
    horizon: Annotated[
        Horizon | None, typer.Option(metavar="STAGE", help=f"{', '.join(HORIZONS)}.", show_default=False)
    ] = None,
    lineage: Annotated[int | None, typer.Option(min=0, help="Generations from the root.", show_default=False)] = None,
    adjacency: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Neighbours of this file.", show_default=False)
    ] = None,
    resonance_min: Annotated[float | None, typer.Option(help="Least resonance, -1 to 1.", show_default=False)] = None,
    resonance_max: Annotated[float | None, typer.Option(help="Most resonance.", show_default=False)] = None,
    velocity_min: Annotated[float | None, typer.Option(help="Least velocity, -1 to 1.", show_default=False)] = None,
    velocity_max: Annotated[float | None, typer.Option(help="Most velocity.", show_default=False)] = None,
    density_min: Annotated[float | None, typer.Option(help="Least density, 0 to 1.", show_default=False)] = None,
    density_max: Annotated[float | None, typer.Option(help="Most density.", show_default=False)] = None,
    media_type: Annotated[str | None, typer.Option(help="image/png, or image/* for all.", show_default=False)] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="With this in the name.", show_default=False)] = None,
    stored_after: Annotated[str | None, typer.Option(metavar="TIME", help=TIME_HELP, show_default=False)] = None,
    stored_before: Annotated[str | None, typer.Option(metavar="TIME", help="The same.", show_default=False)] = None,
    sort: Annotated[
        Sort, typer.Option(metavar="BY", help=f"{', '.join(SORTS)}; with a minus before it, greatest first.")
    ] = "-stored_at",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most files to show.")] = 100,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show all files.", metavar="")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each file.", metavar="")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """List files by what is known of them."""
    given = {
        "realm": realm,
        "horizon": horizon,
        "lineage": lineage,
        "adjacency": adjacency and Address.parse_any(adjacency),
        "resonance_min": resonance_min,
        "resonance_max": resonance_max,
        "velocity_min": velocity_min,
        "velocity_max": velocity_max,
        "density_min": density_min,
        "density_max": density_max,
        "media_type": media_type,
        "tag": tag,
        "name": name,
        "stored_after": stored_after and _time(stored_after, "--stored-after"),
        "stored_before": stored_before and _time(stored_before, "--stored-before"),
        "sort": sort,
    }
    filters = cast("Filters", {name: value for name, value in given.items() if value is not None})
    asyncio.run(_ls(filters, None if everything else limit, as_json, server))


async def _ls(filters: Filters, limit: int | None, as_json: bool, server: str) -> None:
    found: list[StoredFile] = []
    count = 0
    is_cut = False
    async with connect(server) as client:
        # one more than wanted tells whether there are more
        async for file in client.files(limit=None if limit is None else limit + 1, **filters):
            if count == limit:
                is_cut = True
                break
            count += 1
            if as_json:
                show.as_json(file)
            else:
                found.append(file)
    if found:
        show.print_files(show.console(), found)
    if is_cut and limit:
        show.console(stderr=True).print(f"… and more; --all shows all, --limit {limit * 10} more", style="dim")
    elif not count and not as_json:
        show.console(stderr=True).print("no file matches", style="dim")


def _time(text: str, flag: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(
            f"{flag}: {text!r} is no date and time", expected="2026-01-31 or 2026-01-31T12:00:00+01:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
