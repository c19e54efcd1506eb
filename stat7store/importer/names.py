"""The name a file is kept under, from whatever bytes the file system has for it."""

from __future__ import annotations

import re
import unicodedata

MOST_BYTES = 255
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_PLAIN = re.compile(rb"[A-Za-z0-9_-][ A-Za-z0-9_.()-]{0,120}\.[A-Za-z0-9]{1,16}")
_NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")


def filename_of(name: bytes) -> str:
    """Return a name that every store takes, of at most 255 bytes of UTF-8.

    Bytes that are not UTF-8, control characters and line separators become U+FFFD. A name that
    grows too long by that is cut before its extension. The result may be "": no name at all.
    """
    if _PLAIN.fullmatch(name):  # as most are
        return name.decode()
    text = name.decode("utf-8", "replace").replace("\\", REPLACEMENT)  # which elsewhere separates folders
    text = "".join(REPLACEMENT if unicodedata.category(one) in _NOT_IN_NAMES else one for one in text).strip()
    stem, dot, extension = text.rpartition(".")
    if len(text.encode()) > MOST_BYTES:
        end = (dot + extension).encode() if stem and len(extension) <= 16 else b""
        start = text.encode()[: MOST_BYTES - len(end)] if end else text.encode()[:MOST_BYTES]
        text = start.decode("utf-8", "ignore").rstrip() + end.decode()
    return "" if text in (".", "..") else text
