"""``stat7store restore``: a new store, made of a backup."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated

import typer

from stat7store.cli.backup import place_of
from stat7store.cli.options import Json, examples

EXAMPLES = {
    "stat7store restore /mnt/backup --data new": "a store in the new folder",
    "stat7store restore s3://bucket/backup --data new": "from S3",
    "stat7store restore /mnt/backup --data new --blobs s3://bucket/new": "with its files on S3",
    "stat7store serve --data new": "and serve it",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("restore", epilog=examples(EXAMPLES))(restore)


def restore(
    where: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A backup: a folder, or s3://bucket/prefix.", show_default=False),
    ],
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="The store's folder, new or empty.", show_default=False)],
    blobs: Annotated[
        str, typer.Option(metavar="BACKEND", help="Where its files go: filesystem or s3://bucket/prefix.")
    ] = "filesystem",
    s3_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="The S3 server, of both; AWS if not given.", show_default=False)
    ] = None,
    s3_region: Annotated[
        str | None, typer.Option(metavar="REGION", help="Region of the buckets.", show_default=False)
    ] = None,
    s3_path_style: Annotated[
        bool, typer.Option("--s3-path-style", help="Name the bucket in the path of the URL.", metavar="")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings.", show_default=False)
    ] = None,
    rate: Annotated[float, typer.Option(min=0.0, metavar="MB/S", help="Read no faster than this; 0: no limit.")] = 0.0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Files copied at a time.")] = 8,
    as_json: Json = False,
) -> None:
    """Make a new store of a backup, each file compared with its address.

    Until the end, and if it is killed, the folder is no store, and no server starts on it; run it again to go on. The
    new store is one of its own: it needs a new place for its own backups.

    Exit codes: 0 done, 1 not done, or done but for some files that the backup has lost, 2 wrong usage, 130 interrupted.
    """
    # they take long to import, and only this verb needs them
    from stat7store.backups.restoring import restore as run  # noqa: PLC0415
    from stat7store.cli.backup_progress import carry_out  # noqa: PLC0415
    from stat7store.folder import FILESYSTEM, Site  # noqa: PLC0415
    from stat7store.opening import site_of  # noqa: PLC0415
    from stat7store.settings import load_settings  # noqa: PLC0415

    flags = {
        "data": data,
        "s3_endpoint": s3_endpoint,
        "s3_region": s3_region,
        "s3_path_style": s3_path_style or None,
    }
    settings = load_settings(config, blobs=blobs, **flags)
    source = load_settings(config, blobs=where if where.startswith("s3://") else FILESYSTEM, **flags)
    site = place_of(where, source)
    to = site_of(settings) or Site(FILESYSTEM)
    code = asyncio.run(
        carry_out(
            "restore",
            lambda copies, tell: run(settings, site, to, copies, tell, jobs=jobs, bytes_per_s=rate * 1e6 or math.inf),
            as_json=as_json,
        )
    )
    raise typer.Exit(code)
