"""The canonical form of an entity in its commonest shape, at once; every other shape is left to ``coordinates``.

The rule: what msgspec writes of a checked entity is its canonical form, but for the milliseconds of
``created_at``, if the entity has no neighbours and no state, its strings are ASCII that needs no
escape, its numbers have at most 8 decimals, no exponent and no negative zero, and its time is in
UTC without a fraction. Whether that holds is seen from the text, and where it does not, nothing is
concluded: no entity is refused here.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from stat7store.record import HORIZONS

_Name = Annotated[str, Meta(min_length=1)]
_Rating = Annotated[float, Meta(ge=-1.0, le=1.0)]

# The fields stand in ASCII order, as the canonical form has them.


class _Coordinates(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    adjacency: Annotated[list[object], Meta(max_length=0)]
    density: Annotated[float, Meta(gt=0.0, le=1.0)]
    horizon: Literal[HORIZONS]  # type: ignore[valid-type]  # spelled once, in record.py
    lineage: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    realm: _Name
    resonance: _Rating
    velocity: _Rating


class _Entity(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    created_at: Annotated[datetime, Meta(tz=True)]
    entity_type: _Name
    id: _Name
    realm: _Name
    stat7_coordinates: _Coordinates
    state: Annotated[dict[str, object], Meta(max_length=0)]


_encode = msgspec.json.Encoder().encode
_has_many_decimals = re.compile(rb"\.[0-9]{9}").search
_MOMENT = len('{"created_at":"2025-01-01T00:00:00')
# With five decimals or fewer of a second, what msgspec drops or rounds beyond microseconds is nothing.
_LONGEST_MOMENT = len("2025-01-01T00:00:00+00:00")


def plain_form(entity: object) -> bytes | None:
    """Return what ``coordinates.canonical_form`` does, or None if the entity is not plain."""
    try:
        checked = msgspec.convert(entity, _Entity)
        text = _encode(checked)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    coordinates = checked.stat7_coordinates
    if (
        coordinates.resonance
        and coordinates.velocity
        and text[_MOMENT : _MOMENT + 2] == b'Z"'
        and text.isascii()
        and b"\\" not in text
        and b"\x7f" not in text
        and b"e-" not in text
        and not _has_many_decimals(text)
        and isinstance(entity, dict)
        and isinstance(entity["created_at"], str)
        and len(entity["created_at"]) <= _LONGEST_MOMENT
    ):
        return text[:_MOMENT] + b".000" + text[_MOMENT:]
    return None
