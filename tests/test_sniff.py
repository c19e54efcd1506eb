"""Media types are told from the bytes, and realms from the media types."""

from __future__ import annotations

from pathlib import Path

import pytest

from stat7store.media.sniff import accepts, realm_of, sniff

HEADS = {
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "image/avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    "image/heic": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
    "image/bmp": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0" + b"\0" * 30,
    "video/webm": b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm",
    "video/quicktime": b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
    "application/pdf": b"%PDF-1.7\n",
    "text/html": b"<html><script>alert(1)</script>",
    "text/plain": b"Dear Anna,\n",
    "application/octet-stream": b"\0" * 600,
}


def test_real_media_are_recognised(samples: Path) -> None:
    """Photographs and clips are what they are, whatever their name."""
    found = {path.name: sniff(path.read_bytes()) for path in samples.iterdir() if path.name != "CREDITS"}
    by_suffix = {
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".gif": "image/gif",
        ".tif": "image/tiff",
        ".mp4": "video/mp4",
    }
    assert found == {name: by_suffix[name[name.rfind(".") :]] for name in found}
    assert len(found) >= 14


@pytest.mark.parametrize("media_type", HEADS)
def test_rarer_forms_are_recognised(media_type: str) -> None:
    """A few bytes of head are enough; what is nothing known is octet-stream, never an image."""
    assert sniff(HEADS[media_type]) == media_type


def test_only_the_head_is_looked_at() -> None:
    """What stands behind the first 4 KiB changes nothing."""
    assert sniff(b"\0" * 4096 + b"\x89PNG\r\n\x1a\n") == "application/octet-stream"
    assert sniff(b"") == "application/octet-stream"


@pytest.mark.parametrize(
    ("media_type", "realm"),
    [
        ("image/png", "image"),
        ("video/mp4", "movie"),
        ("audio/mpeg", "audio"),
        ("text/plain", "document"),
        ("application/pdf", "document"),
        ("application/zip", "data"),
    ],
)
def test_realms(media_type: str, realm: str) -> None:
    """Each media type belongs to one realm."""
    assert realm_of(media_type) == realm


def test_families_accept_their_members() -> None:
    """image/* accepts every image and nothing else; a full type only itself."""
    assert accepts(["image/*"], "image/png")
    assert not accepts(["image/*"], "imagery/png")
    assert not accepts(["image/png"], "image/jpeg")
    assert not accepts([], "image/png")
