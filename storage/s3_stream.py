"""One ranged GET of the S3 backend, gone on with where it breaks off."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

from storage.base import BlobDamaged, BlobMissing, BlobUnavailable, Location, Span
from storage.s3_bucket import Body
from storage.s3_failure import S3Failure
from storage.s3_requests import S3Requests

# What a connection that breaks off loses of what it brought, and how often the deadline is looked at.
_STEP_BYTES = 512 << 10


class S3Stream:
    """The bytes of a span, in order. Its methods block; one thread at a time, but ``close`` may be called by any."""

    def __init__(self, requests: S3Requests, location: Location, span: Span, *, tag: str | None = None) -> None:
        """``span`` may reach beyond the blob's end, and is cut off there. ``tag``: of the object that is expected."""
        self._requests = requests
        self._location = location
        self._key = requests.key(location)
        self._next = span.start
        self._end = span.end
        self._breaks_left = requests.options.attempts
        self._body: Body | None = None
        self._closed = False
        self._lock = threading.Lock()
        self.tag = tag
        """Entity tag of the object, once the first bytes were read."""
        self.size = -1
        """Bytes of the whole blob, once the first bytes were read."""

    @property
    def left(self) -> int:
        """Bytes still to be read."""
        return self._end - self._next

    def read(self, length: int, until: float) -> bytes:
        """Return the next bytes, all of them unless the span ends before. See ``read_pieces``."""
        pieces = self.read_pieces(length, until)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_pieces(self, length: int, until: float) -> list[bytes]:
        """Return the next bytes as they came, all of them unless the span ends before.

        ``until``: monotonic seconds after which nothing is tried again. Raises ``BlobMissing``,
        ``BlobDamaged`` if the blob is not the one that was opened, or ``BlobUnavailable``.
        """
        pieces: list[bytes] = []
        try:
            with self._lock:
                while length > 0 and (self.left or self.size < 0) and not self._closed:
                    wanted = min(length, _STEP_BYTES)
                    piece = self._requests.call(partial(self._step, wanted), until)
                    pieces.append(piece)
                    length -= len(piece)
        except S3Failure as failure:
            raise self._meaning(failure) from failure
        finally:
            if self._closed or not self.left:
                self.close()
        return pieces

    def ask_size(self, until: float) -> int:
        """Return the size of the whole blob in bytes; nothing is read. Raises as ``read`` does."""
        try:
            return self._requests.call(lambda: self._requests.bucket.head(self._key), until).size
        except S3Failure as failure:
            raise self._meaning(failure) from failure

    def _step(self, wanted: int) -> bytes:
        try:
            if self._body is None:
                self._body = self._opened()
            data = self._requests.bucket.read(self._body, min(wanted, self.left))
            if not data:
                raise S3Failure(f"{self._key}: the body ended {self.left} bytes too early", lost=True)
        except S3Failure:
            self._drop()
            self._breaks_left -= 1
            if self._breaks_left < 0:
                raise S3Failure(f"{self._key}: the body broke off too often") from None
            raise
        self._next += len(data)
        return data

    def _opened(self) -> Body:
        # protection: go-on-with-same-object
        opened = self._requests.bucket.get(self._key, self._next, self._end, self.tag)
        if self.size >= 0:
            self._requests.counts.add("s3_resumed")
        self.tag = opened.tag
        self.size = opened.size
        self._end = min(self._end, opened.size)
        return opened.body

    def _meaning(self, failure: S3Failure) -> BlobMissing | BlobDamaged | BlobUnavailable:
        if failure.missing:
            return BlobMissing(self._location)
        if failure.unmet:
            return BlobDamaged(self._location, "it was replaced while it was read")
        if failure.outside:
            return BlobDamaged(self._location, f"it has no byte {self._next}")
        return self._requests.unavailable(failure)

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            with suppress(Exception):  # whatever it says, the connection is given up
                body.close()

    def close(self) -> None:
        """Let go of it; repeats are harmless. A read in another thread ends soon."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()
