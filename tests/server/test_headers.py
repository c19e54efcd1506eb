"""Header values: written so that everyone reads the same, read tolerantly, checked strictly."""

from __future__ import annotations

import hashlib
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.errors import Malformed
from stat7store.server.headers import (
    checked_filename,
    content_disposition,
    digest_of_sha256,
    filename_of,
    format_date,
    parse_date,
    request_id,
    server_timing,
    sha256_of_digest,
)
from stat7store.timing import StageClock

# the digest of `{"hello": "world"}` and a line feed, as RFC 9530 itself gives it
RFC_9530_EXAMPLE = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@pytest.mark.parametrize(
    ("filename", "value"),
    [
        ("", "inline"),
        ("astronaut.png", 'inline; filename="astronaut.png"'),
        ("two words.png", 'inline; filename="two words.png"'),
        ("it's; a=b.png", 'inline; filename="it\'s; a=b.png"'),
        ("naïve.png", "inline; filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve.png"),
        ('a"b.png', "inline; filename=\"a_b.png\"; filename*=UTF-8''a%22b.png"),
        ("a\\b.png", "inline; filename=\"a_b.png\"; filename*=UTF-8''a%5Cb.png"),
        ("100%25.png", "inline; filename=\"100_25.png\"; filename*=UTF-8''100%2525.png"),
        ("a\r\nSet-Cookie: b", "inline; filename=\"a__Set-Cookie: b\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20b"),
        ("half \ud800", "inline; filename=\"half _\"; filename*=UTF-8''half%20%3F"),
    ],
)
def test_content_disposition(filename: str, value: str) -> None:
    """The fallback is harmless ASCII; the exact name goes beside it only where it differs."""
    assert content_disposition("inline", filename) == value


def test_attachment() -> None:
    """The kind asked for comes first."""
    assert content_disposition("attachment", "a.png") == 'attachment; filename="a.png"'


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\\"), min_size=1))
def test_names_come_back(filename: str) -> None:
    """Whatever the name, the value is printable ASCII, and both we and Python's own parser read it back."""
    value = content_disposition("attachment", filename)
    assert value.isascii()
    assert value.isprintable()
    assert filename_of(value) == filename
    if "filename*" in value:
        message = EmailMessage()
        message["Content-Disposition"] = value.partition(";")[0] + ";" + value[value.index(" filename*") :]
        if filename.isprintable():  # its parser replaces what is not
            assert message.get_filename() == filename


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        *((None, ""), ("", ""), ("inline", ""), ("attachment; size=3", ""), ("attachment; filename", "")),
        ("attachment; filename=a.png", "a.png"),
        ("attachment;filename = a.png ;size=3", "a.png"),
        ('form-data; name="file"; FileName="a b.png"', "a b.png"),
        ('form-data; name="x; filename=no.png"; filename="yes.png"', "yes.png"),
        (r'attachment; filename="a \"b\" \\c.png"', "c.png"),
        (r'attachment; filename="a \"b\".png"', 'a "b".png'),
        ('attachment; filename="C:\\photos\\a.png"', "a.png"),
        ("attachment; filename=../../etc/passwd", "passwd"),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("attachment; filename*=utf-8'en'%e2%82%ac.png; filename=euro.png", "€.png"),
        ("attachment; filename=euro.png; filename*=UTF-8''%e2%82%ac.png", "€.png"),
        ("attachment; filename*=ISO-8859-1''%a3.png", "£.png"),
        ("attachment; filename=euro.png; filename*=UTF-8''%ff.png", "euro.png"),
        ("attachment; filename=euro.png; filename*=KOI8-R''%ff.png", "euro.png"),
        ("attachment; filename=euro.png; filename*=plain.png", "euro.png"),
        ("attachment; filename=naïve.png", "naïve.png"),
        ('attachment; filename="unterminated.png', "unterminated.png"),
        ("attachment; filename=first.png; filename=second.png", "first.png"),
    ],
)
def test_filename_of(disposition: str | None, filename: str) -> None:
    """Both forms are read, the extended one first; folders are dropped, and nonsense is passed over."""
    assert filename_of(disposition) == filename


@given(st.text())
def test_filename_of_anything(disposition: str) -> None:
    """No header value makes reading it fail, or gives a name with folders."""
    assert not set(filename_of(f"attachment; {disposition}")) & set("/\\")


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        *(("a.png", "a.png"), (" a b.png ", "a b.png"), ("photos/2026/a.png", "a.png"), ("C:\\photos\\a.png", "a.png")),
        *(("…", "…"), (".hidden", ".hidden"), ("é" * 127, "é" * 127), ("folder/" * 100 + "a.png", "a.png")),
    ],
)
def test_checked_filename(given_name: str, kept: str) -> None:
    """The last component of a name is kept, without spaces around it."""
    assert checked_filename(given_name) == kept


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(("", "empty"), ("  ", "empty"), ("folder/", "empty"), ("..", "empty"), ("a/..", "empty"), ("a\\.", "empty")),
        *(("a\x00.png", "control"), ("a\n", "control"), ("\x7f", "control"), ("a\x85b", "control")),
        *(("a\u2028b", "control"), ("a\udc80b", "control"), ("a\n/b.png", "control")),
        *(("a" * 256, "too long"), ("é" * 128, "too long")),
    ],
)
def test_refused_filename(name: str, message: str) -> None:
    """Empty and overlong names, and those with control characters, are refused with facts that can be shown."""
    with pytest.raises(Malformed, match=message) as raised:
        checked_filename(name)
    assert all(fact.isprintable() for fact in raised.value.facts.values())


def test_digest_of_the_standard() -> None:
    """The example of RFC 9530 is written and read as the RFC has it."""
    digest = hashlib.sha256(b'{"hello": "world"}\n').digest()
    assert digest_of_sha256(digest) == RFC_9530_EXAMPLE
    assert sha256_of_digest(RFC_9530_EXAMPLE) == digest


@given(st.binary(min_size=32, max_size=32))
def test_digests_come_back(digest: bytes) -> None:
    """Every SHA-256 that is written is read back."""
    assert sha256_of_digest(digest_of_sha256(digest)) == digest


@pytest.mark.parametrize(
    ("header", "first_byte"),
    [
        *((None, None), ("sha-512=:AAAA:", None), ("unixsum=::, sha=:AAAA:;q=1", None)),
        (f"sha-512=:AAAA:\t, {RFC_9530_EXAMPLE}", 0x44),
        (f"{RFC_9530_EXAMPLE};note=1,md5=:AAAA:", 0x44),
        (f"sha-256=:AAAA:, {RFC_9530_EXAMPLE}", 0x44),
    ],
)
def test_other_algorithms(header: str | None, first_byte: int | None) -> None:
    """Other algorithms are ignored, and so is an earlier value for the same one."""
    digest = sha256_of_digest(header)
    assert (digest and digest[0]) == first_byte


@pytest.mark.parametrize(
    "header",
    [
        *("", ",", "sha-256", "sha-256=abc", "sha-256=::", "sha-256=:AAAA:", "sha-256=:====:", "SHA-256=:AAAA:"),
        *(f"{RFC_9530_EXAMPLE},", RFC_9530_EXAMPLE.replace("=:RK", "=:RK "), RFC_9530_EXAMPLE[:-1]),
        *("sha-256=:" + "A" * 43 + ":", "sha-256=:" + "A" * 44 + ":", "sha-256=:é:", "sha-256=:" + "A" * 40_000 + ":"),
    ],
)
def test_malformed_digest(header: str) -> None:
    """A digest that is not 32 bytes in base64 between colons is malformed, and the answer shows the form."""
    with pytest.raises(Malformed) as raised:
        sha256_of_digest(header)
    assert raised.value.facts["expected"].startswith("sha-256=:")
    assert len(raised.value.facts["actual"]) <= 80, "a long one is cut"


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_three_forms_of_a_date(text: str) -> None:
    """All three forms of RFC 9110 §5.6.7 are read; its example is this very second."""
    assert parse_date(text) == 784_111_777


def test_years_of_two_digits() -> None:
    """Years from 70 on are of the 1900s, those before of the 2000s."""
    assert parse_date("Thursday, 01-Jan-70 00:00:00 GMT") == 0
    assert parse_date("Tuesday, 01-Jan-69 00:00:00 GMT") == 99 * 365 * 86_400 + 25 * 86_400


@given(st.integers(0, 253_402_300_799))
def test_dates_come_back(seconds: int) -> None:
    """Every second up to the year 9999 is written and read back."""
    assert parse_date(format_date(seconds)) == seconds


def test_format_date() -> None:
    """Dates are written in the form that RFC 9110 prefers."""
    assert format_date(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"


@given(st.text(st.sampled_from("Sun, 06-Nov 1994 08:49:37 GMT")) | st.text())
def test_no_date(text: str) -> None:
    """Whatever stands there, it is a number of seconds or None, never an error."""
    date = parse_date(text)
    assert date is None or isinstance(date, int)


def test_server_timing() -> None:
    """Index, metadata and disk are in milliseconds with four decimals, and disk says where from."""
    clock = StageClock()
    clock.index, clock.metadata, clock.disk_first, clock.disk = 1_300, 2_149, 38_400, 99_000_000
    assert server_timing(clock, "page cache") == (
        'index;dur=0.0013, metadata;dur=0.0021, disk;dur=0.0384;desc="page cache"'
    )
    assert server_timing(clock, None) == "index;dur=0.0013, metadata;dur=0.0021, disk;dur=0.0384"


@pytest.mark.parametrize("given_id", ["a", "A-Z_0.9", "x" * 128])
def test_own_request_id(given_id: str) -> None:
    """A well-formed request id of the client's own is kept."""
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, "", "x" * 129, "a b", "a\n", "é", "a/b", '"'])
def test_new_request_id(given_id: str | None) -> None:
    """Any other is replaced by a new one."""
    assert request_id(given_id, lambda: "new") == "new"
    made = request_id(given_id)
    assert request_id(made) == made
    assert made != request_id(given_id)
