"""Bit rot: what is stored, altered behind the store's back, on disk and in the catalog's values."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stat7store.catalog.codec import pack_number
from stat7store.catalog.tables import INDEX, RECORDS, Tables
from tests.catalog.whole import raw

Harm = Literal["flipped", "zeroed", "cut", "extended", "swapped", "locator", "record"]

OF_THE_CATALOG: tuple[Harm, ...] = ("locator", "record")


class Rot:
    """Harms the files of a store that nobody serves; ``victims`` tells which were harmed, and how."""

    def __init__(self, data: Path, chance: random.Random) -> None:
        self.victims: dict[str, Harm] = {}
        self._data = data
        self._chance = chance

    def harm(self, addresses: list[str]) -> None:
        """Harm all of these, each way in turn; a swap harms two."""
        waiting = iter(addresses)
        for address in waiting:
            harm = _HARMS[len(self.victims) % len(_HARMS)]
            if harm in OF_THE_CATALOG:
                self._alter_value(address, INDEX if harm == "locator" else RECORDS)
            elif harm == "swapped":
                self._swap(address, waiting)
            else:
                path = self._path(address)
                path.write_bytes(self._altered(path.read_bytes(), harm))
            self.victims.setdefault(address, harm)

    def _altered(self, data: bytes, harm: Harm) -> bytes:
        if harm == "flipped":
            return _flipped(data, self._chance)
        if harm == "zeroed":
            return bytes(len(data))
        if harm == "cut":
            return data[: self._chance.randrange(len(data))]
        return data + self._chance.randbytes(self._chance.randint(1, 5000))

    def _swap(self, address: str, others: Iterator[str]) -> None:
        other = next(others)
        one, two = self._path(address), self._path(other)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        self.victims[address] = self.victims[other] = "swapped"

    def _path(self, address: str) -> Path:
        (path,) = (self._data / "blobs" / address[:3]).glob(f"{address}.*")
        return path

    def _alter_value(self, address: str, table: str) -> None:
        """Turn over one bit of a value: by LMDB itself, or in the pages of its file."""
        folder, key = self._data / "catalog", bytes.fromhex(address)
        with raw(folder, write=True) as behind:
            if table == RECORDS:
                key = pack_number(Tables(behind.table, {}).locator(key).number)
            value = behind.table(table).get(key)
            assert value is not None
            value = bytes(value)
            altered = _flipped(value, self._chance)
            if self._chance.random() < 0.5:
                assert behind.table(table).put(key, altered)
                return
        pages = (folder / "data.mdb").read_bytes()
        assert value in pages
        file = os.open(folder / "data.mdb", os.O_WRONLY)  # in place, every copy: which one counts LMDB knows
        try:
            at = pages.find(value)
            while at >= 0:
                os.pwrite(file, altered, at)
                at = pages.find(value, at + 1)
        finally:
            os.close(file)


_HARMS: tuple[Harm, ...] = ("flipped", "zeroed", "cut", "extended", "swapped", "swapped", *OF_THE_CATALOG)


def _flipped(data: bytes, chance: random.Random) -> bytes:
    altered = bytearray(data)
    altered[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(altered)
