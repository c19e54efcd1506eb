"""The filesystem backend: one durable local file a blob, in 4096 folders by the name's first digits."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from storage.base import BlobDamaged, BlobMissing, BlobUnavailable, Location, PassedOn, Reader, Span, Spool
from storage.file_commit import FileCommit, NewName
from storage.file_folders import SPOOL, TOKEN_BYTES, folder_names, make_folders, missing_folders, next_blobs
from storage.file_notes import read_note, write_note
from storage.file_reader import FileReader
from storage.file_spool import FileSpool, remove_stale_spools
from storage.group import GroupCommit
from storage.kept_files import KeptFiles
from storage.linux import FOLDER, READ_ONLY, Linux, unavailable, unreadable
from storage.open_file import OpenFile

Result = TypeVar("Result")

_THREADS = 32
_NAME = re.compile(r"[0-9a-f]{64}")


class FilesystemBlobs:
    """A ``BlobStore``, also ``Claimable``, ``BulkBlobs``, ``Immediate``, ``Noted``, ``Forgetful``, ``Unfinished``.

    A blob is the file ``<3 hex>/<name>.<16 hex token>``, its token 64 random bits. Its readers are
    ``LocalFile`` s. Any number of processes may use one root at once; each opens it after its fork.
    """

    kind = "filesystem"

    def __init__(self, root: Path, *, trusted: bool = False) -> None:
        """Open a root that ``create`` has made. Raises ``BlobUnavailable`` if it is not one.

        ``trusted``: what ``list`` yields is taken for whole with no catalog that tells it, also after a power cut.
        """
        self._path = root.absolute()
        self._linux = Linux()
        self._closed = False
        self._kept = KeptFiles[OpenFile]()
        try:
            self._root = os.open(self._path, FOLDER)
        except OSError as error:
            raise unavailable(error) from error
        try:
            if missing := len(missing_folders(self._root)):
                raise BlobUnavailable(f"{root} is not a blob store: {missing} of its folders are missing")
            self._commit = FileCommit(self._root, self._linux, trusted=trusted)
        except BaseException:
            os.close(self._root)
            raise
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blob-files")
        # One hop to a thread serves all that wait for a spool, which a burst of small uploads notices.
        self._spools: GroupCommit[None, FileSpool] = GroupCommit(
            self._new_spools, name="blob-spools", discard=FileSpool.close
        )
        self._puts: GroupCommit[NewName, None] = GroupCommit(self._commit.put, name="blob-puts")
        self._deletes: GroupCommit[str, None] = GroupCommit(self._commit.delete, name="blob-deletes")

    @staticmethod
    def create(root: Path) -> None:
        """Make the folders of a store, durably, where they are missing; quick where they are not.

        Also removes spools left behind by dead processes. Blocks. Raises ``BlobNoSpace`` or
        ``BlobUnavailable``.
        """
        try:
            make_folders(root)
            remove_stale_spools(f"{root}/{SPOOL}")
        except OSError as error:
            raise unavailable(error) from error

    async def spool(self) -> Spool:
        """Return a new, empty spool. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
        self._refuse_if_closed()
        return await self._spools.do(None)

    def _new_spools(self, wanted: Sequence[None]) -> list[FileSpool | BlobUnavailable]:
        return [self._new_spool() for _ in wanted]

    def _new_spool(self) -> FileSpool | BlobUnavailable:
        try:
            return FileSpool.create(f"{self._path}/{SPOOL}", self._linux)
        except BlobUnavailable as error:
            return error

    async def put(self, spool: Spool, name: str) -> Location:
        """Keep what was spooled under a new location. Durable on return; concurrent calls share a sync.

        Raises ``BlobNoSpace`` or ``BlobUnavailable``; ``ValueError`` for a malformed name or a spool
        of another store, ``RuntimeError`` for one that was put, spoilt or closed before.
        """
        self._refuse_if_closed()
        location, file = _hand_over(spool, name)
        await self._puts.do(NewName(file, str(location)))
        return location

    def spool_now(self) -> Spool:
        """See ``BulkBlobs``."""
        self._refuse_if_closed()
        return FileSpool.create(f"{self._path}/{SPOOL}", self._linux)

    def pass_on(self, spool: Spool) -> PassedOn:
        """See ``BulkBlobs``. Raises ``RuntimeError`` for a spool that was put, spoilt or closed before."""
        return _of_this_kind(spool).pass_on()

    def take_over(self, spool: PassedOn) -> FileSpool:
        """See ``BulkBlobs``."""
        return FileSpool.take_over(spool, self._linux)

    def put_all(self, blobs: Sequence[tuple[Spool, str]]) -> list[Location]:
        """See ``BulkBlobs``; one sync for all. Raises what ``put`` does."""
        self._refuse_if_closed()
        taken: list[tuple[Location, int]] = []
        try:
            for spool, name in blobs:
                taken.append(_hand_over(spool, name))
        except BaseException:
            for _, file in taken:
                os.close(file)
            raise
        for outcome in self._commit.put([NewName(file, str(location)) for location, file in taken]):
            if outcome is not None:
                raise outcome
        return [location for location, _ in taken]

    def holds(self, location: Location, size: int) -> bool:
        """See ``BulkBlobs``."""
        try:
            facts = os.stat(str(location), dir_fd=self._root, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unavailable(error) from error
        return stat.S_ISREG(facts.st_mode) and facts.st_size == size

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob. Leaves the event loop only for a cold file.

        Raises ``BlobMissing``, ``BlobUnavailable``, or ``BlobDamaged`` if the span does not lie
        within the blob, or if what lies there is no file.
        """
        file, size, source = await self._open(location)
        if span is None:
            span = Span(0, size)
        elif span.start < 0 or span.length < 0 or span.end > size:
            os.close(file)
            raise BlobDamaged(location, f"bytes {span.start} to {span.end} were asked for, it has {size}")
        return FileReader(location, file, size, span, source=source, threads=self._threads, linux=self._linux)

    def open_now(self, location: Location) -> OpenFile | None:
        """See ``Immediate``."""
        kept = self._kept.get(location)
        if kept is not None:
            return kept
        try:
            file = self._linux.open_cached(self._root, str(location))
        except OSError:
            return None
        if file is None:
            return None
        facts = os.fstat(file)
        opened = OpenFile(file, facts.st_size, self._linux)
        if not stat.S_ISREG(facts.st_mode):
            return None
        self._kept.keep(location, opened)
        return opened

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises as ``open`` does."""
        file, size, _ = await self._open(location)
        os.close(file)
        return size

    async def forget(self, location: Location) -> None:
        """See ``Forgetful``."""
        file, size, _ = await self._open(location)
        try:
            os.posix_fadvise(file, 0, size, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)

    async def _open(self, location: Location) -> tuple[int, int, str]:
        """Return the open file, its size in bytes, and where opening it had to look."""
        path = str(location)
        source = "page cache"
        try:
            file = self._linux.open_cached(self._root, path)
            if file is None:
                source = "disk"
                file = await self._made_in_thread(lambda: os.open(path, READ_ONLY, dir_fd=self._root), os.close)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlobMissing(location) from error
        except OSError as error:
            if self._kept.make_way(error):
                return await self._open(location)
            if error.errno == errno.ELOOP:
                raise BlobDamaged(location, "it is a symbolic link") from error
            raise unreadable(error) from error
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            os.close(file)
            raise BlobDamaged(location, "it is not a file")
        return file, facts.st_size, source

    async def delete(self, location: Location) -> None:
        """Remove the blob for good. Durable on return; a missing one is no error. Concurrent calls share a sync."""
        self._refuse_if_closed()
        self._kept.drop(location)
        await self._deletes.do(str(location))

    async def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """Yield all locations in the order of their text form, those up to ``after`` left out.

        Holds one folder's names at a time. What is not named as this store names blobs is passed over.
        """
        names = folder_names(after.name[:3] if after else "000")
        while True:
            try:
                locations = await self._in_thread(partial(next_blobs, self._root, names))
            except OSError as error:
                raise unavailable(error) from error
            if not locations:
                return
            for location in locations:
                if after is None or location > after:
                    yield location

    async def note(self, name: str) -> bytes | None:
        """See ``Noted``: it is a file in the root. Raises ``BlobUnavailable``."""
        return await self._in_thread(partial(read_note, self._path, name))

    async def write_note(self, name: str, data: bytes) -> None:
        """See ``Noted``. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
        await self._in_thread(partial(write_note, self._path, name, data))

    @contextmanager
    def claim(self, location: Location) -> Iterator[bool]:
        """Hold the blob for the length of the context: see ``Claimable``. Blocks while it looks for the file."""
        try:
            file = self._claimed(location)
        except OSError as error:
            raise unavailable(error) from error
        try:
            yield file is not None
        finally:
            if file is not None:
                os.close(file)

    def _claimed(self, location: Location) -> int | None:
        try:
            file = os.open(str(location), READ_ONLY, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return file
        except BlockingIOError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    async def abort_unfinished(self, older_than_s: float) -> int:
        """See ``Unfinished``: removes the named spools of dead processes, whose locks tell them, not their age."""
        try:
            return await self._in_thread(partial(remove_stale_spools, f"{self._path}/{SPOOL}"))
        except OSError as error:
            raise unavailable(error) from error

    async def check(self) -> None:
        """Return if the root is in its place and takes new files; raise ``BlobUnavailable`` if not."""
        self._refuse_if_closed()
        try:
            in_place = await self._in_thread(lambda: os.path.samestat(os.stat(self._path), os.fstat(self._root)))
        except OSError as error:
            raise unavailable(error) from error
        if not in_place:
            raise BlobUnavailable(f"{self._path} is not the folder that was opened")
        (await self.spool()).close()

    async def close(self) -> None:
        """Finish the puts and deletes that were begun and let go of everything; repeats are harmless.

        Spools and readers that are still open belong to their holders.
        """
        if self._closed:
            return
        self._closed = True
        self._kept.close()
        await self._spools.close()
        await self._puts.close()
        await self._deletes.close()
        await asyncio.to_thread(self._threads.shutdown)
        self._commit.close()
        root, self._root = self._root, -1
        os.close(root)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BlobUnavailable("the blob store is closed")

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        self._refuse_if_closed()
        return await asyncio.wrap_future(self._threads.submit(work))

    async def _made_in_thread(self, make: Callable[[], Result], discard: Callable[[Result], None]) -> Result:
        """Return what ``make`` made; if the caller is cancelled meanwhile, discard it."""
        self._refuse_if_closed()
        making = self._threads.submit(make)
        try:
            return await asyncio.wrap_future(making)
        except asyncio.CancelledError:
            making.add_done_callback(lambda made: _discard(made, discard))
            raise


def _hand_over(spool: Spool, name: str) -> tuple[Location, int]:
    """Return a new location for a spool, and its open file."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"not 64 lowercase hex digits: {name!r}")
    spool = _of_this_kind(spool)
    # protection: locations-used-once
    return Location(name, secrets.token_bytes(TOKEN_BYTES)), spool.hand_over()


def _of_this_kind(spool: Spool) -> FileSpool:
    if not isinstance(spool, FileSpool):
        raise ValueError("the spool is of another kind of store")
    return spool


def _discard(made: Future[Result], discard: Callable[[Result], None]) -> None:
    if not made.cancelled() and made.exception() is None:
        discard(made.result())
