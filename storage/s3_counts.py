"""What the S3 backend counts."""

from __future__ import annotations

import threading

_NAMES = ("s3_requests", "s3_retries", "s3_errors", "s3_throttled", "s3_resumed", "s3_bytes_in", "s3_bytes_out")


class S3Counts:
    """Counters that any thread may add to.

    ``s3_requests``: sent, retries included; ``s3_retries``: of these, sent again; ``s3_errors``:
    failed, but for missing objects; ``s3_throttled``: of these, turned away for being too many;
    ``s3_resumed``: bodies that broke off and were gone on with; ``s3_bytes_in`` and
    ``s3_bytes_out``: bytes of blobs from and to S3.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_NAMES, 0)
        self._lock = threading.Lock()

    def add(self, name: str, number: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += number

    def now(self) -> dict[str, int]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)
