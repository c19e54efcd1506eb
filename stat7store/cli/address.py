"""``stat7store address``: addresses of files and of Phase 1 entities, computed without storing."""

from __future__ import annotations

import sys
from typing import Annotated, BinaryIO

import typer

from stat7store.address import Hasher
from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import Json, examples
from stat7store.coordinates import Coordinates, entity_address, read_entity, stat7_uri
from stat7store.errors import Malformed

EXAMPLES = {
    "stat7store address photo.jpg clip.mp4": "as sha256sum prints them",
    "ffmpeg … | stat7store address -": "of standard input",
    "stat7store address --entity luca.json": "and the STAT7 URI",
}
BLOCK_BYTES = 1024 * 1024


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("address", epilog=examples(EXAMPLES))(address)


def address(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files; - is standard input.", show_default=False)],
    entity: Annotated[
        bool,
        typer.Option("--entity", help="Each file is a Phase 1 entity in JSON: hash its canonical form.", metavar=""),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print addresses without storing anything."""
    failed = False
    for name in files:
        try:
            found = _entity(name) if entity else _file(name)
        except (OSError, Malformed) as error:
            report(error, subject=name)
            failed = True
            continue
        if as_json:
            show.as_json(found)
        else:
            print(f"{found['address']}  {name}")
            if entity:
                print(f"  {found['uri']}")
    raise typer.Exit(1 if failed else 0)


def _file(name: str) -> dict[str, object]:
    hasher = Hasher()
    with _opened(name) as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return {"address": str(hasher.address()), "file": name, "size": hasher.size}


def _entity(name: str) -> dict[str, object]:
    with _opened(name) as file:
        entity = read_entity(file.read())
    found = entity_address(entity)
    assert isinstance(entity, dict)  # or it had no address
    return {
        "address": str(found),
        "file": name,
        "uri": stat7_uri(Coordinates.parse(entity["stat7_coordinates"])),
    }


def _opened(name: str) -> BinaryIO:
    return open(sys.stdin.fileno(), "rb", closefd=False) if name == "-" else open(name, "rb")
