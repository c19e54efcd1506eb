"""Byte ranges: which spans a header asks for, and how several are framed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.server.ranges import (
    MAX_RANGES,
    Multipart,
    Unsatisfiable,
    content_range,
    new_boundary,
    parse_range,
    unsatisfied_range,
)
from storage.base import Span
from tests.server import differential


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=10-19", [(10, 10)]),
        ("bytes=90-", [(90, 10)]),
        ("bytes=90-1000", [(90, 10)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-1000", [(0, 100)]),
        ("BYTES=1-2", [(1, 2)]),
        ("bytes= 1 - 2 , -3", [(1, 2), (97, 3)]),
        ("bytes=000000000000000000000000000001-2", [(1, 2)]),
        ("bytes=20-29,0-9,25-34", [(20, 10), (0, 10), (25, 10)]),
        ("bytes=200-300,1-2,9-8", [(1, 2)]),
        ("bytes=9-9223372036854775807", [(9, 91)]),
    ],
)
def test_spans(header: str, spans: list[tuple[int, int]]) -> None:
    """Ranges that lie in the file become spans, in the order asked for; others are left out."""
    assert parse_range(header, 100) == [Span(*span) for span in spans]


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes", "items=0-1", "bytes =0-1", "bytes=0-,0-", "bytes=-60,-60"]
)
def test_whole_file(header: str | None) -> None:
    """No range of bytes, or more of them than there are bytes, gives the whole file."""
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_empty_file(header: str) -> None:
    """An empty file is answered whole."""
    assert parse_range(header, 0) is None


@pytest.mark.parametrize(
    "header",
    [
        *("bytes=100-", "bytes=100-200,300-", "bytes=-0", "bytes=9-8", "bytes=x", "bytes=-", "bytes=--1", "bytes=- 1"),
        *("bytes=1-2,", "bytes=,1-2", "bytes=1-2,,3-4", "bytes=1-2;3-4", "bytes=1-2-3", "bytes=1 2-3", "bytes=0x1-2"),
        *("bytes=+1-2", "bytes=1_0-20", "bytes=1-2\t,3-4", "bytes=٣-٤"),
        *("bytes=9223372036854775808-", "bytes=0-9223372036854775808", "bytes=-9223372036854775808"),
        *(f"bytes=0-{'9' * 5000}", "bytes=" + " " * 100_000 + "x"),
    ],
)
def test_unsatisfiable(header: str) -> None:
    """No range left, one that is not well formed, or a number beyond 63 bits is unsatisfiable."""
    with pytest.raises(Unsatisfiable) as raised:
        parse_range(header, 100)
    assert raised.value.size == 100
    assert raised.value.facts == {"size": 100}


def test_bound_on_ranges() -> None:
    """Up to the bound, ranges are answered; with one more the whole file is."""
    ranges = [f"{start}-{start}" for start in range(MAX_RANGES + 1)]
    spans = parse_range("bytes=" + ",".join(ranges[:-1]), 1000)
    assert spans is not None
    assert len(spans) == MAX_RANGES
    assert parse_range("bytes=" + ",".join(ranges), 1000) is None


@given(st.integers(0, 1000).flatmap(lambda size: st.tuples(st.just(size), differential.ranges(size) | st.text())))
def test_spans_lie_in_the_file(size_and_header: tuple[int, str]) -> None:
    """Whatever is asked, spans are not empty, lie in the file, and together are no longer than it."""
    size, header = size_and_header
    try:
        spans = parse_range(header, size)
    except Unsatisfiable:
        return
    if spans is not None:
        assert spans
        assert all(span.start >= 0 and span.length > 0 and span.end <= size for span in spans)
        assert sum(span.length for span in spans) <= size


def test_content_range() -> None:
    """Content-Range names the last byte itself, and the size of the whole file."""
    assert content_range(Span(1000, 1000), 791_555) == "bytes 1000-1999/791555"
    assert unsatisfied_range(10) == "bytes */10"


def test_multipart() -> None:
    """Several spans are framed byte for byte as nginx frames them, and the length is that of it all."""
    content = b"0123456789"
    parts = Multipart([Span(0, 2), Span(7, 3)], len(content), "image/png", "frontier")
    body = b"".join(
        preamble + content[span.start : span.end] for preamble, span in zip(parts.preambles, parts.spans, strict=True)
    )
    assert body + parts.closing == (
        b"\r\n--frontier\r\nContent-Type: image/png\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--frontier\r\nContent-Type: image/png\r\nContent-Range: bytes 7-9/10\r\n\r\n789"
        b"\r\n--frontier--\r\n"
    )
    assert parts.content_length == len(body + parts.closing)
    assert parts.content_type == "multipart/byteranges; boundary=frontier"


def test_boundary() -> None:
    """A boundary is 20 characters from the randomness given, and another one each time."""
    assert new_boundary(lambda count: bytes(range(count))) == "00010203040506070809"
    assert Multipart([], 0, "image/png").boundary != Multipart([], 0, "image/png").boundary
