"""STAT7 addresses: SHA-256 of the canonical form, which for a file is its bytes (FIPS 180-4)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Self

from stat7store.errors import Malformed
from storage.base import Buffer

ADDRESS_BYTES = 32
_ACCEPTED = "64 lowercase hex digits, as sha256sum prints them"


class Address(bytes):
    """The SHA-256 of a file's bytes: 32 bytes, written as 64 lowercase hex digits.

    It never depends on coordinates, names or time, so the same bytes have one address everywhere.
    """

    __slots__ = ()

    def __new__(cls, digest: Buffer) -> Self:
        address = super().__new__(cls, digest)
        if len(address) != ADDRESS_BYTES:
            raise Malformed(f"a STAT7 address has {ADDRESS_BYTES} bytes, not {len(address)}")
        return address

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Address({self.hex()})"

    @property
    def uri(self) -> str:
        """The RFC 6920 name, ``ni:///sha-256;<base64url>``."""
        return f"ni:///sha-256;{base64.urlsafe_b64encode(self).rstrip(b'=').decode()}"

    @classmethod
    def of(cls, data: Buffer) -> Self:
        """Return the address of these bytes."""
        return cls.of_digest(hashlib.sha256(data).digest())

    @classmethod
    def of_digest(cls, digest: Buffer) -> Self:
        """Return the address that is these 32 bytes; that they are so many is the caller's word."""
        return bytes.__new__(cls, digest)  # in a third of the time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 64 lowercase hex digits, and nothing else. Raises ``Malformed``."""
        try:
            address = bytes.__new__(cls, bytes.fromhex(text))
        except ValueError:
            address = None
        # written back it is the same, or it had capitals or spaces; a regular expression takes twice as long
        if address is None or len(address) != ADDRESS_BYTES or address.hex() != text:
            raise Malformed(f"not a STAT7 address: {_shown(text)}", expected=_ACCEPTED)
        return address

    @classmethod
    def parse_any(cls, text: str) -> Self:
        """Read any written form: hex, ``sha256:<hex>`` or RFC 6920's ``ni:///sha-256;<base64url>``.

        Raises ``Malformed``.
        """
        if text.startswith("sha256:"):
            return cls.parse(text.removeprefix("sha256:"))
        if text.startswith("ni:"):
            return cls._parse_ni(text)
        return cls.parse(text)

    @classmethod
    def _parse_ni(cls, text: str) -> Self:
        encoded = text.removeprefix("ni:///sha-256;")
        try:
            address = cls(base64.b64decode(encoded + "=", altchars=b"-_", validate=True))
        except (binascii.Error, ValueError, Malformed):
            address = None
        # base64 has several spellings of the same bytes (spare bits, +/ for -_): only one is canonical
        if address is None or address.uri != text:
            raise Malformed(f"not a STAT7 address: {_shown(text)}", expected="ni:///sha-256;<43 base64url characters>")
        return address


class Hasher:
    """Hashes bytes while they stream by."""

    __slots__ = ("_sha256", "size")

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def update(self, data: Buffer) -> None:
        """Take in the next bytes (the GIL is released above 2 KiB)."""
        self._sha256.update(data)
        self.size += len(memoryview(data))

    def address(self) -> Address:
        """Return the address of all bytes so far."""
        return Address.of_digest(self._sha256.digest())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
