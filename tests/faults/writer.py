"""A small program that uploads and deletes without end, and says of each file what it was told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from stat7store.address import Address
from stat7store.errors import Stat7Error
from stat7store.opening import open_store
from stat7store.settings import Settings
from stat7store.store import Store
from tests.faults.clients import Files

Verb = Literal["asks", "stored", "gone", "refused"]


class Said(NamedTuple):
    """``asks`` comes before anything is done with a file, and one of the others when it is."""

    verb: Verb
    number: int


class Order(NamedTuple):
    """What to do: so many uploads at a time, with numbers from ``first`` on, and deletes of ``doomed`` between them."""

    width: int
    first: int
    doomed: list[int]


def run(connection: Connection, data: Path) -> None:
    """Open the store and follow the order that comes; whoever gave it ends the process."""
    asyncio.run(_run(connection, data))


async def _run(connection: Connection, data: Path) -> None:
    files = Files()
    async with open_store(Settings(data=data)) as store:
        connection.send(None)
        order: Order = connection.recv()
        numbers = itertools.count(order.first)
        await asyncio.gather(
            _sweep(store), *(_work(connection, store, files, numbers, order.doomed) for _ in range(order.width))
        )


async def _work(connection: Connection, store: Store, files: Files, numbers: Iterator[int], doomed: list[int]) -> None:
    for number in numbers:
        connection.send(Said("asks", number))
        try:
            async with store.upload(f"{number}.jpg") as upload:
                await upload.write(files.data(number))
                await upload.commit()
        except Stat7Error:
            connection.send(Said("refused", number))
        else:
            connection.send(Said("stored", number))
        if doomed and number % 2:
            await _delete(connection, store, files, doomed.pop())


async def _delete(connection: Connection, store: Store, files: Files, number: int) -> None:
    connection.send(Said("asks", number))
    try:
        await store.delete(Address.of(files.data(number)))
    except Stat7Error:
        connection.send(Said("refused", number))
    else:
        connection.send(Said("gone", number))


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(0.1)
        try:
            await store.sweep_garbage()
            await store.sweep_orphans()
        except Stat7Error:
            return
