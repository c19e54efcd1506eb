"""A dry run: all is read and asked, nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from stat7store.address import Address
from stat7store.importer.files import Found, Source
from stat7store.importer.gauge import Gauge
from stat7store.importer.outcome import Outcome
from stat7store.importer.reading import Hashed, Judge, hash_source, read_each

Present = Callable[[list[Address]], Awaitable[set[Address]]]


class Rehearsal:
    """A ``Destination`` that tells what another would do; of equal files it calls each new.

    ``name`` and ``present`` are that one's, ``judge`` refuses what it would refuse.
    """

    def __init__(
        self,
        name: str,
        present: Present,
        judge: Judge,
        *,
        threads: ThreadPoolExecutor,
        gauge: Gauge,
    ) -> None:
        self.name = name
        self._present = present
        self._judge = judge
        self._threads = threads
        self._gauge = gauge

    async def present(self, addresses: list[Address]) -> set[Address]:
        """See ``Destination``."""
        return await self._present(addresses)

    async def take(self, files: list[Found]) -> list[Outcome]:
        """See ``Destination``; ``stored`` means that it would be."""
        done: list[Hashed | Outcome] = []
        await asyncio.get_running_loop().run_in_executor(self._threads, read_each, files, self._hash, done)
        present = await self.present([one.address for one in done if isinstance(one, Hashed)])
        return [
            Outcome(one.found, "there" if one.address in present else "stored", one.address, facts=one.facts)
            if isinstance(one, Hashed)
            else one
            for one in done
        ]

    def _hash(self, found: Found) -> Hashed:
        with Source(found, self._gauge) as source:
            return hash_source(found, source, self._judge)
