"""Names of files, from any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.importer.names import MOST_BYTES, filename_of
from stat7store.server.headers import checked_filename


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))))
def test_every_name_is_one_the_server_takes(name: bytes) -> None:
    """Whatever bytes name a file, it is kept under a name that the server takes as it is, or under none."""
    kept = filename_of(name.replace(b"/", b""))
    assert kept == "" or checked_filename(kept) == kept


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"photo.jpg", "photo.jpg"),
        ("фото.jpg".encode(), "фото.jpg"),
        (b"a\nb.jpg", "a\ufffdb.jpg"),
        (b"caf\xe9.jpg", "caf\ufffd.jpg"),
        (b"..", ""),
        (b" ", ""),
    ],
)
def test_what_becomes_of_a_name(name: bytes, kept: str) -> None:
    """A good name stays as it is; bytes and characters that no name may hold are replaced."""
    assert filename_of(name) == kept


def test_a_long_name_keeps_its_extension() -> None:
    """A name that grows too long is cut before its extension, and between characters."""
    kept = filename_of(b"\xff" * 251 + b".jpg")
    assert kept.endswith("\ufffd.jpg")
    assert len(kept.encode()) <= MOST_BYTES
