"""How the S3 backend opens a blob: one request tells its size and brings its first bytes."""

from __future__ import annotations

from typing import NamedTuple

from storage.base import BlobDamaged, Location, Reader, Span
from storage.byte_budget import ByteBudget
from storage.s3_failure import S3Failure
from storage.s3_reader import FIRST_BYTES, SOON_BYTES, Check, S3Reader
from storage.s3_requests import S3Requests
from storage.s3_stream import S3Stream

# A blob of up to this much is read, and checked, before it is opened.
_WHOLE_BYTES = 1 << 20
# A body altered on its way may come whole the next time; one altered at rest will not.
_LOOKS = 3


class _Opening(NamedTuple):
    stream: S3Stream
    first: bytes
    check: Check | None


class S3Downloads:
    """Opens readers. The bytes that they read ahead are bounded, for all readers together."""

    def __init__(self, requests: S3Requests, *, verify: bool) -> None:
        """``verify``: compare a blob that is read whole with the SHA-256 that its name is."""
        self._requests = requests
        self._verify = verify
        self._memory = ByteBudget(requests.options.memory // 2)

    async def open(self, location: Location, span: Span | None) -> Reader:
        """Return a reader. Raises as ``S3Blobs.open`` does."""
        if span is not None and (span.start < 0 or span.length <= 0):
            return await self._open_nothing(location, span)
        try:
            opening = await self._requests.run(
                lambda until: self._open_now(location, span, until), discard=lambda made: made.stream.close()
            )
        except BlobDamaged as error:
            # Any range of an empty blob begins behind its end.
            if span is None and isinstance(error.__cause__, S3Failure) and error.__cause__.outside:
                reader = await self._open_nothing(location, Span(0, 0))
                if self._verify:
                    Check(location).take(b"", last=True)
                return reader
            raise
        size = opening.stream.size
        return self._reader(location, span or Span(0, size), size, opening)

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises ``BlobMissing``."""
        return await self._requests.run(lambda until: S3Stream(self._requests, location, Span(0, 0)).ask_size(until))

    async def _open_nothing(self, location: Location, span: Span) -> Reader:
        size = await self.stat(location)
        _refuse_if_outside(location, span, size)
        return self._reader(location, span, size, _Opening(S3Stream(self._requests, location, span), b"", None))

    def _open_now(self, location: Location, span: Span | None, until: float) -> _Opening:
        looks_left = _LOOKS
        while True:
            looks_left -= 1
            opening = self._first_of(location, span, until)
            if opening.check is None:
                return opening
            try:
                opening.check.take(opening.first, last=not opening.stream.left)
            except BlobDamaged:
                opening.stream.close()
                if not looks_left:
                    raise
            else:
                return opening

    def _first_of(self, location: Location, span: Span | None, until: float) -> _Opening:
        start, length = (0, FIRST_BYTES) if span is None else (span.start, min(span.length, FIRST_BYTES))
        stream = S3Stream(self._requests, location, Span(start, length))
        try:
            first = stream.read(SOON_BYTES, until)
            if span is not None:
                _refuse_if_outside(location, span, stream.size)
            if len(first) + stream.left <= _WHOLE_BYTES:
                first += stream.read(stream.left, until)
        except BaseException:
            stream.close()
            raise
        is_whole = span is None or span == Span(0, stream.size)
        return _Opening(stream, first, Check(location) if self._verify and is_whole else None)

    def _reader(self, location: Location, span: Span, size: int, opening: _Opening) -> S3Reader:
        return S3Reader(
            self._requests,
            location,
            span,
            size=size,
            stream=opening.stream,
            first=opening.first,
            check=opening.check,
            memory=self._memory,
        )


def _refuse_if_outside(location: Location, span: Span, size: int) -> None:
    if span.start < 0 or span.length < 0 or span.end > size:
        raise BlobDamaged(location, f"bytes {span.start} to {span.end} were asked for, it has {size}")
