"""The public async client of a STAT7 store.

    from stat7store.client import Client

    async with Client("http://127.0.0.1:7377") as client:
        stored = await client.put("astronaut.png")
        fetched = await client.get(stored.address)
        print(stored.uri, fetched.retrieval.first_byte_ms)

Every refusal by the server, and every failure to reach it, is raised as a class of
``stat7store.errors``.
"""

from stat7store.client.answers import (
    Existence,
    FilePage,
    Health,
    MediaFacts,
    RealmTotals,
    StageSummary,
    Stats,
    StoredFile,
)
from stat7store.client.body import Body, Retrieval
from stat7store.client.ranges import ByteRange
from stat7store.client.session import Client, Fetched, Filters

__all__ = [
    "Body",
    "ByteRange",
    "Client",
    "Existence",
    "Fetched",
    "FilePage",
    "Filters",
    "Health",
    "MediaFacts",
    "RealmTotals",
    "Retrieval",
    "StageSummary",
    "Stats",
    "StoredFile",
]
