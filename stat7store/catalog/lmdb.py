"""The embedded catalog: LMDB, for all processes of one machine at once, with nothing to run beside it.

Reads see a snapshot and take no lock between processes; the short ones run on the event loop itself,
each in a transaction of its own that never outlives one step of the loop. Writes of one process
share transactions (group commit), and those of several processes take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import lmdb
import msgspec

from stat7store.address import Address
from stat7store.catalog import codec
from stat7store.catalog.base import Added, Counters, Elsewhere, Intent, MapUse, NewFile, Page, Query, Surveyed
from stat7store.catalog.changes import Changes
from stat7store.catalog.indexes import INDEXES
from stat7store.catalog.scan import find_page
from stat7store.catalog.tables import (
    INDEX,
    META,
    NUMBERED_TABLES,
    PLAIN_TABLES,
    RECORDS,
    Tables,
    not_found,
)
from stat7store.errors import Damaged, NoSpace, Stat7Error, Unavailable
from stat7store.record import Entry, FileRecord, Locator, Place
from stat7store.timing import now_ns
from storage.group import GroupCommit
from storage.linux import set_aside
from storage.recent import Recent

FORMAT = b"3"
LOCK_FILE = "lock.mdb"
_DATA_FILE = "data.mdb"

T = TypeVar("T")
_Job = Callable[[Changes], object]
_FORMAT_KEY = b"format"
_MAX_READERS = 1024
_HARDLY_ANY_ROOM = 1 << 20
_SET_ASIDE_BYTES = 8 << 20  # a change writes some pages of 4 KiB anew before the old ones are free
_KNOWN_ENTRIES = 4096  # about 1 KB each
_THREAD_MASK = 0x3FFFFFFF  # FUTEX_TID_MASK, linux/futex.h


class LmdbCatalog:
    """A catalog in a folder of a local filesystem; see ``Catalog``.

    Open it once in a process, and after any fork. The memory map grows by itself.
    """

    def __init__(self, path: Path, map_size: int = 1 << 30, *, scan_limit: int = 20_000) -> None:
        """Open the catalog in the folder ``path``, or make one.

        ``map_size``: bytes of address space to begin with; it bounds nothing. ``scan_limit``: how
        many entries one call of ``query`` looks at. Raises ``Unavailable`` if the folder cannot be
        used, or holds another format.
        """
        self._path = path
        self._scan_limit = scan_limit
        self._media_types: dict[int, str] = {}
        # The map may move only while no transaction of this process is under way: every kind of
        # transaction has its lock, and who moves the map takes all three, in this order. The commonest
        # reads try it without: py-lmdb refuses what would meet a move, and then they take the lock, too.
        # Their transactions end when nobody holds them any more, which is at once.
        self._writing = threading.Lock()
        self._querying = threading.Lock()
        self._reading = threading.Lock()
        self._map_size = map_size
        self._known: Recent[bytes, _Known] = Recent(_KNOWN_ENTRIES)
        self._counts = {"map_growths": 0, "stale_readers": 0}
        self._open()
        self._commits: GroupCommit[_Job, object] = GroupCommit(self._commit, name="catalog")
        # One query at a time: more would only share the interpreter, and keep it from the event loop.
        self._queries = ThreadPoolExecutor(max_workers=1, thread_name_prefix="catalog query")

    # The index and metadata stages

    async def lookup(self, address: Address) -> Locator:
        """See ``Catalog``; about a microsecond, on the event loop."""
        try:
            value = self._begin(self._index).get(address)
            if value is None:
                raise not_found(address)
            return codec.decode_locator(address, value, self._media_types)
        except (lmdb.Error, codec.UnknownMediaTypeError):
            return await self._read(partial(Tables.locator, address=address))

    async def record(self, address: Address, locator: Locator) -> FileRecord:
        """See ``Catalog``; some microseconds, on the event loop."""
        key = codec.pack_number(locator.number)
        try:
            value = self._begin(self._records).get(key)
        except lmdb.Error:
            value = await self._read(lambda tables: tables.cursor(RECORDS).get(key))
        if value is None:
            raise not_found(address)
        record = codec.decode_record(locator.number, value)
        if record.address != address:
            raise Damaged("the index and the records of the catalog disagree", address=str(address))
        return record

    def find_now(self, address: bytes) -> tuple[Entry, int] | None:
        """See ``ImmediateCatalog``; one transaction, which looks up nothing if nothing has changed since the last.

        What is decoded already is not decoded again.
        """
        known = self._known.get(address)
        try:
            transaction = self._begin(self._index)
            snapshot = transaction.id()
            if known is not None and known.snapshot == snapshot:
                return known.entry, now_ns()
            located = transaction.get(address)
            if located is None:
                return None
            if known is not None and located == known.located:
                locator, key = known.entry.locator, known.key
            else:
                locator = codec.decode_locator(address, located, self._media_types)
                key = codec.pack_number(locator.number)
            looked_up = now_ns()
            recorded = transaction.get(key, None, self._records)
            if known is not None and locator is known.entry.locator and recorded == known.recorded:
                known.snapshot = snapshot
                return known.entry, looked_up
            record = None if recorded is None else codec.decode_record(locator.number, recorded)
        except (lmdb.Error, Damaged, Unavailable, codec.UnknownMediaTypeError):
            return None
        if recorded is None or record is None or record.address != address:
            return None
        entry = Entry(locator, record)
        self._known.put(address, _Known(located, key, recorded, entry, snapshot))
        return entry, looked_up

    # Changes

    async def intend(self, intent: Intent) -> None:
        """See ``Catalog``."""
        await self._change(lambda changes: changes.intend(intent))

    async def add(self, file: NewFile) -> Added:
        """See ``Catalog``."""
        return await self._change(lambda changes: changes.add(file))

    def add_many(self, files: Sequence[NewFile]) -> list[Added]:
        """See ``BulkCatalog``; when one is refused, none is added.

        It is fastest for tens of thousands at a time, in the order of their addresses.
        """
        return self._commit_alone(lambda changes: [changes.add(file) for file in files])

    def add_each(self, files: Sequence[NewFile]) -> list[Added | Stat7Error]:
        """See ``BulkCatalog``."""
        outcomes = self._commit([partial(_add, file=file) for file in files])
        return cast("list[Added | Stat7Error]", outcomes)

    async def update(
        self, address: Address, change: Callable[[FileRecord], FileRecord], revision: int | None = None
    ) -> Entry:
        """See ``Catalog``. ``change`` runs in the writer's thread."""
        return await self._change(lambda changes: changes.update(address, change, revision))

    async def remove(self, address: Address) -> None:
        """See ``Catalog``."""
        await self._change(lambda changes: changes.remove(address))

    async def relocate(self, address: Address, old: Place, new: Place, *, intended: bool = False) -> bool:
        """See ``Catalog``."""
        return await self._change(lambda changes: changes.relocate(address, old, new, intended=intended))

    async def mark_damaged(self, address: Address, place: Place) -> None:
        """See ``Catalog``."""
        await self._change(lambda changes: changes.mark(address, place, damaged=True))

    async def mark_sound(self, address: Address, place: Place) -> bool:
        """See ``Catalog``."""
        return await self._change(lambda changes: changes.mark(address, place, damaged=False))

    async def forget_garbage(self, places: Sequence[Place]) -> None:
        """See ``Catalog``."""
        await self._change(lambda changes: changes.forget_garbage(places))

    async def discard(self, place: Place) -> bool:
        """See ``Catalog``."""
        return await self._change(lambda changes: changes.discard(place))

    async def withdraw_intent(self, place: Place) -> bool:
        """See ``Catalog``."""
        return await self._change(lambda changes: changes.withdraw_intent(place))

    def rebuild_indexes(self) -> None:
        """Make the secondary indexes and the totals anew from the index and the records. Blocks.

        Raises ``Damaged`` for the first value that cannot be trusted; nothing is changed then.
        """
        self._commit_alone(lambda changes: changes.rebuild())

    # Copies of the whole

    def copy(self, folder: Path) -> None:
        """Make a copy in a new, empty folder, as the catalog is at one moment. Blocks.

        It goes on while any process writes. Raises ``NoSpace`` or ``Unavailable``.
        """
        while True:
            try:
                with self._querying:
                    # compacting would crash the process at the first page of duplicates of one size
                    self._environment.copy(str(folder), compact=False)
            except lmdb.MapResizedError:
                (folder / "data.mdb").unlink(missing_ok=True)  # it was begun
                self._follow()
                continue
            except lmdb.Error as error:
                raise self._unavailable(error) from error
            return

    def settle(self, places: Mapping[Address, Place], lost: Collection[Address]) -> None:
        """Say where files are in a copy of the store, undamaged, and that it lacks others. Blocks.

        It is for a catalog that no store uses yet: what they pointed at before is not made garbage.
        Raises ``NotFound`` or ``Damaged``; nothing is changed then.
        """
        self._commit_alone(lambda changes: changes.settle(places, lost))

    def forget_queues(self) -> None:
        """Forget all garbage and all intents: in a copy of the store they are about blobs of another. Blocks."""
        self._commit_alone(lambda changes: changes.forget_queues())

    def purge(self) -> list[Address]:
        """Drop every entry that cannot be read, and return their addresses. Blocks.

        Secondary indexes and totals are made anew. Raises ``Damaged`` if not even the media types can be read.
        """
        return self._commit_alone(lambda changes: changes.purge())

    # Other reads

    def lookup_many(self, addresses: Iterable[Address]) -> dict[Address, Locator]:
        """See ``BulkCatalog``; one transaction, so ask for hundreds rather than for all."""

        def find(tables: Tables) -> dict[Address, Locator]:
            return {address: tables.locator(address) for address in addresses if tables.knows(address)}

        while True:
            try:
                return self._read_once(self._reading, find)
            except lmdb.MapResizedError:
                self._follow()

    def stored_bytes(self) -> int:
        """Return how many bytes all files have together; some microseconds, in any thread. Raises ``Unavailable``."""
        while True:
            try:
                return self._read_once(self._reading, Tables.counters).bytes
            except lmdb.MapResizedError:
                self._follow()

    async def present(self, addresses: Sequence[Address]) -> set[Address]:
        """See ``Catalog``."""
        return await self._read(lambda tables: tables.known(addresses))

    async def query(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """See ``Catalog``; in a thread of its own."""
        find = partial(find_page, query=query, limit=limit, cursor=cursor, scan_limit=self._scan_limit)
        return await self._find(find)

    async def elsewhere(self, backend: int, limit: int, after: Address | None = None) -> Elsewhere:
        """See ``Catalog``; in a thread of its own."""
        return await self._find(lambda tables: tables.elsewhere(backend, limit, after, self._scan_limit))

    async def survey(self, limit: int, after: Address | None = None) -> list[Surveyed]:
        """See ``Catalog``; in a thread of its own."""
        return await self._find(lambda tables: tables.survey(limit, after))

    async def counters(self) -> Counters:
        """See ``Catalog``."""
        return await self._read(Tables.counters)

    async def garbage(self, limit: int, leaving: Collection[int] = ()) -> list[Place]:
        """See ``Catalog``."""
        return await self._read(lambda tables: tables.garbage(limit, leaving))

    async def garbage_among(self, places: Collection[Place]) -> set[Place]:
        """See ``Catalog``."""
        return await self._read(lambda tables: tables.garbage_among(places))

    async def intents(self, before: int) -> list[Intent]:
        """See ``Catalog``; in a thread of its own."""
        return await self._find(lambda tables: tables.intents(before))

    # Housekeeping

    async def maintain(self) -> None:
        """Clear the read transactions of dead processes, which make the file grow, and set room aside for that."""
        await asyncio.to_thread(self._clear_dead_readers)
        await asyncio.to_thread(self._set_room_aside)

    def counts(self) -> dict[str, int]:
        """See ``MappedCatalog``."""
        return dict(self._counts)

    def map_use(self) -> MapUse:
        """See ``MappedCatalog``."""
        try:
            with self._reading:
                facts, page_bytes = self._environment.info(), self._environment.stat()["psize"]
        except lmdb.Error as error:
            raise self._unavailable(error) from error
        return MapUse(facts["map_size"], (facts["last_pgno"] + 1) * page_bytes)

    async def check(self) -> None:
        """See ``Catalog``."""
        try:
            await self.counters()
        except Damaged as error:
            raise Unavailable(str(error)) from error

    async def close(self) -> None:
        """Finish the writes and queries that were begun, then close the folder."""
        await self._commits.close()
        await asyncio.to_thread(self._queries.shutdown)
        with self._writing, self._querying, self._reading:
            self._environment.close()

    # Reading

    async def _read(self, read: Callable[[Tables], T]) -> T:
        while True:
            try:
                return self._read_once(self._reading, read)
            except lmdb.MapResizedError:
                await asyncio.to_thread(self._follow)

    async def _find(self, read: Callable[[Tables], T]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._queries, self._read_once, self._querying, read)
            except lmdb.MapResizedError:
                await asyncio.to_thread(self._follow)

    def _read_once(self, lock: threading.Lock, read: Callable[[Tables], T]) -> T:
        try:
            with lock, self._environment.begin() as transaction:
                return read(Tables(partial(self._cursor, transaction), self._media_types))
        except lmdb.MapResizedError:
            raise
        except lmdb.Error as error:
            raise self._unavailable(error) from error

    def _cursor(self, transaction: lmdb.Transaction[bytes], table: str) -> lmdb.Cursor[bytes]:
        return transaction.cursor(self._databases[table])

    # Writing

    async def _change(self, change: Callable[[Changes], T]) -> T:
        return cast("T", await self._commits.do(change))

    def _commit_alone(self, change: Callable[[Changes], T]) -> T:
        (outcome,) = self._commit([change])
        if isinstance(outcome, BaseException):
            raise outcome
        return cast("T", outcome)

    def _commit(self, jobs: Sequence[_Job]) -> list[object]:
        with self._writing:
            try:
                return self._transact(jobs)
            except _HalfDone as half:
                if len(jobs) == 1:
                    return [half.__cause__]
                # whoever it was, the others must not suffer: each by itself
        return [outcome for job in jobs for outcome in self._commit([job])]

    def _transact(self, jobs: Sequence[_Job]) -> list[object]:
        try:
            while True:
                try:
                    return self._try(jobs)
                except lmdb.MapFullError:
                    self._move_map(2 * self._environment.info()["map_size"])
                    self._counts["map_growths"] += 1
                except lmdb.MapResizedError:
                    self._move_map(0)
        except lmdb.Error as error:
            refusal = self._unavailable(error)
            refusal.__cause__ = error
            # protection: reopen-catalog-after-failed-commit
            self._reopen()
            return [refusal] * len(jobs)

    def _try(self, jobs: Sequence[_Job]) -> list[object]:
        with self._environment.begin(write=True) as transaction:
            changes = Changes(partial(self._cursor, transaction), partial(self._clear, transaction))
            outcomes = [_outcome(job, changes) for job in jobs]
            try:
                changes.finish()
            except Stat7Error as error:
                raise _HalfDone from error
        return outcomes

    def _clear(self, transaction: lmdb.Transaction[bytes], table: str) -> None:
        transaction.drop(self._databases[table], delete=False)

    # The environment

    def _open(self) -> None:
        while True:
            try:
                self._path.mkdir(mode=0o700, exist_ok=True)
                # protection: sync-catalog
                self._environment = lmdb.open(
                    str(self._path),
                    map_size=self._map_size,
                    max_dbs=len(PLAIN_TABLES) + len(NUMBERED_TABLES) + len(INDEXES),
                    max_readers=_MAX_READERS,
                    max_spare_txns=1,
                    mode=0o600,
                )
                try:
                    self._open_tables()
                except BaseException:
                    self._environment.close()
                    raise
            except lmdb.MapResizedError:
                continue  # another process has just grown the map: the file says how large it is now
            except (lmdb.Error, OSError) as error:
                raise Unavailable(f"the catalog in {self._path} cannot be opened: {error}") from error
            return

    def _open_tables(self) -> None:
        environment = self._environment
        with environment.begin(write=True) as transaction:
            open_table = partial(environment.open_db, txn=transaction)
            meta = open_table(META.encode())
            found = transaction.get(_FORMAT_KEY, db=meta)
            if found is None:
                transaction.put(_FORMAT_KEY, FORMAT, db=meta)
            elif found != FORMAT:
                raise Unavailable(
                    f"the catalog in {self._path} is of format {found.decode(errors='replace')}; "
                    f"this version reads format {FORMAT.decode()}: {_advice(found)}"
                )
            self._databases = {name: open_table(name.encode()) for name in PLAIN_TABLES}
            self._databases |= {name: open_table(name.encode(), integerkey=True) for name in NUMBERED_TABLES}
            for index in INDEXES:
                self._databases[index.table] = open_table(
                    index.table.encode(), dupsort=True, dupfixed=True, integerdup=not index.distinct
                )
        self._begin = environment.begin
        self._index = self._databases[INDEX]
        self._records = self._databases[RECORDS]

    def _reopen(self) -> None:
        # Whether a commit that raised is on disk cannot be known from memory, and LMDB may refuse
        # every write after it. Nobody was told that it succeeded; what there is shows now.
        with self._querying, self._reading, contextlib.suppress(Unavailable):  # the next write tries again
            self._environment.close()
            self._known = Recent(_KNOWN_ENTRIES)  # the number of the transaction that failed may be given again
            self._open()

    def _follow(self) -> None:
        with self._writing:
            self._move_map(0)

    def _move_map(self, map_size: int) -> None:
        """Make the map this large; 0: as large as another process has made it. Needs ``_writing``."""
        with self._querying, self._reading:
            self._environment.set_mapsize(map_size)

    def _clear_dead_readers(self) -> None:
        try:
            with self._querying:  # a writer may have to wait for another process, and this must not
                self._counts["stale_readers"] += self._environment.reader_check()
        except lmdb.Error as error:
            raise self._unavailable(error) from error

    def _set_room_aside(self) -> None:
        """Keep disk blocks ready behind the end of the file, so that deletes succeed on a disk that others filled."""
        # no error: the disk is full already, or the filesystem cannot do that
        with contextlib.suppress(OSError):
            file = os.open(self._path / _DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
            try:
                set_aside(file, os.fstat(file).st_size, _SET_ASIDE_BYTES)
            finally:
                os.close(file)

    def _unavailable(self, error: lmdb.Error) -> Unavailable:
        full = error.code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        # LMDB reports a write that the full disk cut short as any other that failed
        if full or (error.code == errno.EIO and shutil.disk_usage(self._path).free < _HARDLY_ANY_ROOM):
            return NoSpace(f"no room left for the catalog in {self._path}")
        return Unavailable(f"the catalog in {self._path} cannot do this now: {error}")


def writer_offset() -> int:
    """Return where in ``lock.mdb`` the word stands that names the writing thread, in bytes; see ``writer_in``.

    It depends on the processor and the C library, so it is looked up in a small environment made for
    that. Needs no fork before or after. Raises ``Unavailable`` if there is no such word.
    """
    thread = threading.get_native_id()
    try:
        with tempfile.TemporaryDirectory() as folder, lmdb.open(folder) as environment:
            lock = Path(folder) / LOCK_FILE
            with environment.begin(write=True):
                held = lock.read_bytes()
            free = lock.read_bytes()
    except (lmdb.Error, OSError) as error:
        raise Unavailable(f"LMDB's lock file cannot be looked at: {error}") from error
    for offset in range(0, len(held) - 3, 4):
        if writer_in(held, offset) == thread and writer_in(free, offset) == 0:
            return offset
    raise Unavailable("LMDB's lock file does not name the thread that writes")


def writer_in(lock_file: bytes, offset: int) -> int:
    """Return the id of the thread that held the write lock when this was read; 0: none did."""
    if len(lock_file) < offset + 4:
        return 0
    word: int = struct.unpack_from("=I", lock_file, offset)[0]
    return word & _THREAD_MASK


class _Known(msgspec.Struct, gc=False):
    """An entry, the values it was decoded from, whose checksums held, and the latest snapshot that has them."""

    located: bytes
    key: bytes
    recorded: bytes
    entry: Entry
    snapshot: int  # the number of the transaction that made it


class _HalfDone(Exception):
    """An operation failed after its first change; its cause says why."""


def _advice(found: bytes) -> str:
    if found.isdigit() and int(found) > int(FORMAT):
        return "a newer version of STAT7 Store has written it; use that version"
    return "make it anew from the blobs, with the server stopped: stat7store rebuild"


def _add(changes: Changes, file: NewFile) -> Added:
    return changes.add(file)


def _outcome(job: _Job, changes: Changes) -> object:
    before = changes.count
    try:
        return job(changes)
    except lmdb.Error:
        raise
    except Exception as error:
        if changes.count != before:
            raise _HalfDone from error
        return error
