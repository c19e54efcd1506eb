"""Header values: written, read and checked. Plain strings in, plain values out."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from stat7store.errors import Malformed
from stat7store.timing import StageClock

FILENAME_BYTES = 255
REQUEST_ID_BYTES = 16  # of those made here; random, so that no two of any number of workers are the same

_DISPOSITION_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;]*+)')
_QUOTED_PAIR = re.compile(r'\\(["\\])')
_EXTENDED_VALUE = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.IGNORECASE | re.DOTALL)
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"  # RFC 8187 §3.2.1, beside letters and digits
_UNSAFE_IN_FALLBACK = re.compile(r'[^ -~]|["\\%]')

_DIGEST_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:;[^,]*)?")
_DIGEST_FORM = "sha-256=:<base64 of 32 bytes>:"

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    re.compile(rf"[^ ,]*+, *+(?P<day>[0-9]{{2}}) (?P<month>[A-Za-z]{{3}}) (?P<year>[0-9]{{4}}) {_TIME}"),
    re.compile(rf"[^ ,]*+, *+(?P<day>[0-9]{{2}})-(?P<month>[A-Za-z]{{3}})-(?P<year>[0-9]{{2}}) {_TIME}"),
    re.compile(rf"[^ ,]*+ ++(?P<month>[A-Za-z]{{3}})  ?(?P<day>[0-9]{{1,2}}) {_TIME} (?P<year>[0-9]{{4}})"),
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def content_disposition(kind: Literal["inline", "attachment"], filename: str) -> str:
    """Return ``Content-Disposition`` (RFC 6266) that names a file; without a name, the kind alone.

    ``filename`` holds printable ASCII without quotes, backslashes and percent signs, which clients
    read in different ways; ``filename*`` (RFC 8187) holds the exact name where that is not enough.
    """
    if not filename:
        return kind
    fallback = _UNSAFE_IN_FALLBACK.sub("_", filename)
    value = f'{kind}; filename="{fallback}"'
    if fallback == filename:
        return value
    return f"{value}; filename*=UTF-8''{quote(filename, safe=_ATTRIBUTE_CHARACTERS, errors='replace')}"


def filename_of(disposition: str | None) -> str:
    """Return the file name a ``Content-Disposition`` gives, without folders; "" if it gives none.

    ``filename*`` goes before ``filename`` wherever it stands (RFC 6266 §4.3). Unreadable parameters
    are passed over. The name still has to be checked: see ``checked_filename``.
    """
    plain = extended = None
    for name, value in _DISPOSITION_PARAMETER.findall(disposition or ""):
        if name.lower() == "filename" and plain is None:
            plain = _unquote(value.strip())
        elif name.lower() == "filename*" and extended is None:
            extended = _decode_extended(value.strip())
    return _without_folders(extended or plain or "")


def checked_filename(name: str) -> str:
    """Return the name a file is to be kept under: the last component of what was given.

    Raises ``Malformed`` if that is empty, ``.`` or ``..``, longer than 255 bytes of UTF-8, or holds
    control characters, line separators or halves of surrogate pairs.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise Malformed("the file name holds control characters", filename=_shown(name))
    kept = _without_folders(name).strip()
    if kept in ("", ".", ".."):
        raise Malformed("the file name is empty", filename=_shown(name))
    size = len(kept.encode())
    if size > FILENAME_BYTES:
        raise Malformed(
            "the file name is too long", expected=f"at most {FILENAME_BYTES} bytes of UTF-8", actual=f"{size} bytes"
        )
    return kept


def digest_of_sha256(digest: bytes) -> str:
    """Return ``Repr-Digest`` or ``Content-Digest`` (RFC 9530) for a SHA-256."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def sha256_of_digest(header: str | None) -> bytes | None:
    """Return the SHA-256 in a ``Repr-Digest`` or ``Content-Digest``; None if it holds none.

    Other algorithms are ignored; of several values for the same one the last counts (RFC 8941
    §4.2.2). Raises ``Malformed``.
    """
    if header is None:
        return None
    digest = None
    for member in header.split(","):
        match = _DIGEST_MEMBER.fullmatch(member.strip(" \t"))
        if match is None:
            raise _malformed_digest(header)
        if match[1] == "sha-256":
            digest = match[2]
    if digest is None:
        return None
    try:
        sha256 = base64.b64decode(digest, validate=True)
    except binascii.Error as error:
        raise _malformed_digest(header) from error
    if len(sha256) != 32:
        raise _malformed_digest(header)
    return sha256


def format_date(seconds: int) -> str:
    """Return an HTTP date (RFC 9110 §5.6.7) for a time in seconds since 1970."""
    return formatdate(seconds, usegmt=True)


def parse_date(text: str) -> int | None:
    """Read an HTTP date in any of its three forms; seconds since 1970, or None if it is no date.

    As tolerant as nginx: the weekday and whatever follows the time (or the year of the asctime
    form) are not looked at. Two-digit years from 70 on are of the 1900s. Stricter in one thing:
    nginx looks at some letters of the month only.
    """
    for form in _DATES:
        if match := form.match(text):
            year = int(match["year"])
            if len(match["year"]) == 2:
                year += 1900 if year >= 70 else 2000
            day, hour, minute, second = (int(match[part]) for part in ("day", "hour", "minute", "second"))
            try:
                date = datetime(year, _MONTHS.index(match["month"]) + 1, day, hour, minute, second, tzinfo=UTC)
            except ValueError:
                return None
            return int(date.timestamp())
    return None


def server_timing(clock: StageClock, source: str | None) -> str:
    """Return ``Server-Timing`` (W3C): index, metadata and disk up to the first byte, in milliseconds.

    ``source`` is the place the bytes were read from; None if none were.
    """
    disk = (
        f'disk;dur={clock.disk_first / 1e6:.4f};desc="{source}"' if source else f"disk;dur={clock.disk_first / 1e6:.4f}"
    )
    return f"index;dur={clock.index / 1e6:.4f}, metadata;dur={clock.metadata / 1e6:.4f}, {disk}"


def request_id(given: str | None, new: Callable[[], str] = lambda: secrets.token_hex(REQUEST_ID_BYTES)) -> str:
    """Return the client's own ``X-Request-ID`` if it is 1–128 of ``[A-Za-z0-9._-]``, else a new one, in hex."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new()


def _decode_extended(value: str) -> str | None:
    match = _EXTENDED_VALUE.fullmatch(value)
    if match is None:
        return None
    try:
        return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeDecodeError:
        return None


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value
    return _QUOTED_PAIR.sub(r"\1", value[1:].removesuffix('"'))


def _without_folders(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _malformed_digest(header: str) -> Malformed:
    return Malformed("not a digest header that can be read", expected=_DIGEST_FORM, actual=_shown(header))


def _shown(text: str) -> str:
    return repr(text[:80])[1:-1]  # what cannot be shown is escaped
