"""One of several processes that use a catalog at once: ``python -m tests.catalog.worker``.

It prints ``ready`` once the catalog is open, then a line for every file of its own that was added,
and one before each of these is removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

import msgspec

from stat7store.catalog.base import Query
from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Malformed, NotFound
from tests.catalog.making import address_of, new_file, read_entry
from tests.catalog.whole import raw

SHARED = 40


class Worker:
    """Adds, links, removes and reads: files of its own, and some that all workers share."""

    def __init__(self, catalog: LmdbCatalog, name: int, operations: int) -> None:
        self._catalog = catalog
        self._name = name
        self._random = random.Random(name)
        self._own = iter(range(name * 1_000_000, name * 1_000_000 + operations))

    async def run(self) -> None:
        """Work with eight tasks at a time until all is done."""
        await asyncio.gather(*(self._work() for _ in range(8)))

    async def _work(self) -> None:
        for number in self._own:
            await self._catalog.add(new_file(number, size=number % 1000, tags=(f"worker {self._name}",)))
            print("added", address_of(number), flush=True)
            shared = self._random.randrange(SHARED)
            try:
                await self._touch(shared, number)
            except (NotFound, Malformed):
                continue  # another worker was quicker
            if number % 5 == 0:
                print("removing", address_of(number), flush=True)
                await self._catalog.remove(address_of(number))
            else:
                assert (await read_entry(self._catalog, address_of(number))).locator.size == number % 1000

    async def _touch(self, shared: int, number: int) -> None:
        address = address_of(shared)
        match self._random.randrange(5):
            case 0:
                await self._catalog.remove(address)
            case 1:
                await self._catalog.update(
                    address, lambda record: msgspec.structs.replace(record, adjacency=(address_of(number),))
                )
            case 2:
                page = await self._catalog.query(Query(tag=f"worker {self._name}", sort="size"), 10)
                sizes = [entry.locator.size for entry in page.entries]
                assert sizes == sorted(sizes, reverse=True)
            case 3:
                await self._catalog.garbage(5)
                await self._catalog.forget_garbage(await self._catalog.garbage(2))
            case _:
                await self._catalog.add(new_file(shared, size=shared))


async def work(arguments: argparse.Namespace) -> None:
    """Open the catalog and work on it."""
    catalog = LmdbCatalog(arguments.folder, map_size=arguments.map_size)
    print("ready", flush=True)
    await Worker(catalog, arguments.name, arguments.operations).run()
    await catalog.close()


def hold(arguments: argparse.Namespace) -> None:
    """Hold a read (or write) transaction until killed."""
    with raw(arguments.folder, write=arguments.verb == "write"):
        print("ready", flush=True)
        time.sleep(600)


def main() -> None:
    """Read the arguments, and work or hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["work", "read", "write"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", type=int, default=1)
    parser.add_argument("--operations", type=int, default=100)
    parser.add_argument("--map-size", type=int, default=1 << 19)
    arguments = parser.parse_args()
    if arguments.verb == "work":
        asyncio.run(work(arguments))
    else:
        hold(arguments)


if __name__ == "__main__":
    main()
