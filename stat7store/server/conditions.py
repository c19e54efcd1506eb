"""Conditional requests (RFC 9110 §13) for GET and HEAD, as nginx 1.22 answers them.

A file's strong entity tag is its address in quotes; it was last modified when it was stored, to the
second. Two things differ from nginx, because RFC 9110 §13.2.2 asks for them: ``If-Modified-Since``
is ignored beside ``If-None-Match``, and ``If-Unmodified-Since`` beside ``If-Match``.

Kept from nginx: ``If-Modified-Since`` holds only for the very time the file was stored, and
``If-Unmodified-Since`` without a readable date does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from stat7store.server.headers import parse_date


class Verdict(Enum):
    """What the conditions of a request ask for."""

    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


def entity_tag(address: str) -> str:
    """Return the strong entity tag of the file with this address, as ``ETag`` carries it."""
    return f'"{address}"'


def evaluate(headers: Mapping[str, str], address: str, modified: int) -> Verdict:
    """Weigh all conditions of a GET or HEAD but ``If-Range``, in the order of RFC 9110 §13.2.2.

    ``headers`` finds a header by its usual spelling; ``address`` is the file's, in hex, and
    ``modified`` the time it was stored, in whole seconds since 1970.
    """
    tag = entity_tag(address)
    match, unmodified_since = headers.get("If-Match"), headers.get("If-Unmodified-Since")
    if match is not None:
        if not _is_listed(tag, match, weakly=False):
            return Verdict.FAILED
    elif unmodified_since is not None:
        date = parse_date(unmodified_since)
        if date is None or date < modified:
            return Verdict.FAILED
    none_match, modified_since = headers.get("If-None-Match"), headers.get("If-Modified-Since")
    if none_match is not None:
        if _is_listed(tag, none_match, weakly=True):
            return Verdict.NOT_MODIFIED
    elif modified_since is not None and parse_date(modified_since) == modified:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def range_applies(headers: Mapping[str, str], address: str, modified: int) -> bool:
    """Whether ``If-Range`` lets ``Range`` count: no such header, or this very tag or date."""
    validator = headers.get("If-Range")
    if validator is None:
        return True
    if len(validator) >= 2 and validator.endswith('"'):
        return validator == entity_tag(address)
    return parse_date(validator) == modified


def _is_listed(tag: str, header: str, *, weakly: bool) -> bool:
    if header == "*":
        return True
    listed = (member.strip(" \t") for member in header.split(","))
    return any((member.removeprefix("W/") if weakly else member) == tag for member in listed)
