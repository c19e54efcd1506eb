"""Byte ranges (RFC 9110 §14), as nginx 1.22 answers them: parsing, and the framing of several."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stat7store.errors import Stat7Error
from storage.base import Span

MAX_RANGES = 100  # players and viewers ask for a few; each one costs a read and a part
_UNIT = "bytes="
_LARGEST = 2**63 - 1  # nginx's off_t
_LARGEST_DIGITS = len(str(_LARGEST))
# possessive, so that a long run of spaces costs one pass
_RANGE = re.compile(r" *+(?:([0-9]++) *+- *+([0-9]*+)|-([0-9]++)) *+")


class Unsatisfiable(Stat7Error):
    """No byte of the file lies within what was asked for, or the ranges are not well formed (416)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the ranges asked for do not fit a file of {size} bytes", size=size)
        self.size = size


def parse_range(header: str | None, size: int) -> list[Span] | None:
    """Read a ``Range`` header for a file of ``size`` bytes; None means: answer with the whole file.

    The spans come in the order asked for, each of at least one byte; they may overlap, but
    together are never longer than the file. None where there is no such header, its unit is not
    bytes, it asks for more than the file in total or for more than ``MAX_RANGES`` ranges, or the
    file is empty. Ranges beyond the end are left out. Raises ``Unsatisfiable`` if none is left, or
    at the first that is not well formed: RFC 9110 §14.2 leaves that to the server.
    """
    if header is None or len(header) <= len(_UNIT) or header[: len(_UNIT)].lower() != _UNIT:
        return None
    spans: list[Span] = []
    for text in header[len(_UNIT) :].split(","):
        start, end = _parse_one(text, size)
        if start < end:
            spans.append(Span(start, end - start))
            if len(spans) > MAX_RANGES:
                return None
        elif start == 0:
            return None
    if not spans:
        raise Unsatisfiable(size)
    if sum(span.length for span in spans) > size:
        return None
    return spans


def content_range(span: Span, size: int) -> str:
    """Return the value of ``Content-Range`` for a span of a file of ``size`` bytes."""
    return f"bytes {span.start}-{span.end - 1}/{size}"


def unsatisfied_range(size: int) -> str:
    """Return the value of ``Content-Range`` of a 416 answer."""
    return f"bytes */{size}"


def new_boundary(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return a multipart boundary that no file can hold on purpose: 80 random bits in 20 characters.

    nginx's boundaries have 20 characters too, so that both give the same ``Content-Length``.
    """
    return random_bytes(10).hex()


@dataclass(frozen=True, slots=True)
class Multipart:
    """The frame of a ``multipart/byteranges`` body (RFC 9110 §14.6).

    The body is, for each span, its preamble and its bytes, and after the last one ``closing``.
    """

    spans: Sequence[Span]
    size: int
    media_type: str
    boundary: str = field(default_factory=new_boundary)

    @property
    def content_type(self) -> str:
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def preambles(self) -> list[bytes]:
        """What goes before the bytes of each span."""
        head = f"\r\n--{self.boundary}\r\nContent-Type: {self.media_type}\r\nContent-Range: "
        return [f"{head}{content_range(span, self.size)}\r\n\r\n".encode() for span in self.spans]

    @property
    def closing(self) -> bytes:
        """What goes after the bytes of the last span."""
        return f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def content_length(self) -> int:
        """Bytes in the whole body."""
        return sum(map(len, self.preambles)) + sum(span.length for span in self.spans) + len(self.closing)


def _parse_one(text: str, size: int) -> tuple[int, int]:
    """Return where one range starts and ends (exclusive) in the file; empty if start ≥ end."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise Unsatisfiable(size)
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(size - _number(suffix, size), 0), size
    return _number(first, size), min(_number(last, size) + 1, size) if last else size


def _number(digits: str, size: int) -> int:
    # int() refuses thousands of digits, and takes quadratic time for hundreds
    significant = digits.lstrip("0")
    if len(significant) > _LARGEST_DIGITS or (number := int(significant or "0")) > _LARGEST:
        raise Unsatisfiable(size)
    return number
