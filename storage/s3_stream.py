"""One ranged GET of the S3 backend, gone on with where it breaks off."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from storage.base import BlobDamaged, BlobMissing, BlobUnavailable, Location, Span
from storage.retrying import Retrying
from storage.s3_bucket import Body, S3Bucket
from storage.s3_counts import S3Counts
from storage.s3_failure import S3Failure

# What a connection that breaks off loses of what it brought, and how often the deadline is looked at.
_STEP_BYTES = 1 << 20


class S3Link:
    """What the streams of one store share."""

    def __init__(self, bucket: S3Bucket, retrying: Retrying, counts: S3Counts, *, folder: str, place: str, breaks: int):
        """``folder``: what every key begins with; ``breaks``: how often one stream may break off."""
        self.bucket = bucket
        self.retrying = retrying
        self.counts = counts
        self.folder = folder
        self.place = place
        self.breaks = breaks


class S3Stream:
    """The bytes of a span, in order. Its methods block; one thread at a time, but ``close`` may be called by any."""

    def __init__(self, link: S3Link, location: Location, span: Span, *, tag: str | None = None) -> None:
        """``span`` may reach beyond the blob's end, and is cut off there. ``tag``: of the object that is expected."""
        self._link = link
        self._location = location
        self._key = f"{link.folder}{location}"
        self._next = span.start
        self._end = span.end
        self._breaks_left = link.breaks
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
        """Return the next bytes, all of them unless the span ends before.

        ``until``: monotonic seconds after which nothing is tried again. Raises ``BlobMissing``,
        ``BlobDamaged`` if the blob is not the one that was opened, or ``BlobUnavailable``.
        """
        pieces: list[bytes] = []
        try:
            with self._lock:
                while length > 0 and (self.left or self.size < 0) and not self._closed:
                    wanted = min(length, _STEP_BYTES)
                    piece = self._link.retrying.call(lambda wanted=wanted: self._step(wanted, until), until)  # type: ignore[misc]
                    pieces.append(piece)
                    length -= len(piece)
        except S3Failure as failure:
            raise self._meaning(failure) from failure
        finally:
            if self._closed or not self.left:
                self.close()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _step(self, wanted: int, until: float) -> bytes:
        if time.monotonic() > until:
            raise S3Failure(f"{self._key}: no answer in time")
        try:
            if self._body is None:
                self._body = self._opened()
            data = self._link.bucket.read(self._body, min(wanted, self.left))
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
        opened = self._link.bucket.get(self._key, self._next, self._end, self.tag)
        if self.size >= 0:
            self._link.counts.add("s3_resumed")
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
        return failure.unavailable(self._link.place)

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
