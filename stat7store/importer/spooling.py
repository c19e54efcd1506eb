"""Reading files and spooling what is new of them: the work of the processes beside the one that commits."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Literal, NamedTuple

import msgspec

from stat7store.address import Address, Hasher
from stat7store.bulk import Bulk
from stat7store.errors import Damaged, NoSpace, Unavailable
from stat7store.importer.channel import Channel
from stat7store.importer.files import Facts, Folder, Found, Source
from stat7store.importer.gauge import Gauge
from stat7store.importer.outcome import Kind, Outcome
from stat7store.importer.reading import failure, read_each
from stat7store.importer.walk import NEW_BYTES
from stat7store.opening import open_store
from stat7store.room import Pledges, Promise
from stat7store.settings import Settings
from stat7store.translate import blob_errors
from storage.base import PassedOn, Spool
from storage.linux import keep_free_memory

_NOTHING = Facts(0, 0, 0)


class Wanted(msgspec.Struct, array_like=True, gc=False):
    """A file to be read: by its name, in the folder that is this one of the message's files."""

    folder: int
    name: bytes
    is_link: bool


class Task(msgspec.Struct, array_like=True):
    """Files to be read. ``settled`` are the numbers of earlier tasks whose files are in the catalog by now."""

    number: int
    files: list[Wanted]
    settled: list[int]


class Brought(msgspec.Struct, array_like=True, gc=False):
    """What became of the file at this place of a task.

    ``stored``: its bytes wait to be made durable, in the spool that is this one of the message's files.
    """

    place: int
    kind: Kind
    reason: str = ""
    facts: Facts = _NOTHING
    address: bytes = b""
    media_type: str = ""
    spool: int = 0
    spool_name: str = ""


class Answer(msgspec.Struct, array_like=True):
    """What became of the files of a task; of fewer if the import was stopped.

    With an ``error`` nothing can be brought now; ``no_space`` tells of which kind it is.
    """

    files: list[Brought]
    error: str = ""
    no_space: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(Task).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


async def spool_for(channel: Channel, settings: Settings, pledges: Pledges, gauge: Gauge) -> None:
    """Answer tasks until the other end of the channel is closed. It has a process to itself, and so may block.

    The store is opened when there is something to do.
    """
    message, folders = channel.receive()
    if not message:
        return
    async with open_store(settings, pledges) as store:
        spooling = _Spooling(store.bulk(), gauge)
        gc.freeze()
        keep_free_memory(2 * NEW_BYTES)  # what one task takes, the next one takes again
        while message:
            answer, spools = spooling.answer(decode_task(message), [Folder.of(file) for file in folders])
            channel.send(encode(answer), spools)
            for spool in spools:
                os.close(spool)  # whoever received it holds it now, and its lock
            message, folders = channel.receive()


class _Whole(NamedTuple):
    """A small file, read to its end; ``data`` is all of it."""

    facts: Facts
    address: Address
    media_type: str
    data: bytes


class _Spooled(NamedTuple):
    """A file whose bytes are in a spool."""

    facts: Facts
    address: Address
    media_type: str
    spool: PassedOn


_Read = _Whole | _Spooled | Outcome


class _Spooling:
    def __init__(self, bulk: Bulk, gauge: Gauge) -> None:
        self._bulk = bulk
        self._gauge = gauge
        self._promises: dict[int, list[Promise]] = {}  # by task: room for what is not in the catalog yet

    def answer(self, task: Task, folders: Sequence[Folder]) -> tuple[Answer, list[int]]:
        """Return what became of the files, and the open files of their spools, for the caller to close."""
        for number in task.settled:
            for promise in self._promises.pop(number):
                promise.close()
        promises = self._promises[task.number] = []
        read: list[_Read] = []
        try:
            files = [Found(folders[one.folder], one.name, _NOTHING, one.is_link) for one in task.files]
            read_each(files, lambda found: self._read(found, promises), read)
            self._settle(files, read, promises)
        except Unavailable as error:
            for one in _spooled(read):
                os.close(one.spool.file)
            return Answer([], str(error), isinstance(error, NoSpace)), []
        spools = [one.spool.file for one in _spooled(read)]
        numbers = iter(range(len(spools)))
        return Answer([_brought(place, one, numbers) for place, one in enumerate(read)]), spools

    def _read(self, found: Found, promises: list[Promise]) -> _Read:
        with Source(found, self._gauge) as source:
            head = source.head()
            media_type = self._bulk.judge(head, source.facts.size)
            if len(head) == source.facts.size:
                source.check()
                return _Whole(source.facts, Address.of(head), media_type, head)
            hasher = Hasher()
            hasher.update(head)
            with ExitStack() as unless_read:
                promise = self._bulk.promise(source.facts.size)
                unless_read.callback(promise.close)
                spool = unless_read.enter_context(closing(self._bulk.spool()))
                _append(spool, head, promise)
                for block in source.rest():
                    hasher.update(block)
                    _append(spool, block, promise)
                source.check()
                passed = self._bulk.pass_on(spool)
                unless_read.pop_all()
        promises.append(promise)
        return _Spooled(source.facts, hasher.address(), media_type, passed)

    def _settle(self, files: Sequence[Found], read: list[_Read], promises: list[Promise]) -> None:
        """Put in the place of each small file what becomes of it, after one look at the catalog for all of them."""
        whole = {place: one for place, one in enumerate(read) if isinstance(one, _Whole)}
        standing = self._standing({one.address for one in whole.values()})
        promise = self._bulk.promise(sum(len(one.data) for one in whole.values() if one.address not in standing))
        promises.append(promise)
        for place, one in whole.items():
            found = standing.get(one.address)
            if isinstance(found, Damaged):
                read[place] = failure(files[place], found)
            elif found:
                read[place] = Outcome(files[place], "there", one.address, facts=one.facts)
            else:
                with closing(self._bulk.spool()) as spool:
                    _append(spool, one.data, promise)
                    read[place] = _Spooled(one.facts, one.address, one.media_type, self._bulk.pass_on(spool))

    def _standing(self, addresses: Collection[Address]) -> dict[Address, Literal[True] | Damaged]:
        """Return those of these files that are stored, and those whose entry is damaged: that one fails, no other."""
        try:
            return dict.fromkeys(self._bulk.held(addresses), True)
        except Damaged as error:
            if len(addresses) == 1:
                return dict.fromkeys(addresses, error)
        standing: dict[Address, Literal[True] | Damaged] = {}
        for address in addresses:
            standing |= self._standing({address})
        return standing


def _append(spool: Spool, data: bytes | memoryview, promise: Promise) -> None:
    with blob_errors():
        spool.append(data)
    promise.wrote(len(data))


def _spooled(read: Iterable[_Read]) -> list[_Spooled]:
    return [one for one in read if isinstance(one, _Spooled)]


def _brought(place: int, one: _Read, numbers: Iterator[int]) -> Brought:
    if isinstance(one, _Spooled):
        return Brought(
            place, "stored", "", one.facts, bytes(one.address), one.media_type, next(numbers), one.spool.name
        )
    assert isinstance(one, Outcome)  # of what was whole nothing is left
    return Brought(place, one.kind, one.reason, one.facts or _NOTHING, bytes(one.address or b""))
