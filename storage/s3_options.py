"""Where an S3 bucket is and how to talk to it: values only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_SMALLEST_PART = 5 << 20


@dataclass(frozen=True, slots=True)
class S3Options:
    """One bucket, or one prefix of it, and the limits of talking to it.

    Credentials are no part of this: boto3 looks for them in its usual places (environment, shared
    files, the machine's role). Raises ``ValueError`` for a value that cannot work.
    """

    bucket: str
    prefix: str = ""
    """Put before every key, with a slash between; no slash at either end."""
    endpoint_url: str | None = None
    """None means AWS itself."""
    region: str | None = None
    """None means the one boto3 finds, as it finds credentials."""
    path_style: bool = False
    """Name the bucket in the path, not in the host: most servers other than AWS want it."""
    storage_class: str | None = None
    """None means the bucket's own."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """How the server is to encrypt what is put; None means the bucket's own way."""
    kms_key: str | None = None
    """The key for ``aws:kms``; None means the account's own."""
    conditional: bool = True
    """Refuse to overwrite (``If-None-Match: *``); for a server that rejects such requests, False."""
    adaptive: bool = False
    """Let boto3 slow all requests down while the server throttles (its adaptive mode)."""
    max_connections: int = 64
    """Also the number of threads: so many requests are under way at once."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 15.0
    """The longest silence of the server within a request."""
    attempts: int = 4
    """Tries of one request, the first included; and how often a body may break off and be gone on with."""
    deadline_s: float = 60.0
    """The longest wait for one request with all its tries; a multipart upload is one for each part."""
    multipart_above: int = 16 << 20
    """Blobs of more bytes than this are put in parts."""
    part_size: int = 8 << 20
    """Bytes of a part, 5 MiB or more; larger only for a blob that would have more than 10,000 parts."""
    memory: int = 96 << 20
    """Bytes held for all uploads and for all read-ahead together, half of it for each."""

    def __post_init__(self) -> None:
        if _URL.fullmatch(f"s3://{self.bucket}") is None:
            raise ValueError(f"not the name of an S3 bucket: {self.bucket!r}")
        if self.prefix.strip("/") != self.prefix or "//" in self.prefix:
            raise ValueError(f"a prefix has no empty parts: {self.prefix!r}")
        if self.part_size < _SMALLEST_PART:
            raise ValueError(f"S3 takes no parts below 5 MiB: {self.part_size}")
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("a KMS key is of use with the encryption aws:kms only")
        for name in ("max_connections", "attempts", "connect_timeout_s", "read_timeout_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")

    @classmethod
    def parse(cls, url: str) -> S3Options:
        """Read ``s3://bucket`` or ``s3://bucket/prefix``; ``dataclasses.replace`` sets the rest.

        Raises ``ValueError`` for anything else.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(f"not of the form s3://bucket/prefix: {url!r}")
        return cls(match[1], (match[2] or "").rstrip("/"))

    @property
    def folder(self) -> str:
        """What every key begins with."""
        return f"{self.prefix}/" if self.prefix else ""

    def __str__(self) -> str:
        place = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return f"{place} at {self.endpoint_url}" if self.endpoint_url else place
