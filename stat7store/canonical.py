"""Canonical text: the one way in which a value is written before it is hashed.

JSON in ASCII, without white space, object keys sorted by code point at every depth.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from json.encoder import encode_basestring_ascii

from stat7store.errors import Malformed

MAX_DEPTH = 64
DECIMALS = 8

_STEP = Decimal(1).scaleb(-DECIMALS)
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]+))?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_TIMESTAMP_FORM = "an RFC 3339 date and time with a zone, such as 2025-01-01T00:00:00.000Z"


def canonical_decimal(value: float) -> str:
    """Write a number in −1…1 with at most 8 decimals, rounded half-even, never with an exponent.

    Trailing zeros are dropped but one decimal is kept: ``1.0``, ``0.3``, ``0.00001234``. What is
    rounded is the number as written (its shortest decimal form), not the binary value beneath, so
    that a tie is a tie in any language. Negative zero, and what rounds to it, is ``0.0``.
    """
    text = f"{value:.8f}"
    # this rounds the binary value, which matters only where the number is written with 9 decimals, the last one 5
    if 4.999 < value * 1e9 % 10.0 < 5.001:
        text = format(Decimal(repr(value)).quantize(_STEP, ROUND_HALF_EVEN), "f")
    if text[-1] != "0":
        return text
    text = text.rstrip("0")
    if text[-1] != ".":
        return text
    return "0.0" if text == "-0." else f"{text}0"


def canonical_timestamp(text: str) -> str:
    """Write an RFC 3339 date and time of any zone in UTC with milliseconds, ``2025-01-01T00:00:00.000Z``.

    Finer fractions are cut off, not rounded: no moment is moved into a second that had not come.
    Raises ``Malformed``, also where the zone is missing: its moment is not known.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise _bad_timestamp(text)
    date, time, fraction, zone = match.groups()
    milliseconds = "000" if fraction is None else f"{fraction[:3]:0<3}"
    try:
        moment = datetime.fromisoformat(f"{date}T{time}")
        if zone not in ("Z", "+00:00"):
            moment = datetime.fromisoformat(f"{date}T{time}{zone.upper()}").astimezone(UTC)
            return f"{moment.isoformat()[:19]}.{milliseconds}Z"
    except (ValueError, OverflowError) as error:
        raise _bad_timestamp(text) from error
    return f"{date}T{time}.{milliseconds}Z"


def canonical_json(value: object, depth: int = MAX_DEPTH) -> str:
    """Write any JSON value: ``dict`` with ``str`` keys, ``list``, ``str``, ``int``, ``float``, ``bool``, None.

    A float keeps all its digits (the shortest that give it back), without an exponent and with at
    least one decimal; negative zero is ``0.0``. Whole numbers stay as they are, up to the 4,300
    digits that Python writes. At most ``depth`` levels of lists and objects. Raises ``Malformed``.
    """
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)  # type: ignore[arg-type]  # kind is not followed
    if kind is dict or kind is list:
        if depth == 0:
            raise Malformed("lists and objects are nested too deep", expected=f"at most {MAX_DEPTH} levels")
        return _members(value, depth - 1) if kind is dict else _elements(value, depth - 1)  # type: ignore[arg-type]
    if kind is float:
        return _float(value)  # type: ignore[arg-type]
    if kind is int:
        return _int(value)  # type: ignore[arg-type]
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    raise Malformed(
        f"a value of type {kind.__name__} is not JSON", expected="objects, lists, strings, numbers, true, false, null"
    )


def _members(members: dict[object, object], depth: int) -> str:
    for key in members:
        if type(key) is not str:
            raise Malformed(f"the key {key!r} of an object is no string", expected="objects with string keys")
    return (
        "{"
        + ",".join([f"{encode_basestring_ascii(key)}:{canonical_json(members[key], depth)}" for key in sorted(members)])  # type: ignore[type-var, arg-type]
        + "}"
    )


def _elements(elements: list[object], depth: int) -> str:
    return "[" + ",".join([canonical_json(element, depth) for element in elements]) + "]"


def _float(value: float) -> str:
    text = repr(value)
    if text[-1].isalpha():  # nan, inf
        raise Malformed(f"{text} is not a JSON number", expected="a finite number")
    if "e" in text:
        text = format(Decimal(text), "f")
        if "." not in text:
            text += ".0"
    return "0.0" if text == "-0.0" else text


def _int(value: int) -> str:
    try:
        return str(value)
    except ValueError as error:
        raise Malformed("a whole number has too many digits", expected="at most 4300 digits") from error


def _bad_timestamp(text: str) -> Malformed:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return Malformed(f"{shown!r} is not a moment in time", expected=_TIMESTAMP_FORM)
