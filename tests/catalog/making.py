"""Files for the catalog, made from numbers: the same number makes the same file."""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from stat7store.address import Address
from stat7store.catalog.base import Catalog, NewFile, Page, Query
from stat7store.record import Entry, FileRecord, Place
from storage.base import Location


def address_of(number: int) -> Address:
    """Return the address that ``new_file`` gives this number."""
    return Address(hashlib.sha256(str(number).encode()).digest())


def new_location(address: Address) -> Location:
    """Return a location that was never used before."""
    return Location(str(address), secrets.token_bytes(8))


def new_place(address: Address, backend: int = 0) -> Place:
    """Return a place that was never used before."""
    return Place(new_location(address), backend)


def new_file(number: int, *, size: int = 1000, media_type: str = "image/png", **fields: object) -> NewFile:
    """Return a file with these fields in its record, at a new location."""
    address = address_of(number)
    record = FileRecord(address=address, stored_at=1_700_000_000_000 + number, filename=f"{number}.png", realm="image")
    return NewFile(msgspec.structs.replace(record, **fields), size, media_type, new_location(address))


async def read_entry(catalog: Catalog, address: Address) -> Entry:
    """Return what the index and the metadata stage say of an address."""
    locator = await catalog.lookup(address)
    return Entry(locator, await catalog.record(address, locator))


async def all_pages(catalog: Catalog, query: Query, limit: int) -> list[Page]:
    """Return every page of a query, from the first to the last."""
    pages = [await catalog.query(query, limit)]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await catalog.query(query, limit, cursor))
        assert pages[-1].cursor != cursor, "a page leads to itself"
    return pages


async def listed(catalog: Catalog, query: Query | None = None, limit: int = 100) -> list[Entry]:
    """Return every entry of a query, in its order."""
    return [entry for page in await all_pages(catalog, query or Query(), limit) for entry in page.entries]
