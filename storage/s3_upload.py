"""How the S3 backend puts a blob: in one request, or in parts where it is large."""

from __future__ import annotations

import asyncio
import hashlib
import threading

from storage.base import Span
from storage.byte_budget import ByteBudget
from storage.s3_bucket import Begun, Found, Part
from storage.s3_failure import S3Failure
from storage.s3_requests import S3Requests
from storage.s3_spool import SpooledBytes

_MOST_PARTS = 10_000
# Of one upload; a small upload waits for no more than these of each large one.
_PARTS_AT_ONCE = 4


class S3Uploads:
    """Puts what was spooled. The bytes held in memory for it are bounded, for all uploads together."""

    def __init__(self, requests: S3Requests) -> None:
        self._requests = requests
        self._bucket = requests.bucket
        self._options = requests.options
        self._memory = ByteBudget(requests.options.memory // 2)

    async def put(self, key: str, spooled: SpooledBytes, sha256: str) -> None:
        """Keep these bytes under a key that is new. Durable on return. Raises as ``BlobStore.put`` does.

        ``sha256``: of all of them, in hex, or ``""`` if it is not known; it is written down with a large blob.
        """
        if spooled.size > self._options.multipart_above:
            await self._put_in_parts(key, spooled, sha256)
        else:
            async with self._memory.hold(spooled.size):
                await self._requests.run(lambda until: self._put_now(key, spooled, until))

    def _put_now(self, key: str, spooled: SpooledBytes, until: float) -> None:
        data = spooled.read(0, spooled.size)
        sha256 = hashlib.sha256(data).digest()
        try:
            self._requests.call(lambda: self._bucket.put(key, data, sha256), until)
        except S3Failure as failure:
            # protection: look-for-put-without-answer
            if not (failure.in_doubt and self._is_there(key, Found(spooled.size, sha256.hex()), until)):
                raise

    async def _put_in_parts(self, key: str, spooled: SpooledBytes, sha256: str) -> None:
        begun = Begun(key, await self._requests.ask(lambda: self._bucket.begin(key, sha256)))
        given_up = threading.Event()
        try:
            parts = await self._put_parts(begun, spooled, given_up)
            whole = Found(spooled.size, sha256)
            await self._requests.run(lambda until: self._complete_now(begun, parts, whole, until))
        except BaseException:
            given_up.set()
            # Nobody waits for it: whoever gave up the upload does not care, and what it leaves is swept.
            self._requests.begin(lambda: self._bucket.abort(begun))
            raise

    async def _put_parts(self, begun: Begun, spooled: SpooledBytes, given_up: threading.Event) -> list[Part]:
        part_size = max(self._options.part_size, -(-spooled.size // _MOST_PARTS))
        turns = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def put_part(number: int, start: int) -> Part:
            span = Span(start, min(part_size, spooled.size - start))
            async with turns, self._memory.hold(span.length):
                return await self._requests.run(
                    lambda until: self._put_part_now(begun, number, spooled, span, given_up, until)
                )

        try:
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(put_part(number, start))
                    for number, start in enumerate(range(0, spooled.size, part_size), 1)
                ]
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__
        return [part.result() for part in parts]

    def _put_part_now(
        self, begun: Begun, number: int, spooled: SpooledBytes, span: Span, given_up: threading.Event, until: float
    ) -> Part:
        data = spooled.read(span.start, span.length)
        sha256 = hashlib.sha256(data).digest()

        def put() -> Part:
            if given_up.is_set():  # a part that comes after the abort may stay, and be paid for
                raise S3Failure("the upload of which this is a part was given up")
            return self._bucket.put_part(begun.key, begun.upload, number, data, sha256)

        return self._requests.call(put, until)

    def _complete_now(self, begun: Begun, parts: list[Part], whole: Found, until: float) -> None:
        try:
            self._requests.call(lambda: self._bucket.complete(begun.key, begun.upload, parts), until)
        except S3Failure as failure:
            if not (failure.in_doubt and self._is_there(begun.key, whole, until)):
                raise

    def _is_there(self, key: str, wanted: Found, until: float) -> bool:
        """Tell whether the bytes are there after all: a key is never reused, so they came by an earlier try."""
        try:
            return self._requests.call(lambda: self._bucket.head(key), until) == wanted
        except S3Failure:
            return False
