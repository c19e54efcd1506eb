"""``stat7store rebuild``: a new catalog from the blobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import Json, examples
from stat7store.errors import Stat7Error

if TYPE_CHECKING:
    from stat7store.rebuilding import Tally

EXAMPLES = {
    "stat7store rebuild": "make the catalog of ./stat7-data anew",
    "stat7store rebuild --no-salvage": "without a look at the old catalog, if that cannot even be opened",
}
_SHOW_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("rebuild", epilog=examples(EXAMPLES))(rebuild)


def rebuild(
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The store's folder; stop its server first.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Files read at a time.")] = 4,
    salvage: Annotated[
        bool, typer.Option("--salvage/--no-salvage", help="Take over what can be read of the old catalog.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Read all stored bytes and make a new catalog of them, for when the old one is lost or damaged.

    Names, tags and coordinates are taken from the old catalog as far as it can be read; beyond that only what the
    bytes tell is known again, and a file deleted moments ago may be back. The old catalog is kept as catalog.old
    (or catalog.old.2 and so on).

    Exit codes: 0 done, 1 not done or some blobs are bad (they are left alone), 2 wrong usage, 130 interrupted: nothing
    was changed.
    """
    from stat7store.rebuilding import Tally  # noqa: PLC0415 - takes long to import
    from stat7store.rebuilding import rebuild as run  # noqa: PLC0415
    from stat7store.settings import load_settings  # noqa: PLC0415

    tally = Tally()
    settings = load_settings(config, data=data)
    with _following(tally, hidden=as_json):
        kept = asyncio.run(run(settings, tally, lambda line: report(Stat7Error(line)), jobs=jobs, salvage=salvage))
    if as_json:
        show.as_json(tally)
    else:
        print(f"{_counts(tally)} in {tally.seconds:.1f} s")
        if kept is not None:
            print(f"the old catalog is kept in {kept}; delete it once all is well")
    raise typer.Exit(1 if tally.bad else 0)


def _counts(tally: Tally) -> str:
    return (
        f"{show.size(tally.bytes)} read: {tally.files:,} files, {tally.salvaged:,} with their old record, "
        f"{tally.bad:,} bad"
    )


@contextmanager
def _following(tally: Tally, *, hidden: bool) -> Iterator[None]:
    """Show on standard error how far it is: how much there is cannot be known before it is read."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    if hidden:
        yield
        return
    ended = threading.Event()

    def live() -> None:
        with console.status("reading") as status:
            while not ended.wait(_SHOW_EVERY_S):
                status.update(_counts(tally))

    def lines() -> None:
        while not ended.wait(_LINE_EVERY_S):
            console.print(_counts(tally), soft_wrap=True)

    thread = threading.Thread(target=live if console.is_terminal else lines, name="rebuild-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
