"""``stat7store backup``: bring a copy of a store up to date, while it serves."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli.options import Json, examples

if TYPE_CHECKING:
    from stat7store.folder import Site
    from stat7store.settings import Settings

EXAMPLES = {
    "stat7store backup /mnt/backup": "./stat7-data, which a server may be serving",
    "stat7store backup /mnt/backup --rate 50": "with 50 MB/s at most",
    "stat7store backup s3://bucket/backup": "to S3",
    "stat7store restore /mnt/backup --data new": "and a store made of it",
}


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("backup", epilog=examples(EXAMPLES))(backup)


def backup(
    where: Annotated[str, typer.Argument(metavar="DEST", help="A folder, or s3://bucket/prefix.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The store's folder; also while it is served.")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="The S3 server of DEST; AWS if not given.", show_default=False)
    ] = None,
    s3_region: Annotated[
        str | None, typer.Option(metavar="REGION", help="Region of the bucket.", show_default=False)
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
    """Copy to DEST what it lacks of a store, each file compared with its address, while a server may be serving it.

    DEST is then the store as it was when the backup began; files deleted since the last one are gone from it. Until the
    end, and if it is killed, it stays what it was; run it again to go on. Credentials for S3 are found as boto3 finds
    them.

    Exit codes: 0 done, 1 not done, or done but for some files that are damaged or cannot be read, 2 wrong usage,
    130 interrupted.
    """
    # they take long to import, and only this verb needs them
    from stat7store.backups.making import back_up  # noqa: PLC0415
    from stat7store.cli.backup_progress import carry_out  # noqa: PLC0415
    from stat7store.settings import load_settings  # noqa: PLC0415

    settings = load_settings(
        config,
        data=data,
        blobs=where if where.startswith("s3://") else "filesystem",
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        s3_path_style=s3_path_style or None,
    )
    site = place_of(where, settings)
    code = asyncio.run(
        carry_out(
            "backup",
            lambda copies, tell: back_up(settings, site, copies, tell, jobs=jobs, bytes_per_s=rate * 1e6 or math.inf),
            as_json=as_json,
        )
    )
    raise typer.Exit(code)


def place_of(where: str, settings: Settings) -> Path | Site:
    """Return the folder or the bucket that was named, which is ``settings.blobs`` as well. Raises ``Malformed``."""
    from stat7store.opening import site_of  # noqa: PLC0415

    site = site_of(settings)
    return site if site is not None and where.startswith("s3://") else Path(where)
