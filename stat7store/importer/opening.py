"""An import put together: what is asked for, and the parts that do it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from stat7store.address import Address
from stat7store.bulk import judge
from stat7store.errors import Malformed
from stat7store.folder import FORMAT_FILE
from stat7store.importer.choice import Choice
from stat7store.importer.direct import BATCHES_AT_ONCE, DirectDestination, destination_of_folder
from stat7store.importer.engine import Engine, Tell
from stat7store.importer.journal import Journal, default_path
from stat7store.importer.outcome import Destination, Tally
from stat7store.importer.reading import Judge
from stat7store.importer.rehearsal import Present, Rehearsal
from stat7store.importer.walk import NEW_FILES, Walk
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings

JOURNAL_NAME = "import-journal.sqlite"
_MOST_TAGS, _LONGEST_TAG = 64, 128
_OTHER_FILES = 256  # open files beside those of the batches: folders of the walk, connections, the catalog


@dataclass(frozen=True)
class Request:
    """What is to be imported, where to, and how.

    ``target`` is the URL of a server, or the settings of a store whose folder is written to.
    ``journal`` is its file, None for the usual one. ``jobs``: threads that read; 0 chooses.
    """

    roots: Sequence[Path]
    target: str | Settings
    choice: Choice = field(default_factory=Choice)
    tags: Sequence[str] = ()
    journal: Path | None = None
    jobs: int = 0
    dry_run: bool = False
    delete_sources: bool = False


@dataclass(frozen=True)
class _Hands:
    """What every destination works with."""

    threads: ThreadPoolExecutor
    stop: threading.Event
    read: Callable[[int], None]


async def run(request: Request, tally: Tally, tell: Tell, stop: threading.Event) -> None:
    """Import; ``tally`` and ``tell`` follow it, ``stop`` ends it early, in order.

    Raises ``Malformed`` for a request that cannot be meant, before anything is done, and
    ``Unavailable`` when the destination takes nothing more; what was brought by then stays.
    """
    tags = _checked_tags(request.tags)
    tally.summary.dry_run = request.dry_run
    jobs = request.jobs or min(32, 2 * len(os.sched_getaffinity(0)))
    at_once = max(1, min(jobs + 2 * BATCHES_AT_ONCE, (_open_files() - _OTHER_FILES) // (2 * NEW_FILES)))
    with ThreadPoolExecutor(jobs, thread_name_prefix="import") as threads:
        hands = _Hands(threads, stop, tally.add_read)
        try:
            async with _destination(request, tags, hands) as destination:
                journal = Journal(_journal_path(request), destination.name, read_only=request.dry_run)
                try:
                    await _run(request, destination, journal, tally, tell, stop, at_once)
                finally:
                    journal.close()
        finally:
            stop.set()  # the threads are to end, whatever happened
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
    stop: threading.Event,
    at_once: int,
) -> None:
    # what is to be deleted is read, whatever a journal says
    walk = replace(walk_of(request), journal=None if request.delete_sources else journal.of_folder)
    if request.dry_run:
        await Engine(walk, destination, None, tally, tell, stop, at_once).run()
        return
    unfinished = journal.begin()
    await Engine(walk, destination, journal, tally, tell, stop, at_once, request.delete_sources).run()
    if not stop.is_set():
        if isinstance(destination, DirectDestination):
            await destination.tidy(orphans=unfinished)
        journal.end()


@asynccontextmanager
async def _destination(request: Request, tags: Sequence[str], hands: _Hands) -> AsyncIterator[Destination]:
    if isinstance(request.target, str):
        # they take longer to import than a second import of many files into a folder takes
        from stat7store.client import Client  # noqa: PLC0415
        from stat7store.importer.over_http import HttpDestination, judge_by_size  # noqa: PLC0415

        async with Client(request.target) as client:
            http = HttpDestination(
                client,
                tags=tags,
                always_send=request.delete_sources,
                threads=hands.threads,
                stop=hands.stop,
                read=hands.read,
            )
            await http.present([Address.of(b"")])  # a server that cannot be reached is told of at once
            yield _rehearsal(http.name, http.present, judge_by_size, hands) if request.dry_run else http
        return
    settings = request.target
    judged = partial(judge, settings.accept, int(settings.max_upload_size))
    if request.dry_run and not (settings.data / FORMAT_FILE).exists():
        yield _rehearsal(destination_of_folder(settings.data, tags), _nothing, judged, hands)
        return
    if not request.dry_run:
        prepare(settings)
    async with open_store(settings) as store:
        direct = DirectDestination(
            store, settings.data, tags=tags, threads=hands.threads, stop=hands.stop, read=hands.read
        )
        try:
            yield _rehearsal(direct.name, direct.present, judged, hands) if request.dry_run else direct
        finally:
            await direct.close()


def _rehearsal(name: str, present: Present, judged: Judge, hands: _Hands) -> Rehearsal:
    return Rehearsal(name, present, judged, threads=hands.threads, stop=hands.stop, read=hands.read)


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


def _open_files() -> int:
    """Return how many files this process may open, having raised that as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
