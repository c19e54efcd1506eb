"""Values and keys of the embedded catalog: what goes in comes out, and what was altered is noticed."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.address import Address
from stat7store.catalog import codec
from stat7store.catalog._codec import locator_reader
from stat7store.catalog.keys import float_key, integer_key, text_key
from stat7store.errors import Damaged, Malformed, Unavailable
from stat7store.record import FileRecord, Locator, Media
from storage.base import Location

ADDRESSES = st.binary(min_size=32, max_size=32)
NUMBERS = st.integers(0, 2**48 - 1)
MEDIA_TYPES = {7: "image/png", 65_535: "video/mp4"}
DECODERS = [codec.decode_locator, codec._decode_locator]
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(max_size=300)


@st.composite
def locators(draw: st.DrawFn) -> tuple[bytes, int, Locator]:
    """An address, a media-type code, and a locator with any values."""
    address = draw(ADDRESSES)
    code = draw(st.sampled_from(sorted(MEDIA_TYPES)))
    locator = Locator(
        number=draw(st.integers(0, 2**64 - 1)),
        size=draw(st.integers(0, 2**64 - 1)),
        media_type=MEDIA_TYPES[code],
        location=Location(address.hex(), draw(st.binary(min_size=1, max_size=16))),
        backend=draw(st.integers(0, 255)),
        damaged=draw(st.booleans()),
    )
    return address, code, locator


def nothing(*_: object) -> Any:
    """What C cannot tell, nobody tells."""


compiled = locator_reader(Locator, Location, nothing)


RECORDS = st.builds(
    FileRecord,
    address=ADDRESSES,
    stored_at=st.integers(-(2**63), 2**63 - 1),
    filename=TEXTS,
    realm=TEXTS,
    adjacency=st.lists(ADDRESSES, max_size=3).map(tuple),
    resonance=FLOATS,
    media=st.builds(Media, width=st.none() | st.integers(1, 10**5), duration_s=st.none() | FLOATS),
    tags=st.lists(TEXTS, max_size=3).map(tuple),
)


@given(locators())
def test_a_locator_comes_back(case: tuple[bytes, int, Locator]) -> None:
    """A locator takes 40 bytes and is read back equal."""
    address, code, locator = case
    value = codec.encode_locator(address, locator, code)
    assert len(value) == codec.LOCATOR_BYTES == 40
    for decode in DECODERS:
        read = decode(address, value, MEDIA_TYPES)
        assert read == locator
        assert (type(read.damaged), type(read.location)) == (bool, Location)


@given(locators(), st.integers(0, 40 * 8 - 1))
def test_an_altered_locator_is_noticed(case: tuple[bytes, int, Locator], bit: int) -> None:
    """One flipped bit, a value cut short, or a value under another address is damage."""
    address, code, locator = case
    value = codec.encode_locator(address, locator, code)
    other = hashlib.sha256(address).digest()
    for key, bad in ((address, flipped(value, bit)), (address, value[:-1]), (address, value + b"\0"), (other, value)):
        assert compiled(key, bad, MEDIA_TYPES) is None
        for decode in DECODERS:
            with pytest.raises(Damaged):
                decode(key, bad, MEDIA_TYPES)


@given(locators())
def test_a_locator_is_read_in_c(case: tuple[bytes, int, Locator]) -> None:
    """What is whole is read in C, whatever kind of bytes the address is."""
    address, code, locator = case
    value = codec.encode_locator(address, locator, code)
    assert compiled(address, value, MEDIA_TYPES) == compiled(Address(address), value, MEDIA_TYPES) == locator


@given(locators())
def test_what_c_cannot_read_is_left_to_python(case: tuple[bytes, int, Locator]) -> None:
    """An unknown media type, and whatever is not of the usual types, is no locator in C."""
    address, code, locator = case
    value = codec.encode_locator(address, locator, code)
    for decode in DECODERS:
        with pytest.raises(codec.UnknownMediaTypeError):
            decode(address, value, {1: "image/png"})
    odd: list[tuple[Any, Any, Any]] = [
        (address, value, {}),
        (address[:-1], value, MEDIA_TYPES),
        (bytearray(address), value, MEDIA_TYPES),
        (address, bytearray(value), MEDIA_TYPES),
        (address, value, None),
        (address, value, MappingProxyType(MEDIA_TYPES)),
    ]
    assert [compiled(*each) for each in odd] == [None] * len(odd)
    with pytest.raises(TypeError, match="3 arguments"):
        compiled(address, value)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="3 arguments"):
        locator_reader(Locator, Location)  # type: ignore[call-arg]


@pytest.mark.usefixtures("uncollected")
def test_what_goes_wrong_in_a_type_is_passed_on() -> None:
    """An error of the types that are made is raised, and nothing is held afterwards."""

    def fails(*_: object) -> Any:
        raise KeyError("as told")

    address = bytes(32)
    value = codec.encode_locator(address, Locator(2**40, 2**40, "video/mp4", Location(address.hex(), b"t")), 65_535)
    types: list[tuple[Any, Any]] = [(fails, Location), (Locator, fails), (Locator, Location)]
    parts: list[object] = [address, value, MEDIA_TYPES, MEDIA_TYPES[65_535], fails, Locator, Location]
    before, blocks = [sys.getrefcount(part) for part in parts], sys.getallocatedblocks()
    for _ in range(1000):
        for kinds in types:
            with suppress(KeyError):
                locator_reader(*kinds, nothing)(address, value, MEDIA_TYPES)
    assert sys.getallocatedblocks() < blocks + 500
    assert [sys.getrefcount(part) for part in parts] == before
    for kinds in types[:2]:
        with pytest.raises(KeyError, match="as told"):
            locator_reader(*kinds, nothing)(address, value, MEDIA_TYPES)


@given(NUMBERS, RECORDS)
def test_a_record_comes_back(number: int, record: FileRecord) -> None:
    """A record is read back equal."""
    assert codec.decode_record(number, codec.encode_record(number, record)) == record


@given(NUMBERS, RECORDS, st.data())
def test_an_altered_record_is_noticed(number: int, record: FileRecord, data: st.DataObject) -> None:
    """One flipped bit, a value cut short, or a value under another number is damage."""
    value = codec.encode_record(number, record)
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    for key, bad in ((number, flipped(value, bit)), (number, value[:-1]), (number, b""), (number + 1, value)):
        with pytest.raises(Damaged):
            codec.decode_record(key, bad)


def test_an_address_may_stand_in_a_record() -> None:
    """Addresses are written as the bytes that they are."""
    address = Address.of(b"x")
    record = FileRecord(address=address, stored_at=1, filename="", realm="", adjacency=(address,))
    read = codec.decode_record(1, codec.encode_record(1, record))
    assert read == record
    assert type(read.address) is bytes


def test_a_record_of_a_later_format_is_not_guessed_at() -> None:
    """A whole record with another format version is refused, and not taken for damage."""
    body = codec.unseal(codec.pack_number(1), codec.encode_record(1, FileRecord(b"", 1, "", "")), "record")
    with pytest.raises(Unavailable, match="format"):
        codec.decode_record(1, codec.seal(codec.pack_number(1), b"\x02" + body[1:]))


def test_a_record_is_small() -> None:
    """A typical record takes at most 140 bytes."""
    record = FileRecord(bytes(32), 1_760_000_000_000, "IMG_20251101_123456.jpg", "image", media=Media(4032, 3024))
    assert len(codec.encode_record(1, record)) <= 140


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_integer_keys_sort_as_integers(one: int, other: int) -> None:
    """Keys compare as the integers do, negative ones included."""
    assert (integer_key(one) < integer_key(other)) == (one < other)


@given(FLOATS, FLOATS)
def test_float_keys_sort_as_floats(one: float, other: float) -> None:
    """Keys compare as the floats do, infinities included, and both zeros are one."""
    assert (float_key(one) < float_key(other)) == (one < other)
    assert (float_key(one) == float_key(other)) == (one == other)


def test_nan_has_no_key() -> None:
    """NaN is refused, since it has no place in an order."""
    with pytest.raises(Malformed):
        float_key(float("nan"))


@given(TEXTS | st.text(alphabet="aä", max_size=700), TEXTS | st.text(alphabet="aä", max_size=700))
def test_text_keys_are_keys(one: str, other: str) -> None:
    """Each text has its own key, of 1 to 511 bytes, that begins as the text does."""
    assert (text_key(one) == text_key(other)) == (one == other)
    assert 1 <= len(text_key(one)) <= 511
    assert text_key(one).startswith(one.encode()[:240])


def flipped(value: bytes, bit: int) -> bytes:
    """Return the value with one bit turned over."""
    altered = bytearray(value)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)
