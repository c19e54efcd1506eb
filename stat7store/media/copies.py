"""As many distinct, valid copies of an image or movie as one wants: the same picture, other bytes.

Each says its number where its format has room for what no decoder looks at.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from storage.base import Buffer

_BLOCK = 1024**2


def distinct_jpeg(base: bytes, n: int) -> bytes:
    """The JPEG ``base`` with a comment that says ``n``. Raises ``ValueError`` if it is not a JPEG."""
    if base[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    at = 2
    while base[at] == 0xFF and 0xE0 <= base[at + 1] <= 0xEF:  # JFIF and Exif want to stay first
        at += 2 + int.from_bytes(base[at + 2 : at + 4])
    text = _label(n)
    return base[:at] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + base[at:]


def distinct_png(base: bytes, n: int) -> bytes:
    """The PNG ``base`` with a text chunk that says ``n``. Raises ``ValueError`` if it is not a PNG."""
    if base[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    after_header = 8 + 4 + 4 + 13 + 4
    chunk = b"tEXt" + b"Comment\0" + _label(n)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return base[:after_header] + framed + base[after_header:]


def distinct_mp4(base: bytes, n: int) -> bytes:
    """The MP4 ``base`` with a ``free`` box at its end that says ``n``. Raises ``ValueError`` if it is not an MP4."""
    if base[4:8] != b"ftyp":
        raise ValueError("not an MP4")
    text = _label(n)
    return base + struct.pack(">I4s", 8 + len(text), b"free") + text


def padded_mp4(base: bytes, size: int, n: int = 0) -> Iterator[Buffer]:
    """Yield the pieces of a valid MP4 of exactly ``size`` bytes: ``base`` and one ``free`` box.

    The box is filled with pseudorandom bytes, no two MiB of them alike; another ``n`` gives other
    bytes. A piece is valid until the next is asked for, so memory stays at a few MiB. ``size`` is at
    least 16 more than the base's, or it raises ``ValueError``.
    """
    box = size - len(base)
    if box < 16:
        raise ValueError(f"a padded MP4 has at least {len(base) + 16} bytes")
    yield base
    yield struct.pack(">I4sQ", 1, b"free", box)  # size 1: the true size follows in 64 bits
    yield from _noise(box - 16, n)


def _noise(length: int, n: int) -> Iterator[memoryview]:
    block = bytearray(random.Random(n).randbytes(_BLOCK))  # noqa: S311 - the same bytes again, not a secret
    for start in range(0, length, _BLOCK):
        struct.pack_into(">Q", block, 0, start)  # so that no block equals another
        yield memoryview(block)[: min(_BLOCK, length - start)]


def _label(n: int) -> bytes:
    return f"copy {n}".encode("ascii")
