"""Addresses: every written form, and nothing else."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.address import Address, Hasher
from stat7store.errors import Malformed

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_address_is_what_sha256sum_prints() -> None:
    """The address of no bytes is the SHA-256 that FIPS 180-4 gives for them."""
    assert str(Address.of(b"")) == EMPTY


def test_rfc_6920_example() -> None:
    """``Hello World!`` has the name that RFC 6920 §8.1 gives for it."""
    address = Address.of(b"Hello World!")
    assert address.uri == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"
    assert Address.parse_any(address.uri) == address


@given(st.binary())
def test_every_form_is_read_back(data: bytes) -> None:
    """An address is read back from each form it can be written in."""
    address = Address.of(data)
    assert str(address) == hashlib.sha256(data).hexdigest()
    assert Address.parse(str(address)) == address
    for written in (str(address), f"sha256:{address}", address.uri):
        assert Address.parse_any(written) == address


@given(st.binary(), st.lists(st.integers(0, 100)))
def test_hashing_while_streaming_gives_the_same(data: bytes, cuts: list[int]) -> None:
    """However the bytes are cut into pieces, the hasher gives the address and the size of the whole."""
    hasher = Hasher()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        hasher.update(memoryview(data)[start:end])
    assert (hasher.address(), hasher.size) == (Address.of(data), len(data))


@pytest.mark.parametrize(
    "text",
    [
        "",
        EMPTY[1:],
        EMPTY + "0",
        EMPTY.upper(),
        "g" + EMPTY[1:],
        f" {EMPTY}",
        f"{EMPTY[:2]} {EMPTY[2:]}",
        f"{EMPTY}\n",
        "../" + EMPTY[3:],
        "٣" * 64,
    ],
)
def test_other_text_is_no_address(text: str) -> None:
    """Anything but 64 lowercase hex digits is refused, and the error says what is accepted."""
    for parse in (Address.parse, Address.parse_any):
        with pytest.raises(Malformed) as refused:
            parse(text)
        assert "64 lowercase hex digits" in refused.value.facts["expected"]


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{EMPTY.upper()}",
        f"SHA256:{EMPTY}",
        f"sha256:{EMPTY}0",
        "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGl",  # spare bits set: another spelling
        "ni:///sha-256;f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk",
        "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk=",
        "ni:///sha-256-32;f4OxZX",
        "ni:///sha-256;é",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    """Each form has one spelling; prefixes in capitals, padding and spare bits are refused."""
    with pytest.raises(Malformed):
        Address.parse_any(text)


@given(st.binary().filter(lambda data: len(data) != 32))
def test_an_address_has_32_bytes(data: bytes) -> None:
    """No address can be made of more or fewer bytes."""
    with pytest.raises(Malformed):
        Address(data)
