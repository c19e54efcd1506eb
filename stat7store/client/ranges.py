"""A range of a file's bytes as a client asks for it (RFC 9110 §14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from stat7store.errors import Malformed
from storage.base import Span

_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``first`` to ``last`` inclusive, or to the end; without ``first``, the ``last`` so many bytes.

    >>> ByteRange(0, 99).header, ByteRange(100).header, ByteRange(last=500).header
    ('bytes=0-99', 'bytes=100-', 'bytes=-500')
    """

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0-99``, ``100-`` or ``-500``. Raises ``Malformed``."""
        match = _RANGE.fullmatch(text)
        if match is None:
            raise Malformed(
                f"{text[:40]!r} is no range of bytes", expected="0-99, 100- (to the end) or -500 (the last)"
            )
        first, last, suffix = (int(digits) if digits else None for digits in match.groups())
        if suffix is not None:
            return cls(None, suffix)
        if first is not None and last is not None and last < first:
            raise Malformed(f"the range {text} ends before it starts", expected="first-last, both included")
        return cls(first, last)

    @property
    def header(self) -> str:
        """The value of the ``Range`` header."""
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"


def span_of(content_range: str) -> tuple[Span, int] | None:
    """Read ``Content-Range`` of a 206 answer: the span it holds, and the size of the whole file."""
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        return None
    first, last, size = (int(digits) for digits in match.groups())
    return Span(first, last + 1 - first), size
