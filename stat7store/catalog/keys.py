"""Keys of the secondary indexes, which sort as the values do that they stand for."""

from __future__ import annotations

import struct
from functools import lru_cache

import xxhash

from stat7store.errors import Malformed

LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
TEXT_BYTES = 240  # LMDB's keys have at most 511

_UNSIGNED = struct.Struct(">Q")
_FLOAT = struct.Struct(">d")
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def integer_key(value: int) -> bytes:
    """Return 8 bytes that sort as the integers do; those beyond 64 bits fall on the nearest end."""
    return _UNSIGNED.pack(min(max(value, LEAST), GREATEST) - LEAST)


@lru_cache(maxsize=4096)
def float_key(value: float) -> bytes:
    """Return 8 bytes that sort as the floats do; −0.0 is 0.0. Raises ``Malformed`` for NaN."""
    if value != value:  # noqa: PLR0124  NaN alone differs from itself
        raise Malformed("NaN has no place in an order", expected="a number")
    bits: int = _UNSIGNED.unpack(_FLOAT.pack(value + 0.0))[0]
    return _UNSIGNED.pack(bits ^ (_ALL if bits & _SIGN else _SIGN))


@lru_cache(maxsize=4096)
def text_key(text: str) -> bytes:
    """Return a key that has the text's first bytes first, and is never empty nor too long for LMDB.

    A long text is cut and its hash appended.
    """
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > TEXT_BYTES:
        return data[:TEXT_BYTES] + xxhash.xxh3_128_digest(data)
    return data + b"\0"
