"""The checks that S3 makes on what it is sent, and moto does not: bodies against the checksums that came with them."""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\{.*\}Part")


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "content-md5": lambda data: hashlib.md5(data).digest(),
    "x-amz-checksum-crc32": _crc32,
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
}

_UNKNOWN = {"x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme"}


class Refused(Exception):
    """S3 would refuse the request with this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_body(headers: Mapping[str, str], body: bytes) -> int:
    """Compare a body with every checksum in its headers and trailers; return how many there were.

    ``headers`` are looked up in lower case. Raises ``Refused``: ``BadDigest`` for a checksum that differs,
    ``NotImplemented`` for one of a kind that is not known here.
    """
    given = {name: value for name, value in headers.items() if name in _CHECKSUMS or name in _UNKNOWN}
    signed = headers.get("x-amz-content-sha256", "")
    count = 0
    if _SHA256.fullmatch(signed):
        if hashlib.sha256(body).hexdigest() != signed:
            raise Refused("XAmzContentSHA256Mismatch", "the body is not what was signed")
        count += 1
    if signed.startswith("STREAMING-"):
        body, trailers = unchunked(body)
        given |= trailers
        if len(body) != int(headers.get("x-amz-decoded-content-length", len(body))):
            raise Refused("IncompleteBody", "the body is not as long as was announced")
    for name, value in given.items():
        if name not in _CHECKSUMS:
            raise Refused("NotImplemented", f"{name} cannot be checked here")
        if b64encode(_CHECKSUMS[name](body)).decode() != value:
            raise Refused("BadDigest", f"the body does not have this {name}")
    return count + len(given)


def unchunked(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Take the content encoding ``aws-chunked`` off a body; return it with its trailers, in lower case."""
    pieces = []
    while True:
        line, end, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0] or b"-1", 16) if end else -1
        if size < 0 or len(body) < size:
            raise Refused("IncompleteBody", "the chunks end early")
        if size == 0:
            break
        pieces.append(body[:size])
        body = body[size:].removeprefix(b"\r\n")
    trailers = {}
    for trailer in body.decode("latin-1").splitlines():
        name, colon, value = trailer.partition(":")
        if colon:
            trailers[name.strip().lower()] = value.strip()
    return b"".join(pieces), {name: value for name, value in trailers.items() if name != "x-amz-trailer-signature"}


class Parts:
    """Checksums of the parts of multipart uploads, as S3 remembers them until the upload is completed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], str] = {}

    def keep(self, upload: str, number: str, sha256: str | None) -> None:
        """Remember a part that was taken."""
        self._kept[upload, number] = sha256 or ""

    def check(self, upload: str, document: bytes) -> None:
        """Compare the list that completes an upload with what was taken. Raises ``Refused``."""
        for part in ET.fromstring(document):
            if not _PART.fullmatch(part.tag):
                continue
            told = {element.tag.rpartition("}")[2]: element.text or "" for element in part}
            if self._kept.get((upload, told["PartNumber"])) != told.get("ChecksumSHA256", ""):
                raise Refused("InvalidPart", f"part {told['PartNumber']} does not have this checksum")
