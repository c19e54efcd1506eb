"""Real media for tests: the fetched samples, and as many distinct valid copies of them as a test wants."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / ".cache" / "samples"
_BLOCK = 1024**2


def sample(name: str) -> Path:
    """The fetched photograph or clip of that name. Raises ``FileNotFoundError`` that says how to get it."""
    path = SAMPLES / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make samples` fetches it")
    return path


def distinct_jpeg(base: bytes, n: int) -> bytes:
    """The JPEG ``base`` with a comment that says ``n``: the same picture, other bytes."""
    if base[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    at = 2
    while base[at] == 0xFF and 0xE0 <= base[at + 1] <= 0xEF:  # JFIF and Exif want to stay first
        at += 2 + int.from_bytes(base[at + 2 : at + 4])
    text = _label(n)
    return base[:at] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + base[at:]


def distinct_png(base: bytes, n: int) -> bytes:
    """The PNG ``base`` with a text chunk that says ``n``: the same picture, other bytes."""
    if base[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    after_header = 8 + 4 + 4 + 13 + 4
    chunk = b"tEXt" + b"Comment\0" + _label(n)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return base[:after_header] + framed + base[after_header:]


def distinct_mp4(base: bytes, n: int) -> bytes:
    """The MP4 ``base`` with a ``free`` box at its end that says ``n``: the same clip, other bytes."""
    if base[4:8] != b"ftyp":
        raise ValueError("not an MP4")
    text = _label(n)
    return base + struct.pack(">I4s", 8 + len(text), b"free") + text


def large_mp4(path: Path, size: int, n: int = 0) -> None:
    """Write a valid MP4 of exactly ``size`` bytes to ``path``: bigbuckbunny.mp4 and one ``free`` box.

    The box is filled with pseudorandom bytes, no two MiB of them alike; another ``n`` gives other
    bytes. Memory stays at a few MiB. ``size`` is at least 16 more than the clip's.
    """
    base = sample("bigbuckbunny.mp4").read_bytes()
    box = size - len(base)
    if box < 16:
        raise ValueError(f"a large MP4 has at least {len(base) + 16} bytes")
    with path.open("wb") as file:
        file.write(base)
        file.write(struct.pack(">I4sQ", 1, b"free", box))  # size 1: the true size follows in 64 bits
        for block in _noise(box - 16, n):
            file.write(block)


def _noise(length: int, n: int) -> Iterator[memoryview]:
    block = bytearray(random.Random(n).randbytes(_BLOCK))
    for start in range(0, length, _BLOCK):
        struct.pack_into(">Q", block, 0, start)  # so that no block equals another
        yield memoryview(block)[: min(_BLOCK, length - start)]


def _label(n: int) -> bytes:
    return f"copy {n}".encode("ascii")
