"""What is known of a file as the API's JSON tells it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from stat7store.coordinates import Coordinates, stat7_uri
from stat7store.record import Entry


def file_json(entry: Entry, created: bool | None = None) -> dict[str, object]:
    """Return the FileRecord of an entry as a JSON object.

    ``created`` says whether an upload was new to the store; None, outside of uploads, leaves it out.
    """
    locator, record = entry.locator, entry.record
    coordinates = Coordinates.of(record)
    media = record.media
    return {
        "address": record.address.hex(),
        "uri": stat7_uri(coordinates),
        **({} if created is None else {"created": created}),
        "size": locator.size,
        "media_type": locator.media_type,
        "filename": record.filename,
        "stored_at": timestamp(record.stored_at),
        "revision": record.revision,
        "coordinates": coordinates.to_json(),
        "media": {
            "width": media.width,
            "height": media.height,
            "frames": media.frames,
            "duration_s": media.duration_s,
            "codec": media.codec,
        },
        "tags": list(record.tags),
    }


def timestamp(milliseconds: int) -> str:
    """Write milliseconds since 1970 in UTC, ``2025-01-01T00:00:00.000Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=64)  # many files come in the same second
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
