"""An import put together: what is asked for, and the parts that do it."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from stat7store.address import Address
from stat7store.bulk import judge
from stat7store.errors import Malformed
from stat7store.folder import FORMAT_FILE
from stat7store.importer.choice import Choice
from stat7store.importer.direct import BATCHES_AT_ONCE, DirectDestination, destination_of_folder
from stat7store.importer.engine import BATCHES_AHEAD, Engine, Tell
from stat7store.importer.gauge import Gauge
from stat7store.importer.journal import Journal, default_path
from stat7store.importer.outcome import Destination, Tally
from stat7store.importer.rehearsal import Rehearsal
from stat7store.importer.spoolers import Spoolers
from stat7store.importer.walk import MOST_FOLDERS, NEW_FILES, Walk
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings

JOURNAL_NAME = "import-journal.sqlite"
_MOST_TAGS, _LONGEST_TAG = 64, 128
_OTHER_FILES = 256  # open files beside those of the batches: folders of the walk, connections, the catalog


@dataclass(frozen=True)
class Request:
    """What is to be imported, where to, and how.

    ``target`` is the URL of a server, or the settings of a store whose folder is written to.
    ``journal`` is its file, None for the usual one. ``jobs``: processes or threads that
    read; 0 chooses. ``report``: every file is to be told of, also those that are unchanged and there.
    """

    roots: Sequence[Path]
    target: str | Settings
    choice: Choice = field(default_factory=Choice)
    tags: Sequence[str] = ()
    journal: Path | None = None
    jobs: int = 0
    dry_run: bool = False
    delete_sources: bool = False
    report: bool = False


@contextmanager
def forked(request: Request, gauge: Gauge) -> Iterator[Spoolers | None]:
    """Start the processes that an import into a folder takes; None for another. There must be no thread yet."""
    if isinstance(request.target, str) or request.dry_run:
        yield None
        return
    _open_files()  # as many in each: what is on its way from one process to another counts for the sender
    with Spoolers.forked(request.target, jobs_of(request), gauge) as spoolers:
        yield spoolers


async def run(request: Request, spoolers: Spoolers | None, tally: Tally, tell: Tell, gauge: Gauge) -> None:
    """Import; ``tally`` and ``tell`` follow it, ``gauge`` ends it early, in order; ``spoolers`` as from ``forked``.

    Raises ``Malformed`` for a request that cannot be meant, before anything is done, and
    ``Unavailable`` when the destination takes nothing more; what was brought by then stays.
    """
    tags = _checked_tags(request.tags)
    tally.summary.dry_run = request.dry_run
    jobs = jobs_of(request)
    at_once = max(1, min(jobs + 2 * BATCHES_AT_ONCE, _batches_of(_open_files())))
    with ThreadPoolExecutor(jobs, thread_name_prefix="import") as threads:
        try:
            async with _destination(request, tags, spoolers, threads, gauge) as destination:
                journal = Journal(_journal_path(request), destination.name, read_only=request.dry_run)
                try:
                    await _run(request, destination, journal, tally, tell, gauge, at_once)
                finally:
                    journal.close()
        finally:
            gauge.stop()  # the threads are to end, whatever happened
            tally.summary.seconds = round(tally.seconds, 3)


def walk_of(request: Request) -> Walk:
    """Return the walk over what is to be imported. Raises ``Malformed`` for a root that is not there."""
    for root in request.roots:
        if not root.exists():
            raise Malformed(f"there is no file or folder {os.fspath(root)!r}")
    skip = frozenset[tuple[int, int]]()
    if isinstance(request.target, Settings) and request.target.data.exists():
        status = request.target.data.stat()
        skip = frozenset({(status.st_dev, status.st_ino)})
    return Walk([os.fsencode(os.path.abspath(root)) for root in request.roots], request.choice, skip=skip)


async def _run(
    request: Request,
    destination: Destination,
    journal: Journal,
    tally: Tally,
    tell: Tell,
    gauge: Gauge,
    at_once: int,
) -> None:
    # what is to be deleted is read, whatever a journal says
    walk = replace(walk_of(request), journal=None if request.delete_sources else journal.of_folder)
    if request.dry_run:
        await Engine(walk, destination, None, tally, tell, gauge, at_once, tell_unchanged=request.report).run()
        return
    unfinished = journal.begin()
    await Engine(walk, destination, journal, tally, tell, gauge, at_once, request.delete_sources, request.report).run()
    if not gauge.stopped:
        if isinstance(destination, DirectDestination):
            await destination.tidy(orphans=unfinished)
        journal.end()


@asynccontextmanager
async def _destination(
    request: Request, tags: Sequence[str], spoolers: Spoolers | None, threads: ThreadPoolExecutor, gauge: Gauge
) -> AsyncIterator[Destination]:
    if isinstance(request.target, str):
        # they take longer to import than a second import of many files into a folder takes
        from stat7store.client import Client  # noqa: PLC0415
        from stat7store.importer.over_http import HttpDestination, judge_by_size  # noqa: PLC0415

        async with Client(request.target) as client:
            http = HttpDestination(client, tags=tags, always_send=request.delete_sources, threads=threads, gauge=gauge)
            await http.present([Address.of(b"")])  # a server that cannot be reached is told of at once
            if request.dry_run:
                yield Rehearsal(http.name, http.present, judge_by_size, threads=threads, gauge=gauge)
            else:
                yield http
        return
    settings = request.target
    name = destination_of_folder(settings.data, tags)
    if spoolers is None:
        judged = partial(judge, settings.accept, int(settings.max_upload_size))
        if not (settings.data / FORMAT_FILE).exists():
            yield Rehearsal(name, _nothing, judged, threads=threads, gauge=gauge)
            return
        async with open_store(settings) as store:
            yield Rehearsal(name, store.present, judged, threads=threads, gauge=gauge)
        return
    prepare(settings)
    async with open_store(settings) as store:
        direct = DirectDestination(store, name, tags=tags, spoolers=spoolers)
        try:
            yield direct
        finally:
            await direct.close()


async def _nothing(addresses: list[Address]) -> set[Address]:
    return set()


def _journal_path(request: Request) -> Path:
    path = request.journal
    if path is None:
        path = default_path() if isinstance(request.target, str) else request.target.data / JOURNAL_NAME
    if not request.dry_run:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _checked_tags(tags: Sequence[str]) -> list[str]:
    for tag in tags:
        if not 1 <= len(tag) <= _LONGEST_TAG or any(ord(one) < 0x20 or ord(one) == 0x7F for one in tag):
            raise Malformed(f"{tag!r} is no tag", expected=f"1 to {_LONGEST_TAG} characters, none of them a control")
    if len(set(tags)) > _MOST_TAGS:
        raise Malformed(f"there are {len(set(tags))} tags", expected=f"at most {_MOST_TAGS}")
    return sorted(set(tags))


def jobs_of(request: Request) -> int:
    """Return how many processes or threads read."""
    return request.jobs or min(32, 1 + len(os.sched_getaffinity(0)))  # one may wait for its disk


def _batches_of(files: int) -> int:
    """Return how many batches may be under way at once with so many open files: spools twice, and folders."""
    waiting = 2 * BATCHES_AHEAD * MOST_FOLDERS  # folders of those that were found ahead, and are being found
    return (files - _OTHER_FILES - waiting) // (2 * NEW_FILES + MOST_FOLDERS)


def _open_files() -> int:
    """Return how many files this process may open, having raised that as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
