"""The headers that say what a file is: the same on every answer with its bytes, or without them (304, HEAD)."""

from __future__ import annotations

from typing import Literal

from stat7store.record import Entry
from stat7store.server.conditions import entity_tag
from stat7store.server.headers import content_disposition, digest_of_sha256, format_date

# The content of an address never changes, so it may be kept for ever (RFC 8246). What a page from
# another origin could make of it is nothing: it is sandboxed, and never taken for another type.
_FIXED_HEADERS = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def file_headers(entry: Entry, kind: Literal["inline", "attachment"] = "inline") -> dict[str, str]:
    """Return the headers of a file in the order in which they are sent."""
    record = entry.record
    return {
        **_FIXED_HEADERS,
        "Content-Type": entry.locator.media_type,
        "Content-Disposition": content_disposition(kind, record.filename),
        "ETag": entity_tag(record.address.hex()),
        "Last-Modified": format_date(record.stored_at // 1000),
        "Repr-Digest": digest_of_sha256(record.address),
    }
