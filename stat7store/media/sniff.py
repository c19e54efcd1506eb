"""The media type of a file, told from its first bytes, never from its name or its sender."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pure_magic_rs

HEAD_BYTES = 4096
UNKNOWN = "application/octet-stream"


def sniff(head: bytes) -> str:
    """Return the media type that the first ``HEAD_BYTES`` of a file show, in lower case.

    ``application/octet-stream`` where nothing is recognised. Only signatures are compared, in
    memory-safe code and over a bounded head: nothing is decoded here.
    """
    try:
        found = _rules().best_magic_buffer(head[:HEAD_BYTES]).mime_type
    except ValueError:
        return UNKNOWN
    return found.strip().lower() or UNKNOWN


def realm_of(media_type: str) -> str:
    """Return the realm a media type belongs to: image, movie, audio, document or data."""
    family, _, kind = media_type.partition("/")
    if family == "video":
        return "movie"
    if family in ("image", "audio"):
        return family
    return "document" if family == "text" or kind in _DOCUMENTS else "data"


def accepts(accepted: Sequence[str], media_type: str) -> bool:
    """Tell whether a media type is among those accepted, such as ``image/png`` or ``image/*``."""
    family = media_type.partition("/")[0] + "/*"
    return media_type in accepted or family in accepted


_DOCUMENTS = frozenset({"pdf", "rtf", "msword", "epub+zip"})


@cache
def _rules() -> pure_magic_rs.MagicDb:
    return pure_magic_rs.MagicDb()  # 30 ms, once a process
