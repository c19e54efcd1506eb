"""The JSON that tells of a file."""

from __future__ import annotations

import pytest

from stat7store.record import Entry, FileRecord, Locator, Media
from stat7store.view import file_json, timestamp
from storage.base import Location

ADDRESS = "a7" * 32
ENTRY = Entry(
    Locator(1, 791555, "image/png", Location(ADDRESS, b"\x01")),
    FileRecord(
        address=bytes.fromhex(ADDRESS),
        stored_at=1767225600000,
        filename="astronaut.png",
        realm="image",
        density=0.41,
        media=Media(512, 512, 1, None, "png"),
    ),
)


def test_the_example_of_the_design() -> None:
    """A record looks as the design shows it, key by key and in the same order."""
    expected = {
        "address": ADDRESS,
        "uri": "stat7://image/1/cae85551/genesis?r=0.0&v=0.0&d=0.41",
        "created": True,
        "size": 791555,
        "media_type": "image/png",
        "filename": "astronaut.png",
        "stored_at": "2026-01-01T00:00:00.000Z",
        "revision": 1,
        "coordinates": {
            "realm": "image",
            "lineage": 1,
            "adjacency": [],
            "horizon": "genesis",
            "resonance": 0.0,
            "velocity": 0.0,
            "density": 0.41,
        },
        "media": {"width": 512, "height": 512, "frames": 1, "duration_s": None, "codec": "png"},
        "tags": [],
    }
    shown = file_json(ENTRY, created=True)
    assert shown == expected
    assert list(shown) == list(expected)


def test_created_is_told_of_uploads_only() -> None:
    """Whether it was created is left out where nothing was uploaded."""
    assert "created" not in file_json(ENTRY)
    assert file_json(ENTRY, created=False)["created"] is False


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1, "1970-01-01T00:00:00.001Z"), (1767225599999, "2025-12-31T23:59:59.999Z")],
)
def test_timestamps_have_milliseconds(milliseconds: int, text: str) -> None:
    """A time is written in UTC with exactly three decimals, none of them lost."""
    assert timestamp(milliseconds) == text
