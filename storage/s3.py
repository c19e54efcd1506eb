"""The S3 backend: one object a blob, through boto3 in threads. Nothing else imports boto3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import boto3
import urllib3.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)
from botocore.parsers import ResponseParserError

from storage.base import BlobDamaged, BlobMissing, BlobUnavailable, Location, Reader, Span, Spool
from storage.byte_budget import ByteBudget
from storage.file_spool import remove_stale_spools
from storage.group import GroupCommit
from storage.linux import Linux, unavailable
from storage.retrying import RetryBudget, Retrying
from storage.s3_bucket import Begun, Found, Part, S3Bucket
from storage.s3_counts import S3Counts
from storage.s3_failure import S3Failure
from storage.s3_options import S3Options
from storage.s3_reader import BLOCK_BYTES, FIRST_BYTES, WHOLE_BYTES, Check, S3Reader
from storage.s3_spool import S3Spool, SpooledBytes
from storage.s3_stream import S3Link, S3Stream

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

Result = TypeVar("Result")

_NAME = re.compile(r"[0-9a-f]{64}")
_TOKEN_BYTES = 8
_MOST_PARTS = 10_000
_LOST = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    OSError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
)
# Of one upload; a small upload waits for no more than these of each large one.
_PARTS_AT_ONCE = 4
# A body altered on its way may come whole the next time; one altered at rest will not.
_LOOKS = 3


class _Opening(NamedTuple):
    stream: S3Stream
    first: bytes
    check: Check | None


class S3Blobs:
    """A ``BlobStore``, ``Planned``, ``Presigned``, ``Unfinished`` and ``Counted``, in an S3 bucket.

    A blob is the object ``<prefix>/<3 hex>/<name>.<16 hex token>``, its token 64 random bits. Any
    number of processes and machines may use one prefix at once; each process opens it after its fork.
    A blob that is deleted while it is read may end its readers with ``BlobMissing``.
    """

    kind = "s3"

    def __init__(self, options: S3Options, spools: Path, *, verify: bool = True) -> None:
        """``spools``: a local folder for uploads on their way, made if it is missing. Sends no request; blocks.

        ``verify``: the names of blobs are their SHA-256, and a blob read whole is compared with its
        name. Raises ``BlobNoSpace`` or ``BlobUnavailable``.
        """
        self._options = options
        self._place = str(options)
        self._folder = options.folder
        self._spool_folder = str(spools.absolute())
        self._verify = verify
        self._closed = False
        self._probed = False
        self._linux = Linux()
        try:
            os.makedirs(self._spool_folder, mode=0o700, exist_ok=True)
            remove_stale_spools(self._spool_folder)
        except OSError as error:
            raise unavailable(error) from error
        try:
            client = _connect(options)
        except BotoCoreError as error:
            raise BlobUnavailable(f"{options}: {error}") from error
        self._counts = S3Counts()
        self._bucket = S3Bucket(client, options, self._counts, _failure)
        self._retrying = Retrying(
            may_pass=lambda error: isinstance(error, S3Failure) and error.may_pass,
            attempts=options.attempts,
            budget=RetryBudget(),
            told=lambda: self._counts.add("s3_retries"),
        )
        self._link = S3Link(
            self._bucket,
            self._retrying,
            self._counts,
            folder=self._folder,
            place=self._place,
            breaks=2 * options.attempts,
        )
        self._uploading = ByteBudget(options.memory // 2)
        self._reading = ByteBudget(options.memory // 2)
        self._threads = ThreadPoolExecutor(options.max_connections, thread_name_prefix="blob-s3")
        self._spools: GroupCommit[None, S3Spool] = GroupCommit(
            self._new_spools, name="blob-spools", discard=S3Spool.close
        )

    async def spool(self) -> Spool:
        """Return a new, empty spool in the local folder. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
        self._refuse_if_closed()
        return await self._spools.do(None)

    def _new_spools(self, wanted: Sequence[None]) -> list[S3Spool | BlobUnavailable]:
        return [self._new_spool() for _ in wanted]

    def _new_spool(self) -> S3Spool | BlobUnavailable:
        try:
            return S3Spool.create(self._spool_folder, self._linux)
        except BlobUnavailable as error:
            return error

    def plan(self, name: str) -> Location:
        """Return a new location for a blob of this name. Raises ``ValueError`` for a malformed name."""
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not 64 lowercase hex digits: {name!r}")
        return Location(name, secrets.token_bytes(_TOKEN_BYTES))

    async def put(self, spool: Spool, name: str) -> Location:
        """Keep what was spooled under a new location. Durable on return. Raises as ``put_at`` does.

        ``ValueError`` for a malformed name.
        """
        location = self.plan(name)
        await self.put_at(spool, location)
        return location

    async def put_at(self, spool: Spool, location: Location) -> None:
        """Keep what was spooled at a location that ``plan`` gave. Durable on return.

        Raises ``BlobNoSpace`` or ``BlobUnavailable``; whether anything was kept then, only the server
        knows. ``ValueError`` for a spool of another store, ``RuntimeError`` for one that was put,
        spoilt or closed before.
        """
        self._refuse_if_closed()
        if not isinstance(spool, S3Spool):
            raise ValueError("the spool is of another kind of store")
        spooled = spool.hand_over()
        try:
            if spooled.size > self._options.multipart_above:
                await self._put_in_parts(self._key(location), spooled)
            else:
                async with self._uploading.hold(spooled.size):
                    await self._in_thread(lambda until: self._put_now(self._key(location), spooled, until))
        finally:
            spooled.close()

    def _put_now(self, key: str, spooled: SpooledBytes, until: float) -> None:
        data = spooled.read(0, spooled.size)
        try:
            self._retrying.call(lambda: self._bucket.put(key, data, spooled.sha256), until)
        except S3Failure as failure:
            if not (failure.in_doubt and self._is_there(key, spooled, until)):
                raise

    def _is_there(self, key: str, spooled: SpooledBytes, until: float) -> bool:
        """Tell whether the object is there, as far as is known: a location is never reused, so it is our own then."""
        try:
            found = self._retrying.call(lambda: self._bucket.head(key), until)
        except S3Failure:
            return False
        return found == Found(spooled.size, spooled.sha256.hex())

    async def _put_in_parts(self, key: str, spooled: SpooledBytes) -> None:
        begun = Begun(key, await self._ask(lambda: self._bucket.begin(key, spooled.sha256)))
        try:
            parts = await self._put_parts(begun, spooled)
            await self._in_thread(lambda until: self._complete_now(begun, parts, spooled, until))
        except BaseException:
            # Not waited for: the upload was given up, and what this leaves is swept as unfinished.
            self._threads.submit(self._abort_now, begun)
            raise

    async def _put_parts(self, begun: Begun, spooled: SpooledBytes) -> list[Part]:
        part_size = max(self._options.part_size, -(-spooled.size // _MOST_PARTS))
        turns = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def put_part(number: int, start: int) -> Part:
            length = min(part_size, spooled.size - start)
            async with turns, self._uploading.hold(length):
                return await self._in_thread(
                    lambda until: self._put_part_now(begun, number, spooled, Span(start, length), until)
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

    def _put_part_now(self, begun: Begun, number: int, spooled: SpooledBytes, span: Span, until: float) -> Part:
        data = spooled.read(span.start, span.length)
        sha256 = hashlib.sha256(data).digest()
        return self._retrying.call(lambda: self._bucket.put_part(begun.key, begun.upload, number, data, sha256), until)

    def _complete_now(self, begun: Begun, parts: list[Part], spooled: SpooledBytes, until: float) -> None:
        try:
            self._retrying.call(lambda: self._bucket.complete(begun.key, begun.upload, parts), until)
        except S3Failure as failure:
            if not (failure.in_doubt and self._is_there(begun.key, spooled, until)):
                raise

    def _abort_now(self, begun: Begun) -> None:
        self._retrying.call(lambda: self._bucket.abort(begun), self._deadline())

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob: one request, which brings its first bytes too.

        Raises ``BlobMissing``, ``BlobUnavailable``, or ``BlobDamaged`` if the span does not lie within
        the blob, or if a blob of up to 1 MiB is not what its name says.
        """
        if span is not None and (span.start < 0 or span.length <= 0):
            return await self._open_nothing(location, span)
        try:
            opening = await self._in_thread(
                lambda until: self._open_now(location, span, until), discard=lambda made: made.stream.close()
            )
        except BlobDamaged as error:
            # A range of an empty blob lies behind its end.
            if span is None and isinstance(error.__cause__, S3Failure) and error.__cause__.outside:
                return await self._open_nothing(location, Span(0, 0))
            raise
        return self._reader(location, span or Span(0, opening.stream.size), opening, opening.stream.size)

    async def _open_nothing(self, location: Location, span: Span) -> Reader:
        size = await self.stat(location)
        _refuse_if_outside(location, span, size)
        if self._verify and size == 0:
            Check(location).take(b"", last=True)
        return self._reader(location, span, _Opening(S3Stream(self._link, location, span), b"", None), size)

    def _reader(self, location: Location, span: Span, opening: _Opening, size: int) -> S3Reader:
        return S3Reader(
            self._link,
            location,
            span,
            size=size,
            stream=opening.stream,
            first=opening.first,
            check=opening.check,
            in_thread=self._in_thread,
            budget=self._reading,
        )

    def _open_now(self, location: Location, span: Span | None, until: float) -> _Opening:
        for looks_left in reversed(range(_LOOKS)):
            start, length = (0, FIRST_BYTES) if span is None else (span.start, min(span.length, FIRST_BYTES))
            stream = S3Stream(self._link, location, Span(start, length))
            try:
                first = stream.read(BLOCK_BYTES, until)
                if span is not None:
                    _refuse_if_outside(location, span, stream.size)
                if len(first) + stream.left <= WHOLE_BYTES:
                    first += stream.read(stream.left, until)
                check = None
                if self._verify and (span is None or span == Span(0, stream.size)):
                    check = Check(location)
            except BaseException:
                stream.close()
                raise
            try:
                if check is not None:
                    check.take(first, last=len(first) == stream.size)
            except BlobDamaged:
                stream.close()
                if not looks_left:
                    raise
            else:
                return _Opening(stream, first, check)
        raise AssertionError("the last look returns or raises")

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises ``BlobMissing``."""
        try:
            return (await self._ask(lambda: self._bucket.head(self._key(location)))).size
        except BlobUnavailable as error:
            if isinstance(error.__cause__, S3Failure) and error.__cause__.missing:
                raise BlobMissing(location) from error.__cause__
            raise

    async def delete(self, location: Location) -> None:
        """Remove the blob for good. Durable on return; a missing one is no error."""
        await self._ask(lambda: self._bucket.delete(self._key(location)))

    async def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """Yield all locations in the order of their text form, those up to ``after`` left out.

        Holds a thousand at a time. What is not named as this store names blobs is passed over.
        """
        last = self._key(after) if after else ""
        more = True
        while more:
            keys, more = await self._ask(lambda last=last: self._bucket.keys(self._folder, last))  # type: ignore[misc]
            for key in keys:
                last = key
                location = self._location(key)
                if location is not None:
                    yield location

    async def url(self, location: Location, *, seconds: int, media_type: str, disposition: str) -> str:
        """See ``Presigned``. Whether the blob is there is not asked."""
        return await self._ask(
            lambda: self._bucket.url(
                self._key(location), seconds=seconds, media_type=media_type, disposition=disposition
            )
        )

    async def abort_unfinished(self, older_than_s: float) -> int:
        """Drop the multipart uploads of blobs that were begun longer ago than that; return how many.

        What others have begun under the prefix is left alone. It is the server's clock that counts.
        """
        begun = await self._ask(lambda: self._bucket.begun(self._folder, older_than_s))
        ours = [upload for upload in begun if self._location(upload.key) is not None]
        for upload in ours:
            await self._ask(lambda upload=upload: self._bucket.abort(upload))  # type: ignore[misc]
        return len(ours)

    def counts(self) -> dict[str, int]:
        """See ``Counted`` and ``S3Counts``."""
        return self._counts.now()

    async def check(self) -> None:
        """Return if the bucket can be listed; the first time, also if objects can be put, read and deleted.

        Raises ``BlobUnavailable``, which says what to do about it.
        """
        await self._ask(lambda: self._bucket.keys(self._folder, "", 1))
        if not self._probed:
            await self._probe(f"{self._folder}check.{secrets.token_hex(_TOKEN_BYTES)}")
            self._probed = True
        (await self.spool()).close()

    async def _probe(self, key: str) -> None:
        data = b"Written to learn whether it can be; may be deleted.\n"
        sha256 = hashlib.sha256(data).digest()

        def put() -> None:
            try:
                self._bucket.put(key, data, sha256)
            except S3Failure as failure:
                if not failure.unmet:  # an earlier try was applied
                    raise

        def get() -> None:
            self._bucket.get(key, 0, len(data), None).body.close()

        await self._ask(put)
        await self._ask(get)
        await self._ask(lambda: self._bucket.delete(key))

    async def close(self) -> None:
        """Finish the requests that were begun and let go of everything; repeats are harmless.

        Spools and readers that are still open belong to their holders, and the latter can no longer be read.
        """
        if self._closed:
            return
        self._closed = True
        await self._spools.close()
        await asyncio.to_thread(self._threads.shutdown)
        self._bucket.close()

    def _key(self, location: Location) -> str:
        return f"{self._folder}{location}"

    def _location(self, key: str) -> Location | None:
        try:
            location = Location.parse(key.removeprefix(self._folder))
        except ValueError:
            return None
        return location if len(location.token) == _TOKEN_BYTES else None

    def _deadline(self) -> float:
        return time.monotonic() + self._options.deadline_s

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BlobUnavailable("the blob store is closed")

    async def _ask(self, request: Callable[[], Result]) -> Result:
        return await self._in_thread(lambda until: self._retrying.call(request, until))

    async def _in_thread(
        self, work: Callable[[float], Result], discard: Callable[[Result], None] | None = None
    ) -> Result:
        """Return what ``work`` returns; it is given the time (monotonic seconds) by which it must be done.

        Nobody waits longer than that, for the thread or for the work. What comes later is discarded.
        """
        self._refuse_if_closed()
        making = self._threads.submit(work, self._deadline())
        try:
            async with asyncio.timeout(self._options.deadline_s):
                return await asyncio.wrap_future(making)
        except S3Failure as failure:
            raise failure.unavailable(self._place) from failure
        except (TimeoutError, asyncio.CancelledError) as error:
            if discard is not None:
                making.add_done_callback(lambda made: _discard(made, discard))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise BlobUnavailable(f"{self._place}: no answer within {self._options.deadline_s:g} seconds") from error


def _refuse_if_outside(location: Location, span: Span, size: int) -> None:
    if span.start < 0 or span.length < 0 or span.end > size:
        raise BlobDamaged(location, f"bytes {span.start} to {span.end} were asked for, it has {size}")


def _discard(made: Future[Result], discard: Callable[[Result], None]) -> None:
    if not made.cancelled() and made.exception() is None:
        discard(made.result())


def _connect(options: S3Options) -> S3Client:
    """Return a client that sends each request once: ``Retrying`` alone sends it again."""
    config = Config(
        signature_version="s3v4",
        max_pool_connections=options.max_connections,
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        tcp_keepalive=True,
        retries={"mode": "adaptive" if options.adaptive else "standard", "total_max_attempts": 1},
        # Older servers do not know the checksums that boto3 would add; the SHA-256 that matters is given by hand.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Servers that do not know checksum headers still compare a signed body with its signature.
        s3={"addressing_style": "path" if options.path_style else "auto", "payload_signing_enabled": True},
    )
    session = boto3.session.Session(region_name=options.region)
    client: S3Client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
    return client


def _failure(error: Exception) -> S3Failure | None:
    """Tell what an exception of boto3 means, None if it is of someone else."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        return S3Failure(str(error), code=code, status=error.response["ResponseMetadata"]["HTTPStatusCode"])
    if isinstance(error, NoCredentialsError):
        return S3Failure("no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    passing = (
        HTTPClientError,
        NoConnectionError,
        IncompleteReadError,
        ResponseParserError,
        urllib3.exceptions.HTTPError,
    )
    if isinstance(error, (BotoCoreError, OSError, *passing)):
        return S3Failure(str(error), lost=isinstance(error, (OSError, *passing)))
    return None
