"""The files that every peer serves: real pictures and clips, each with its number in it, of exact sizes."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.media.copies import distinct_jpeg, distinct_mp4, padded_mp4

KIB, MIB = 1024, 1024**2
MOST_WRITTEN = 128 * MIB
"""What one measurement may write, in bytes: a whole comparison then stays below some 30 GB."""
LABEL_DIGITS = 16
FIRST_LABEL = 10 ** (LABEL_DIGITS - 1)
_LARGEST_PICTURE = 256 * KIB


@dataclass(frozen=True)
class Shape:
    """Files of one size that differ in a label of 16 digits, which stands between ``before`` and ``after``."""

    before: bytes
    after: bytes

    @property
    def size(self) -> int:
        """Bytes of each file."""
        return len(self.before) + LABEL_DIGITS + len(self.after)

    def file(self, n: int) -> bytes:
        """Return the nth file; n is below 9 · 10¹⁵."""
        return b"%b%d%b" % (self.before, FIRST_LABEL + n, self.after)


@dataclass(frozen=True)
class File:
    """One loaded file: its number in its shape and the SHA-256 of its bytes in hexadecimal."""

    shape: Shape
    number: int
    address: str

    @property
    def data(self) -> bytes:
        """Its bytes, made anew."""
        return self.shape.file(self.number)


def shape_of(size: int, samples: Path) -> Shape:
    """Return the shape of this size: a JPEG up to 256 KiB, an MP4 above.

    A JPEG is filled up behind its end, where decoders do not look, an MP4 with a ``free`` box.
    Raises ``Unavailable`` if the samples are not there, or do not fit into the size.
    """
    try:
        whole = _picture(size, samples) if size <= _LARGEST_PICTURE else _clip(size, samples)
    except (OSError, ValueError) as error:
        raise Unavailable(f"no file of {size} bytes can be made from {samples} (`make samples`): {error}") from error
    before, label, after = whole.partition(b"%d" % FIRST_LABEL)
    assert label
    return Shape(before, after)


def files_of(shape: Shape, count: int) -> list[File]:
    """Return the first files of a shape."""
    return [File(shape, n, Address.of(shape.file(n)).hex()) for n in range(count)]


def size_text(size: int) -> str:
    """Return a size as the cases are named by: 4KiB, 1MiB."""
    return f"{size // MIB}MiB" if size >= MIB and size % MIB == 0 else f"{size // KIB}KiB"


def _picture(size: int, samples: Path) -> bytes:
    written = io.BytesIO()
    width = 64 if size < 16 * KIB else 384
    with Image.open(samples / "chelsea.png") as photograph:
        picture = photograph.convert("RGB")
    picture.thumbnail((width, width))
    picture.save(written, "JPEG", quality=85)
    labelled = distinct_jpeg(written.getvalue(), FIRST_LABEL)
    if len(labelled) > size:
        raise ValueError(f"the smallest picture has {len(labelled)} bytes")
    return labelled + random.Random(0).randbytes(size - len(labelled))  # noqa: S311 - the same bytes again


def _clip(size: int, samples: Path) -> bytes:
    base = distinct_mp4((samples / "carphone_pristine.mp4").read_bytes(), FIRST_LABEL)
    return b"".join(map(bytes, padded_mp4(base, size)))
