"""The S3 backend: one object a blob, through boto3 in threads. Nothing else imports boto3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
from botocore.handlers import convert_body_to_file_like_object
from botocore.parsers import ResponseParserError

from storage.base import BlobUnavailable, Location, Reader, Span, Spool
from storage.file_spool import remove_stale_spools
from storage.group import GroupCommit
from storage.linux import Linux, give_back_large_blocks, unavailable
from storage.s3_bucket import S3Bucket
from storage.s3_counts import S3Counts
from storage.s3_download import S3Downloads
from storage.s3_failure import S3Failure
from storage.s3_options import S3Options
from storage.s3_requests import TOKEN_BYTES, S3Requests
from storage.s3_spool import S3Spool
from storage.s3_upload import S3Uploads

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

Result = TypeVar("Result")

_NAME = re.compile(r"[0-9a-f]{64}")
# After these nobody knows whether the request was applied.
_LOST = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    OSError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
)
_LOST = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    OSError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
)
_SMALL_BYTES = 1024


class S3Blobs:
    """A ``BlobStore``, ``Planned``, ``Presigned``, ``Ownable``, ``Noted``, ``Unfinished`` and ``Counted``, in a bucket.

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
        self._spool_folder = str(spools.absolute())
        self._verify = verify
        self._probed = False
        self._place = str(options)
        self._folder = options.folder
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
        # Parts pass through many threads, and each would keep the memory of its largest ones.
        give_back_large_blocks()
        counts = S3Counts()
        self._bucket = S3Bucket(client, options, counts, _failure)
        self._requests = S3Requests(self._bucket, options, counts)
        self._uploads = S3Uploads(self._requests)
        self._downloads = S3Downloads(self._requests, verify=verify)
        self._spools: GroupCommit[None, S3Spool] = GroupCommit(
            self._new_spools, name="blob-spools", discard=S3Spool.close
        )

    async def spool(self) -> Spool:
        """Return a new, empty spool in the local folder. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""
        self._requests.refuse_if_closed()
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
        return Location(name, secrets.token_bytes(TOKEN_BYTES))

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
        self._requests.refuse_if_closed()
        if not isinstance(spool, S3Spool):
            raise ValueError("the spool is of another kind of store")
        spooled = spool.hand_over()
        try:
            await self._uploads.put(self._requests.key(location), spooled, location.name if self._verify else "")
        finally:
            spooled.close()

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob: one request, which brings its first bytes too.

        Raises ``BlobMissing``, ``BlobUnavailable``, or ``BlobDamaged`` if the span does not lie within
        the blob, or if a blob of up to 1 MiB is not what its name says.
        """
        self._requests.refuse_if_closed()
        return await self._downloads.open(location, span)

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises ``BlobMissing``."""
        return await self._downloads.stat(location)

    async def delete(self, location: Location) -> None:
        """Remove the blob for good. Durable on return; a missing one is no error."""
        await self._requests.ask(lambda: self._bucket.delete(self._requests.key(location)))

    async def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """Yield all locations in the order of their text form, those up to ``after`` left out.

        Holds a thousand at a time. What is not named as this store names blobs is passed over.
        """
        last = self._requests.key(after) if after else ""
        more = True
        while more:
            keys, more = await self._requests.ask(partial(self._bucket.keys, self._folder, last))
            for key in keys:
                last = key
                location = self._requests.location(key)
                if location is not None:
                    yield location

    async def url(self, location: Location, *, seconds: int, media_type: str, disposition: str) -> str:
        """See ``Presigned``. Whether the blob is there is not asked."""
        return await self._requests.ask(
            lambda: self._bucket.url(
                self._requests.key(location), seconds=seconds, media_type=media_type, disposition=disposition
            )
        )

    async def abort_unfinished(self, older_than_s: float) -> int:
        """Drop the multipart uploads of blobs that were begun longer ago than that; return how many.

        What others have begun under the prefix is left alone. It is the server's clock that counts.
        Local spools of dead processes go too.
        """
        stale = await asyncio.to_thread(remove_stale_spools, self._spool_folder)
        begun = await self._requests.ask(lambda: self._bucket.begun(self._folder, older_than_s))
        ours = [upload for upload in begun if self._requests.location(upload.key) is not None]
        for upload in ours:
            await self._requests.ask(partial(self._bucket.abort, upload))
        return stale + len(ours)

    def counts(self) -> dict[str, int]:
        """See ``Counted`` and ``S3Counts``."""
        return self._requests.counts.now()

    async def check(self) -> None:
        """Return if the bucket can be listed; the first time, also if objects can be put, read and deleted.

        Raises ``BlobUnavailable``, which says what to do about it.
        """
        await self._requests.ask(lambda: self._bucket.keys(self._folder, "", 1))
        if not self._probed:
            await self._probe(f"{self._folder}check.{secrets.token_hex(TOKEN_BYTES)}")
            self._probed = True
        (await self.spool()).close()

    async def own(self, owner: str) -> None:
        """See ``Ownable``. The owner's name is an object beside the blobs."""
        key, data = f"{self._folder}owner", owner.encode()
        found = await self._requests.ask(lambda: self._small(key))
        if found is None:
            await self._requests.ask(lambda: self._put_small(key, data))
            found = await self._requests.ask(lambda: self._small(key))
        if found != data:
            raise BlobUnavailable(
                f"{self._place}: it is another store's, whose sweeps would delete what this one puts there; name "
                f"another bucket or prefix, or if that store is gone for good, delete the object {key} first"
            )

    async def note(self, name: str) -> bytes | None:
        """See ``Noted``. Raises ``BlobUnavailable``."""
        return await self._requests.ask(lambda: self._small(f"{self._folder}{name}"))

    async def write_note(self, name: str, data: bytes) -> None:
        """See ``Noted``. Raises ``BlobUnavailable``."""
        digest = hashlib.sha256(data).digest()
        await self._requests.ask(lambda: self._bucket.replace(f"{self._folder}{name}", data, digest))

    def _small(self, key: str) -> bytes | None:
        """Return the first bytes of an object; None if there is none."""
        try:
            body = self._bucket.get(key, 0, _SMALL_BYTES, None).body
        except S3Failure as failure:
            if failure.missing:
                return None
            raise
        try:
            return self._bucket.read(body, _SMALL_BYTES)
        finally:
            body.close()

    def _put_small(self, key: str, data: bytes) -> None:
        try:
            self._bucket.put(key, data, hashlib.sha256(data).digest())
        except S3Failure as failure:
            if not failure.unmet:  # an earlier try was applied, or someone else was faster
                raise

    async def _probe(self, key: str) -> None:
        data = b"Written to learn whether it can be; may be deleted.\n"

        def get() -> None:
            self._bucket.get(key, 0, len(data), None).body.close()

        await self._requests.ask(lambda: self._put_small(key, data))
        try:
            await self._requests.ask(get)
        except BlobUnavailable:
            with suppress(BlobUnavailable):  # what was refused first is what is told
                await self._requests.ask(lambda: self._bucket.delete(key))
            raise
        await self._requests.ask(lambda: self._bucket.delete(key))

    async def close(self) -> None:
        """Finish the requests that were begun and let go of everything; repeats are harmless.

        Spools and readers that are still open belong to their holders, and the latter can no longer be read.
        """
        if self._requests.is_closed:
            return
        self._requests.is_closed = True
        await self._spools.close()
        await self._requests.close()


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
    for operation in ("PutObject", "UploadPart"):
        # As a file, bytes would be sent 16 KiB at a time, and only once the server has said that it wants them.
        client.meta.events.unregister(f"before-parameter-build.s3.{operation}", convert_body_to_file_like_object)
    return client


def _failure(error: Exception) -> S3Failure | None:
    """Tell what an exception of boto3 means, None if it is of someone else."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response["Error"].get("Code", "")
        said = error.response["Error"].get("Message") or ""
        return S3Failure(f"{error.operation_name}: {code} {said}".rstrip(), code=code, status=status)
    if isinstance(error, NoCredentialsError):
        return S3Failure("no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    if isinstance(error, _LOST):
        return S3Failure(str(error), lost=True)
    if isinstance(error, BotoCoreError):
        return S3Failure(str(error))
    return None
