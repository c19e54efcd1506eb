"""Opaque cursors: where a page ended, bound to the query that it belongs to."""

from __future__ import annotations

import base64

import xxhash

from stat7store.catalog.base import Query
from stat7store.catalog.indexes import LAST_NUMBER, NUMERIC_KEY_BYTES, Position
from stat7store.errors import Malformed

_CHECK_BYTES = 8
_NUMBER_BYTES = 8


def encode_cursor(query: Query, position: Position) -> str:
    """Return a cursor of 32 URL-safe characters that goes on after ``position``."""
    place = position.key + position.number.to_bytes(_NUMBER_BYTES, "big")
    return base64.urlsafe_b64encode(_check(query, place) + place).decode()


def decode_cursor(query: Query, cursor: str) -> Position:
    """Read what ``encode_cursor`` wrote for the same query. Raises ``Malformed`` for all else."""
    try:
        place = base64.urlsafe_b64decode(cursor)[_CHECK_BYTES:]
    except ValueError:
        place = b""
    position = Position(place[:NUMERIC_KEY_BYTES], int.from_bytes(place[NUMERIC_KEY_BYTES:], "big"))
    # base64 has several spellings of the same bytes: only the one that was given out is taken back
    if position.number > LAST_NUMBER or encode_cursor(query, position) != cursor:
        raise Malformed(
            "not a cursor of this query",
            expected="the cursor of an earlier page, with the same filters, sort and direction as that page",
        )
    return position


def _check(query: Query, place: bytes) -> bytes:
    return xxhash.xxh3_64_digest(repr(query).encode() + place)
