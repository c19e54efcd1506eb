"""How the embedded catalog writes its values: dense, versioned, and checksummed.

LMDB does not notice a flipped byte in a value, so every value carries a checksum over its key and
itself: a value that was altered, or that stands under another's key, is told from a good one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import msgspec
import xxhash

from stat7store.catalog.base import Intent
from stat7store.errors import Damaged, Unavailable
from stat7store.record import FileRecord, Locator, Place
from storage import compiled
from storage.base import Location

ADDRESS_BYTES = 32
TOKEN_BYTES = 16
CHECKSUM_BYTES = 8
RECORD_FORMAT = 1

# number, size, media-type code, backend, flags, location token; then the checksum over all of it
_LOCATOR = struct.Struct("<QQHBB16s")
_CHECKED_LOCATOR = struct.Struct("<QQHBB16sI")
_LOCATOR_CHECKSUM = struct.Struct("<I")
_CHECKED = _LOCATOR.size
_xxh32 = xxhash.xxh32_intdigest
_unpack_locator = _CHECKED_LOCATOR.unpack  # bound once: a lookup takes 3 µs in all
LOCATOR_BYTES = _CHECKED_LOCATOR.size
_DAMAGED = 0x01  # the upper half of the flags is the token's length, less one
_TOKEN_LENGTH_SHIFT = 4

_NUMBER = struct.Struct("=Q")  # LMDB compares integer keys in the machine's own byte order
_CODE = struct.Struct(">H")


class UnknownMediaTypeError(Exception):
    """A locator names a media-type code that the caller's table does not have (yet)."""


def pack_number(number: int) -> bytes:
    """Write a record or sequence number, 0 to 2⁶⁴−1, as LMDB's integer keys want it."""
    return _NUMBER.pack(number)


def unpack_number(data: bytes) -> int:
    """Read what ``pack_number`` wrote."""
    number: int = _NUMBER.unpack(data)[0]
    return number


def pack_code(code: int) -> bytes:
    """Write a media-type code, 0 to 65,535."""
    return _CODE.pack(code)


def unpack_code(data: bytes) -> int:
    """Read what ``pack_code`` wrote."""
    code: int = _CODE.unpack(data)[0]
    return code


def seal(key: bytes, body: bytes) -> bytes:
    """Put a checksum over key and body in front of the body."""
    return xxhash.xxh3_64_digest(key + body) + body


def unseal(key: bytes, value: bytes, what: str) -> bytes:
    """Return the body that ``seal`` was given. Raises ``Damaged``, naming ``what``."""
    body = value[CHECKSUM_BYTES:]
    # protection: record-checksum
    if value[:CHECKSUM_BYTES] != xxhash.xxh3_64_digest(key + body):
        raise Damaged(f"{what} in the catalog is damaged")
    return body


def encode_locator(address: bytes, locator: Locator, media_code: int) -> bytes:
    """Write a locator in 40 bytes. Raises ``ValueError`` for a location of another address."""
    token = location_token(address, locator.location)
    flags = (_DAMAGED if locator.damaged else 0) | (len(token) - 1) << _TOKEN_LENGTH_SHIFT
    body = _LOCATOR.pack(locator.number, locator.size, media_code, locator.backend, flags, token)
    return body + _LOCATOR_CHECKSUM.pack(_xxh32(address + body))


def _decode_locator(address: bytes, value: bytes, media_types: dict[int, str]) -> Locator:
    """Read what ``encode_locator`` wrote. Raises ``Damaged`` or ``UnknownMediaTypeError``."""
    try:
        number, size, code, backend, flags, token, checksum = _unpack_locator(value)
    except struct.error:
        checksum = None
    # protection: locator-checksum
    if checksum != _xxh32(address + value[:_CHECKED]):
        raise Damaged("the locator in the catalog is damaged", address=address.hex())
    media_type = media_types.get(code)
    if media_type is None:
        raise UnknownMediaTypeError(code)
    location = Location(address.hex(), token[: (flags >> _TOKEN_LENGTH_SHIFT) + 1])
    return Locator(number, size, media_type, location, backend, flags & _DAMAGED != 0)


decode_locator: Callable[[bytes, bytes, dict[int, str]], Locator] = _decode_locator
with suppress(ImportError):
    compiled.wanted()
    from stat7store.catalog._codec import locator_reader

    decode_locator = locator_reader(Locator, Location, _decode_locator)


def location_token(address: bytes, location: Location) -> bytes:
    """Return the token, all there is to store beside the address.

    Raises ``ValueError`` if the location is another address's, or its token not 1 to 16 bytes long.
    """
    if location.name != address.hex() or not 1 <= len(location.token) <= TOKEN_BYTES:
        raise ValueError(f"not a location of {address.hex()}: {location}")
    return location.token


def encode_place(place: Place) -> bytes:
    """Write a place by itself: address, backend, token. Raises ``ValueError`` for a backend above 255."""
    address = bytes.fromhex(place.location.name)
    return address + bytes((place.backend,)) + location_token(address, place.location)


def decode_place(data: bytes) -> Place:
    """Read what ``encode_place`` wrote."""
    return Place(Location(data[:ADDRESS_BYTES].hex(), data[ADDRESS_BYTES + 1 :]), data[ADDRESS_BYTES])


def encode_intent(intent: Intent) -> tuple[bytes, bytes]:
    """Write an intent as a row: its place, and the rest."""
    key = encode_place(intent.place)
    return key, seal(key, msgspec.msgpack.encode((intent.since, intent.owner)))


def decode_intent(key: bytes, value: bytes) -> Intent:
    """Read what ``encode_intent`` wrote. Raises ``Damaged``."""
    return Intent(decode_place(key), *_INTENTS.decode(unseal(key, value, "an intent")))


def encode_record(number: int, record: FileRecord) -> bytes:
    """Write a record: checksum, format version, msgpack."""
    return seal(pack_number(number), bytes((RECORD_FORMAT,)) + msgspec.msgpack.encode(record, enc_hook=_plain))


def decode_record(number: int, value: bytes) -> FileRecord:
    """Read what ``encode_record`` wrote. Raises ``Damaged``.

    Raises ``Unavailable`` for a whole record of a format that this version does not know.
    """
    body = unseal(pack_number(number), value, f"record {number}")
    if body[:1] != bytes((RECORD_FORMAT,)):
        raise Unavailable(f"record {number} in the catalog is of a format that this version does not read")
    return _RECORDS.decode(memoryview(body)[1:])


_RECORDS = msgspec.msgpack.Decoder(FileRecord)
_INTENTS = msgspec.msgpack.Decoder(tuple[int, str])


def _plain(value: object) -> bytes:
    # msgspec writes exact types alone, and an Address is a kind of bytes
    if isinstance(value, bytes):
        return bytes(value)
    raise TypeError(f"not a value of a record: {value!r}")
