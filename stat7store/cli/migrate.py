"""``stat7store migrate``: move the bytes of a store to another backend."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stat7store.cli import show
from stat7store.cli.failing import report
from stat7store.cli.options import Json, examples
from stat7store.errors import Malformed, Stat7Error

if TYPE_CHECKING:
    from stat7store.address import Address
    from stat7store.folder import Facts, Site
    from stat7store.migrating import Moves
    from stat7store.settings import Settings

EXAMPLES = {
    "stat7store migrate stat7-data --to s3://bucket/prefix": "a store's files, to S3",
    "stat7store migrate stat7-data --to filesystem": "and back into its folder",
}
INTERRUPTED = 130
MOST_FAILURES_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("migrate", epilog=examples(EXAMPLES))(migrate)


def migrate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The store's folder.", show_default=False)],
    to: Annotated[str, typer.Option(metavar="BACKEND", help="filesystem or s3://bucket/prefix.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="BACKEND", help="Only what is there now; all else if not given."),
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="The S3 server to move to; AWS if not given.", show_default=False)
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
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Files copied at a time.")] = 8,
    as_json: Json = False,
) -> None:
    """Move the bytes of all files to another backend, verified, while a server may be serving them.

    Credentials for S3 are found as boto3 finds them; a server that runs meanwhile needs them too. What was
    moved is not moved again, so it may be interrupted or run twice. Exit codes: 0 done, 1 some failed, 2 wrong
    usage, 130 interrupted; run it again to go on.
    """
    # they take long to import, and only this verb needs them
    from stat7store.settings import load_settings  # noqa: PLC0415

    settings = load_settings(
        config,
        data=data,
        blobs=to,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        s3_path_style=s3_path_style or None,
    )
    raise typer.Exit(asyncio.run(_Migrating(settings, source, jobs, as_json).run()))


class _Migrating:
    """One migration as a person sees it."""

    def __init__(self, settings: Settings, source: str | None, jobs: int, as_json: bool) -> None:
        self._settings = settings
        self._source = source
        self._jobs = jobs
        self._as_json = as_json
        self._failures = 0

    async def run(self) -> int:
        """Run it; return the exit code."""
        from stat7store.cli.migrate_progress import following, sentence  # noqa: PLC0415
        from stat7store.folder import enlist, read_facts  # noqa: PLC0415
        from stat7store.opening import check_backend, opened_for_migration, site_of  # noqa: PLC0415

        site = site_of(self._settings)
        if site is None:
            raise Malformed("--to names no backend", expected="filesystem or s3://bucket/prefix")
        facts = read_facts(self._settings.data)
        source = _source_in(facts, self._source)
        if site.url != "filesystem":
            await check_backend(self._settings)
        target = enlist(self._settings.data, site, primary=False)
        if source == target:
            raise Malformed("--from and --to are the same backend")
        begun = time.monotonic()
        problem: Stat7Error | None = None
        interrupted = False
        async with opened_for_migration(
            self._settings, target, source=source, jobs=self._jobs, failed=self._tell
        ) as migration:
            running = asyncio.create_task(migration.run())
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, running.cancel)
            try:
                async with following(migration.moves, hidden=self._as_json):
                    await running
            except asyncio.CancelledError:
                interrupted = True
            except Stat7Error as error:
                problem = error
            finally:
                loop.remove_signal_handler(signal.SIGINT)
        moves, seconds = migration.moves, time.monotonic() - begun
        if self._as_json:
            show.as_json(_summary(moves, seconds, site, interrupted=interrupted))
        else:
            print(sentence(moves, seconds))
        return self._finish(moves, problem, site, interrupted=interrupted, is_primary=facts.primary == target)

    def _finish(
        self, moves: Moves, problem: Stat7Error | None, site: Site, *, interrupted: bool, is_primary: bool
    ) -> int:
        if problem is not None:
            report(problem)
            report(Stat7Error("the migration was stopped; run it again to go on"))
            return 1
        if interrupted:
            report(Stat7Error("interrupted; run it again to go on"))
            return INTERRUPTED
        if not is_primary and not self._as_json:
            print(
                f"New files still go where they went. To send them there too, restart the server with\n"
                f"  stat7store serve --data {self._settings.data} {flags_of(site)}\n"
                "and then run this once more: it takes what came in between."
            )
        return 1 if moves.failed else 0

    def _tell(self, address: Address, error: Stat7Error) -> None:
        self._failures += 1
        if self._failures <= MOST_FAILURES_SHOWN:
            report(error, subject=str(address))
        elif self._failures == MOST_FAILURES_SHOWN + 1:
            report(Stat7Error("further failures are not shown"))


def flags_of(site: Site) -> str:
    """Return the flags of ``serve`` that name a backend."""
    flags = [f"--blobs {site.url}"]
    flags += [f"--s3-endpoint {site.endpoint}"] if site.endpoint else []
    flags += [f"--s3-region {site.region}"] if site.region else []
    return " ".join([*flags, *(["--s3-path-style"] if site.path_style else [])])


def _source_in(facts: Facts, url: str | None) -> int | None:
    """Return the number of the backend that ``--from`` names. Raises ``Malformed``."""
    if url is None:
        return None
    named = [number for number, site in facts.backends.items() if url.rstrip("/") in (site.url, str(site))]
    if len(named) != 1:
        known = [str(site) for site in facts.backends.values()]
        raise Malformed(f"--from {url} names no backend of this store, or several", expected=known)
    return named[0]


def _summary(moves: Moves, seconds: float, site: Site, *, interrupted: bool) -> dict[str, object]:
    return {
        "to": str(site),
        "files": moves.files,
        "bytes": moves.bytes,
        "moved": moves.moved,
        "moved_bytes": moves.moved_bytes,
        "gone": moves.gone,
        "failed": moves.failed,
        "seconds": round(seconds, 3),
        "interrupted": interrupted,
    }
