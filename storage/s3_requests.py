"""How the S3 backend makes its requests: in threads, tried again, and never waited for beyond a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from storage.base import BlobUnavailable, Location
from storage.retrying import RetryBudget, Retrying
from storage.s3_bucket import S3Bucket
from storage.s3_counts import S3Counts
from storage.s3_failure import S3Failure
from storage.s3_options import S3Options

Result = TypeVar("Result")

TOKEN_BYTES = 8


class S3Requests:
    """What all parts of one store share."""

    def __init__(self, bucket: S3Bucket, options: S3Options, counts: S3Counts) -> None:
        self.bucket = bucket
        self.options = options
        self.counts = counts
        self.is_closed = False
        self._retrying = Retrying(
            may_pass=lambda error: isinstance(error, S3Failure) and error.may_pass,
            attempts=options.attempts,
            budget=RetryBudget(),
            told=lambda: counts.add("s3_retries"),
        )
        self._threads = ThreadPoolExecutor(options.max_connections, thread_name_prefix="blob-s3")

    def key(self, location: Location) -> str:
        """Return the key of a blob's object."""
        return f"{self.options.folder}{location}"

    def location(self, key: str) -> Location | None:
        """Return the location that an object's key stands for, None if it is no blob's."""
        try:
            location = Location.parse(key.removeprefix(self.options.folder))
        except ValueError:
            return None
        return location if len(location.token) == TOKEN_BYTES else None

    def call(self, request: Callable[[], Result], until: float) -> Result:
        """Make a request and return its answer; try again what may pass. Blocks. Raises ``S3Failure``.

        ``until``: monotonic seconds after which nothing is begun.
        """

        def in_time() -> Result:
            if time.monotonic() > until:
                raise S3Failure("there was no time left for the request")
            return request()

        return self._retrying.call(in_time, until)

    async def ask(self, request: Callable[[], Result]) -> Result:
        """Return the answer to a request that is made, and tried again, in a thread. Raises as ``run`` does."""
        return await self.run(lambda until: self.call(request, until))

    async def run(self, work: Callable[[float], Result], discard: Callable[[Result], None] | None = None) -> Result:
        """Return what ``work`` returns; it is given the time (monotonic seconds) by which it must be done.

        Nobody waits longer than that, for a thread or for the work: what comes later goes to
        ``discard``. A ``S3Failure`` becomes ``BlobUnavailable``; other errors pass.
        """
        self.refuse_if_closed()
        until = time.monotonic() + self.options.deadline_s
        working = self._threads.submit(work, until)
        try:
            async with asyncio.timeout(self.options.deadline_s):
                return await asyncio.wrap_future(working)
        except S3Failure as failure:
            raise self.unavailable(failure) from failure
        except (TimeoutError, asyncio.CancelledError) as error:
            if discard is not None:
                working.add_done_callback(lambda made: _discard(made, discard))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise BlobUnavailable(f"{self.options}: no answer within {self.options.deadline_s:g} seconds") from error

    def begin(self, request: Callable[[], None]) -> None:
        """Make a request, and try it again, in a thread that nobody waits for."""
        if not self.is_closed:
            until = time.monotonic() + self.options.deadline_s
            self._threads.submit(self.call, request, until)

    def unavailable(self, failure: S3Failure) -> BlobUnavailable:
        """Return what to raise to a caller of the backend."""
        return failure.unavailable(str(self.options))

    def refuse_if_closed(self) -> None:
        """Raise ``BlobUnavailable`` once the store is closed."""
        if self.is_closed:
            raise BlobUnavailable("the blob store is closed")

    async def close(self) -> None:
        """Finish what was begun, and begin nothing any more."""
        self.is_closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self.bucket.close()


def _discard(made: Future[Result], discard: Callable[[Result], None]) -> None:
    if not made.cancelled() and made.exception() is None:
        discard(made.result())
