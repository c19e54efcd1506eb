"""Opening a store's folder: the one place where catalog and blob backends are chosen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from stat7store.address import Address
from stat7store.backends import Backends
from stat7store.catalog.base import Query
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Damaged, Malformed, Stat7Error, Unavailable
from stat7store.folder import BLOBS, CATALOG, FILESYSTEM, SPOOLS, Site, enlist, has_catalog, make_folder, read_facts
from stat7store.footing import clock_complaint
from stat7store.keeping import Keeper
from stat7store.migrating import Migration
from stat7store.room import Pledges, Room
from stat7store.settings import Settings
from stat7store.small import SmallFiles
from stat7store.store import Store, unix_ms
from stat7store.translate import blob_errors
from storage.base import BlobStore, BlobUnavailable, BulkBlobs, Ownable
from storage.cache import CachedBlobs
from storage.filesystem import FilesystemBlobs
from storage.s3_options import S3Options


def prepare(settings: Settings) -> None:
    """Make the folder of a store, or check that it is one, and choose where its new files go; idempotent.

    Raises ``Unavailable`` saying what to do if it cannot be made, holds something else, or is of
    another format.
    """
    make_folder(settings.data, network_filesystem=settings.network_filesystem)
    enlist(settings.data, site_of(settings), primary=True)


def site_of(settings: Settings) -> Site | None:
    """Return where ``--blobs`` says that new files go; None if it does not say. Raises ``Malformed``."""
    if not settings.blobs:
        return None
    if settings.blobs == FILESYSTEM:
        return Site(FILESYSTEM)
    site = Site(settings.blobs, settings.s3_endpoint, settings.s3_region, settings.s3_path_style)
    _options(site, settings)
    return site


def is_remote(settings: Settings) -> bool:
    """Tell whether new files of the store go, or are to go, elsewhere than to its folder."""
    return _wanted(settings).url != FILESYSTEM


async def check_backend(settings: Settings) -> None:
    """Return if the backend for new files can serve, and is this store's; ``make_folder`` has made the folder.

    One that is nobody's is this store's from then on. Raises ``Malformed`` or ``Unavailable`` saying what to do.
    """
    try:
        if settings.cache_dir is not None:
            _make_cache_folder(settings.cache_dir)
        blobs = await asyncio.to_thread(_open_blobs, _wanted(settings), settings)
        try:
            await blobs.check()
            # protection: bucket-of-one-store
            if isinstance(blobs, Ownable):
                await blobs.own(read_facts(settings.data).store)
        finally:
            await blobs.close()
    except BlobUnavailable as error:  # it says what to do, and nothing was asked of the store yet
        raise Unavailable(str(error)) from error


async def check_catalog(settings: Settings) -> str:
    """Return if the catalog can be opened, with what it says against the clock; ``make_folder`` has made the folder.

    Raises ``Unavailable`` saying what to do.
    """
    async with AsyncExitStack() as stack:
        await _refuse_lost_catalog(settings.data, _Opener(uncached(settings), stack))
    catalog = LmdbCatalog(settings.data / CATALOG, map_size=settings.map_size)
    try:
        newest = await catalog.query(Query(), 1)  # the newest first
    except Damaged:
        return ""  # of that the requests for it tell
    finally:
        await catalog.close()
    return clock_complaint(unix_ms(), max((entry.record.stored_at for entry in newest.entries), default=None))


def own(data: Path) -> int:
    """Take the folder for one server; return a descriptor that holds it, inherited over a fork.

    Raises ``Unavailable`` while any process of another server still runs on it.
    """
    held = os.open(data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # protection: one-server-per-folder
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise Unavailable(f"another server is running on {data}; stop it first, or name another folder") from error
    return held


def hold_catalog(data: Path, kind: int) -> int:
    """Hold the catalog with others (``LOCK_SH``), or alone, to put another in its place (``LOCK_EX``).

    Returns the descriptor that holds it. Raises ``Unavailable`` where someone holds it otherwise.
    """
    (data / CATALOG).mkdir(mode=0o700, exist_ok=True)
    held = os.open(data / CATALOG, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        other = "another program uses" if kind == fcntl.LOCK_EX else "stat7store rebuild is making anew"
        raise Unavailable(f"{other} the catalog of {data}; wait for it, or stop it first") from error
    return held


@asynccontextmanager
async def open_store(settings: Settings, pledges: Pledges | None = None) -> AsyncIterator[Store]:
    """Open the store in ``settings.data``, which ``prepare`` has made, and close it at the end.

    LMDB wants to be opened once in a process, and after any fork. ``pledges`` tell other processes of a server
    what room is promised here.
    """
    async with opened(settings) as (catalog, backends), AsyncExitStack() as stack:
        small = None
        if isinstance(backends.blobs, BulkBlobs):
            small = SmallFiles(catalog, backends.blobs, backends.primary)
            stack.push_async_callback(small.close)
        yield Store(
            catalog,
            backends,
            accepted=settings.accept,
            max_size=int(settings.max_upload_size),
            intent_timeout_s=settings.intent_timeout,
            owner=_owner(),
            small=small,
            room=_room(settings, catalog, backends, pledges),
        )


@asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Open the backends of a store, without its catalog, for the length of the context."""
    async with AsyncExitStack() as stack:
        opener = _Opener(settings, stack)
        number = read_facts(settings.data).primary
        yield Backends({number: await opener.open(number)}, number, opener)


@asynccontextmanager
async def opened(settings: Settings, primary: int | None = None) -> AsyncIterator[tuple[LmdbCatalog, Backends]]:
    """Open the parts of a store, for the length of the context; see ``open_store``.

    ``primary`` is the number of another backend for new files than the store's own.
    """
    async with AsyncExitStack() as stack:
        opener = _Opener(settings, stack)
        await _refuse_lost_catalog(settings.data, opener)
        stack.callback(os.close, hold_catalog(settings.data, fcntl.LOCK_SH))
        catalog = LmdbCatalog(settings.data / CATALOG, map_size=settings.map_size)
        stack.push_async_callback(catalog.close)
        number = read_facts(settings.data).primary if primary is None else primary
        yield catalog, Backends({number: await opener.open(number)}, number, opener)


@asynccontextmanager
async def opened_for_migration(
    settings: Settings, target: int, *, source: int | None, jobs: int, failed: Callable[[Address, Stat7Error], None]
) -> AsyncIterator[Migration]:
    """Open a store, for the length of the context, to move its files to another backend; see ``Migration``."""
    async with opened(uncached(settings), target) as (catalog, backends):
        keeper = Keeper(catalog, backends, now=unix_ms, owner=_owner())
        moving = settings.model_copy(update={"max_store_bytes": None})  # the store gets no larger by it
        room = _room(moving, catalog, backends, None)
        yield Migration(catalog, backends, keeper, source=source, jobs=jobs, failed=failed, room=room)


@asynccontextmanager
async def opened_blobs(where: Path | Site, settings: Settings, spools: Path) -> AsyncIterator[BlobStore]:
    """Open blobs that belong to no store's folder, for the length of the context: a root, or a bucket.

    ``spools`` is a local folder for what is on its way to a bucket. Raises ``Malformed`` or ``Unavailable``.
    """
    with blob_errors():
        if isinstance(where, Path):  # what is there already is told by its name
            blobs: BlobStore = await asyncio.to_thread(partial(FilesystemBlobs, where, trusted=True))
        else:
            blobs = await asyncio.to_thread(_open_bucket, where, settings, spools)
    try:
        yield blobs
    finally:
        await blobs.close()


class _Opener:
    """An ``Opener`` by the list in the store's folder, which is read anew each time."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack

    def numbers(self) -> Collection[int]:
        return read_facts(self._settings.data).backends.keys()

    async def open(self, number: int) -> BlobStore:
        site = read_facts(self._settings.data).backends.get(number)
        if site is None:
            raise Unavailable(f"the store in {self._settings.data} has no backend {number}")
        with blob_errors():
            blobs = await asyncio.to_thread(_open_blobs, site, self._settings)
            if site.url != FILESYSTEM and self._settings.cache_dir is not None:
                # a cache is for one backend: another may have other bytes at the same location
                folder = self._settings.cache_dir / str(number)
                blobs = await asyncio.to_thread(_cached, blobs, folder, self._settings)
        self._stack.push_async_callback(blobs.close)
        return blobs


def uncached(settings: Settings) -> Settings:
    """Return the settings without a cache: what is read once is no use in one."""
    return settings.model_copy(update={"cache_dir": None})


async def _refuse_lost_catalog(data: Path, opener: _Opener) -> None:
    """Raise ``Unavailable`` where a new, empty catalog would make garbage of all the blobs."""
    if has_catalog(data):
        return
    for number, site in read_facts(data).backends.items():
        if site.url == FILESYSTEM and not (data / BLOBS).exists():
            continue
        with blob_errors():
            async for _ in (await opener.open(number)).list():
                if has_catalog(data):  # another process has just made both
                    return
                raise Unavailable(
                    f"{data} is a store with blobs, but its catalog is gone; restore {data / CATALOG} from a backup, "
                    "or make it anew from the blobs with: stat7store rebuild"
                )


def _room(settings: Settings, catalog: LmdbCatalog, backends: Backends, pledges: Pledges | None) -> Room:
    spools = BLOBS if backends.blobs.kind == FILESYSTEM else SPOOLS
    return Room(
        [settings.data / spools, settings.data / CATALOG],
        min_free=None if settings.min_free is None else int(settings.min_free),
        max_store_bytes=None if settings.max_store_bytes is None else int(settings.max_store_bytes),
        stored_bytes=catalog.stored_bytes,
        pledges=pledges,
    )


def _wanted(settings: Settings) -> Site:
    site = site_of(settings)
    if site is None:
        facts = read_facts(settings.data)
        site = facts.backends.get(facts.primary)
    return site or Site(FILESYSTEM)


def _open_blobs(site: Site, settings: Settings) -> BlobStore:
    if site.url == FILESYSTEM:
        return FilesystemBlobs(settings.data / BLOBS)
    return _open_bucket(site, settings, settings.data / SPOOLS)


def _open_bucket(site: Site, settings: Settings, spools: Path) -> BlobStore:
    # boto3 takes long to import, and a store without S3 must not need it
    from storage.s3 import S3Blobs  # noqa: PLC0415

    return S3Blobs(_options(site, settings), spools)


def _cached(blobs: BlobStore, folder: Path, settings: Settings) -> BlobStore:
    _make_cache_folder(folder)
    return CachedBlobs(blobs, folder, int(settings.cache_size), admit_on_write=settings.cache_writes)


def _make_cache_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BlobUnavailable(f"the cache cannot be in {folder}: {error.strerror}") from error


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _options(site: Site, settings: Settings) -> S3Options:
    """Return how to talk to an S3 bucket. Raises ``Malformed``."""
    where = S3Options.parse(site.url)
    try:
        return S3Options(
            bucket=where.bucket,
            prefix=where.prefix,
            endpoint_url=site.endpoint or None,
            region=settings.s3_region or site.region or None,
            path_style=settings.s3_path_style or site.path_style,
            storage_class=settings.s3_storage_class or None,
            encryption=None if settings.s3_sse == "none" else settings.s3_sse,
            kms_key=settings.s3_kms_key or None,
            conditional=settings.s3_conditional,
            max_connections=settings.s3_max_connections,
            connect_timeout_s=settings.s3_connect_timeout,
            read_timeout_s=settings.s3_read_timeout,
            attempts=settings.s3_attempts,
            adaptive=settings.s3_adaptive,
            deadline_s=settings.s3_deadline,
        )
    except ValueError as error:
        raise Malformed(f"bad settings: {error}") from error
