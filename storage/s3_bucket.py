"""The requests that the S3 backend makes, each sent once and answered or failed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict

from storage.s3_counts import S3Counts
from storage.s3_failure import S3Failure
from storage.s3_options import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Body(Protocol):
    """Bytes of an object on their way."""

    def read(self, amt: int) -> bytes:
        """Return the next bytes; none at the end."""

    def close(self) -> None:
        """Let go of it."""


class Found(NamedTuple):
    """What a HEAD tells: the size in bytes, and the SHA-256 in hex that the uploader wrote down, or ``""``."""

    size: int
    sha256: str


class Opened(NamedTuple):
    """What a GET gives: a body of ``length`` bytes, of an object of ``size`` bytes and this entity tag."""

    body: Body
    length: int
    size: int
    tag: str


class Part(NamedTuple):
    """A part that was uploaded: its number from 1 on, its entity tag, and its SHA-256."""

    number: int
    tag: str
    sha256: bytes


class Begun(NamedTuple):
    """A multipart upload that was begun, and not yet completed."""

    key: str
    upload: str


class _Keeping(TypedDict, total=False):
    StorageClass: Literal["STANDARD"]
    ServerSideEncryption: Literal["AES256", "aws:kms"]
    SSEKMSKeyId: str


class S3Bucket:
    """One bucket. Every method blocks, sends one request, and raises ``S3Failure``; any thread may call it."""

    def __init__(
        self,
        client: S3Client,
        options: S3Options,
        counts: S3Counts,
        failure: Callable[[Exception], S3Failure | None],
    ) -> None:
        """``failure`` tells what an exception of ``client`` means, None if it is none of its own."""
        self._client = client
        self._bucket = options.bucket
        self._conditional = options.conditional
        self._counts = counts
        self._failure = failure
        self._keeping = _keeping(options)

    @contextmanager
    def _request(self) -> Iterator[None]:
        self._counts.add("s3_requests")
        with self._failing():
            yield

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failure = self._failure(error)
            if failure is None:
                raise
            if not (failure.missing or failure.outside):
                self._counts.add("s3_errors")
            if failure.throttled:
                self._counts.add("s3_throttled")
            raise failure from error

    def put(self, key: str, data: bytes, sha256: bytes) -> None:
        """Put a new object. The server compares the bytes with ``sha256``, keeps it, and refuses to overwrite."""
        with self._request():
            if self._conditional:
                # protection: never-overwrite-object
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=data,
                    ChecksumSHA256=_text(sha256),
                    Metadata={"sha256": sha256.hex()},
                    IfNoneMatch="*",
                    **self._keeping,
                )
            else:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=data,
                    ChecksumSHA256=_text(sha256),
                    Metadata={"sha256": sha256.hex()},
                    **self._keeping,
                )
        self._counts.add("s3_bytes_out", len(data))

    def replace(self, key: str, data: bytes, sha256: bytes) -> None:
        """Put an object, in the place of the one that may be there. The server compares the bytes with ``sha256``."""
        with self._request():
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ChecksumSHA256=_text(sha256), **self._keeping
            )
        self._counts.add("s3_bytes_out", len(data))

    def begin(self, key: str, sha256: str) -> str:
        """Begin a multipart upload of a new object; return its id. ``sha256``: hex to be written down, or ``""``."""
        with self._request():
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                ChecksumAlgorithm="SHA256",
                Metadata={"sha256": sha256} if sha256 else {},
                **self._keeping,
            )
        return answer["UploadId"]

    def put_part(self, key: str, upload: str, number: int, data: bytes, sha256: bytes) -> Part:
        """Put one part. The server compares the bytes with ``sha256``."""
        with self._request():
            answer = self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ChecksumSHA256=_text(sha256),
            )
        self._counts.add("s3_bytes_out", len(data))
        return Part(number, answer["ETag"], sha256)

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Make one object of the parts, in this order; the server refuses to overwrite."""
        listed: list[CompletedPartTypeDef] = [
            {"PartNumber": part.number, "ETag": part.tag, "ChecksumSHA256": _text(part.sha256)} for part in parts
        ]
        with self._request():
            if self._conditional:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}, IfNoneMatch="*"
                )
            else:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
                )

    def abort(self, begun: Begun) -> None:
        """Drop a multipart upload; one that is gone is no error."""
        with self._request():
            try:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=begun.key, UploadId=begun.upload)
            except self._client.exceptions.NoSuchUpload:
                return

    def begun(self, prefix: str, older_than_s: float) -> list[Begun]:
        """Return up to a thousand of the multipart uploads of keys with this prefix that were begun so long ago.

        It is the server's clock that counts.
        """
        found: list[Begun] = []
        key_marker = upload_marker = ""
        while True:
            with self._request():
                answer = self._client.list_multipart_uploads(
                    Bucket=self._bucket, Prefix=prefix, KeyMarker=key_marker, UploadIdMarker=upload_marker
                )
            now = _server_time(answer["ResponseMetadata"]["HTTPHeaders"])
            found += [
                Begun(upload["Key"], upload["UploadId"])
                for upload in answer.get("Uploads", ())
                if (now - upload["Initiated"]).total_seconds() >= older_than_s
            ]
            if not answer.get("IsTruncated") or len(found) >= 1000:
                return found
            key_marker, upload_marker = answer["NextKeyMarker"], answer["NextUploadIdMarker"]

    def get(self, key: str, start: int, end: int, tag: str | None) -> Opened:
        """Ask for the bytes from ``start`` to before ``end``, or to the object's end if that is nearer.

        ``end`` is above ``start``. With a ``tag``, the object must still have it.
        """
        with self._request():
            asked = f"bytes={start}-{end - 1}"
            if tag is None:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=asked)
            else:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=asked, IfMatch=tag)
        length = answer["ContentLength"]
        match = _RANGE.fullmatch(answer.get("ContentRange", ""))
        size = int(match[3]) if match else length
        # A server may ignore the range; then the answer is the whole object, and longer than what is wanted of it.
        first = int(match[1]) if match else 0
        if first != start or length != min(end, size) - start:
            answer["Body"].close()
            raise S3Failure(f"{key}: {asked} was asked for, {length} of {size} bytes from {first} on were given")
        return Opened(answer["Body"], length, size, answer["ETag"])

    def read(self, body: Body, length: int) -> bytes:
        """Return up to so many bytes of a body; none at its end."""
        with self._failing():
            data = body.read(length)
        self._counts.add("s3_bytes_in", len(data))
        return data

    def head(self, key: str) -> Found:
        """Return what is known of an object."""
        with self._request():
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        return Found(answer["ContentLength"], answer["Metadata"].get("sha256", ""))

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        with self._request():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def keys(self, prefix: str, after: str, most: int = 1000) -> tuple[list[str], bool]:
        """Return the next keys with this prefix behind ``after``, in order, and whether there are more."""
        with self._request():
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=most)
        return [entry["Key"] for entry in answer.get("Contents", ())], answer["IsTruncated"]

    def url(self, key: str, *, seconds: int, media_type: str, disposition: str) -> str:
        """Return a presigned URL of an object. Sends no request, but may have to ask for credentials."""
        with self._failing():
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentType": media_type,
                    "ResponseContentDisposition": disposition,
                },
                ExpiresIn=seconds,
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _keeping(options: S3Options) -> _Keeping:
    keeping = _Keeping()
    if options.storage_class is not None:
        # The stubs know the classes of AWS; other servers have their own.
        keeping["StorageClass"] = options.storage_class  # type: ignore[typeddict-item]
    if options.encryption is not None:
        keeping["ServerSideEncryption"] = options.encryption
    if options.kms_key is not None:
        keeping["SSEKMSKeyId"] = options.kms_key
    return keeping


def _text(sha256: bytes) -> str:
    return b64encode(sha256).decode()


def _server_time(headers: dict[str, str]) -> datetime:
    return parsedate_to_datetime(headers["date"])
