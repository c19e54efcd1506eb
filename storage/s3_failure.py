"""What can go wrong with one request to S3, and what each of it means."""

from __future__ import annotations

from storage.base import BlobNoSpace, BlobUnavailable

_THROTTLED = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "BandwidthLimitExceeded",
}
# The request or its answer was altered or cut off on its way, or met another one.
_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "InvalidDigest",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity"}
_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


class S3Failure(Exception):
    """One request failed. ``code`` is S3's own, or empty; ``status`` is HTTP's, or 0 if no answer came."""

    def __init__(self, message: str, *, code: str = "", status: int = 0, lost: bool = False) -> None:
        """``lost``: the connection failed or was silent, so that nobody knows whether the request was applied."""
        super().__init__(message)
        self.code = code
        self.status = status
        self.lost = lost

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed if it is sent again."""
        if self.full:
            return False
        return self.lost or self.throttled or self.code in _PASSING or self.status == 409 or self.status >= 500

    @property
    def throttled(self) -> bool:
        """Whether the server asks for fewer requests."""
        return self.code in _THROTTLED or self.status in (429, 503)

    @property
    def full(self) -> bool:
        """Whether the server has no room left."""
        return self.code in _FULL or self.status == 507

    @property
    def missing(self) -> bool:
        """Whether there is no such object. A missing bucket is something else."""
        return self.code == "NoSuchKey" or (self.status == 404 and self.code in ("404", "NotFound", ""))

    @property
    def unmet(self) -> bool:
        """Whether the condition of the request did not hold."""
        return self.status == 412

    @property
    def in_doubt(self) -> bool:
        """Whether the request, or an earlier try of it, may have been applied all the same."""
        return self.lost or self.unmet or self.status >= 500 or self.status == 409 or self.code == "NoSuchUpload"

    @property
    def outside(self) -> bool:
        """Whether the range that was asked for begins behind the object's end."""
        return self.status == 416

    def unavailable(self, place: str) -> BlobUnavailable:
        """Return what to raise to a caller of the backend; it says what to do about it, where something can be done."""
        if self.full:
            return BlobNoSpace(f"{place} has no room left: {self}")
        if self.code == "NoSuchBucket":
            return BlobUnavailable(f"{place}: there is no such bucket; create it, or name another")
        if self.code in _CREDENTIALS:
            return BlobUnavailable(f"{place} does not accept the credentials that boto3 found ({self})")
        if self.status == 403:
            return BlobUnavailable(
                f"{place} refuses the credentials what they ask for ({self}); they need s3:ListBucket and"
                " s3:ListBucketMultipartUploads on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and"
                " s3:AbortMultipartUpload on what is in it"
            )
        if self.status == 501:
            return BlobUnavailable(f"{place} does not know a part of the request ({self}); turn conditional writes off")
        return BlobUnavailable(f"{place}: {self}")
