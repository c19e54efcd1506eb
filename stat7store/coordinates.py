"""The seven STAT7 coordinates, the URI made of them, and the addresses of Phase 1's entities."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _string
from typing import Annotated, Literal, NoReturn, Self, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from stat7store.address import Address
from stat7store.canonical import canonical_decimal as _decimal
from stat7store.canonical import canonical_json, canonical_timestamp
from stat7store.errors import Malformed
from stat7store.record import HORIZONS, FileRecord
from storage import compiled

try:
    compiled.wanted()
    from stat7store._plain import plain_form
except ImportError:

    def plain_form(entity: object) -> bytes | None:
        """Leave every entity to the careful way."""
        return None


Name = Annotated[str, Meta(min_length=1)]
Rating = Annotated[float, Meta(ge=-1.0, le=1.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Generation = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Horizon = Literal[HORIZONS]  # type: ignore[valid-type]  # spelled once, in record.py

_NAME = "a string that is not empty"
_ACCEPTED = {
    "": "an object of created_at, entity_type, id, realm, state, stat7_coordinates",
    "created_at": "an RFC 3339 date and time with a zone, such as 2025-01-01T00:00:00.000Z",
    "entity_type": _NAME,
    "id": _NAME,
    "realm": _NAME,
    "state": "a JSON object",
    "stat7_coordinates": "an object of realm, lineage, adjacency, horizon, resonance, velocity, density",
    "lineage": "a whole number from 0 to 2**63 - 1",
    "adjacency": "a list of ids, none of them empty, each of them once",
    "horizon": f"one of {', '.join(HORIZONS)}",
    "resonance": "a number from -1.0 to 1.0",
    "velocity": "a number from -1.0 to 1.0",
    "density": "a number from 0.0 to 1.0",
}
_AT = re.compile(r" - at [^$]*\$\.?([a-z0-9_.]*)")  # where msgspec says the error lies
T = TypeVar("T")


class Coordinates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an entity stands. None of it is part of a file's address.

    ``realm`` is a name that is not empty; ``lineage`` is 0 to 2⁶³−1; ``adjacency`` names each
    neighbour once, a file by its hex address, a Phase 1 entity by its id; ``horizon`` is one of
    ``HORIZONS``; ``resonance`` and ``velocity`` lie in −1…1, ``density`` in 0…1.
    """

    realm: Name
    lineage: Generation
    adjacency: tuple[Name, ...]
    horizon: Horizon
    resonance: Rating
    velocity: Rating
    density: Share

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the JSON object of exactly the seven dimensions. Raises ``Malformed``."""
        coordinates = _converted(value, cls, "the coordinates")
        _checked(_coordinates_form(coordinates))
        return coordinates

    @classmethod
    def of(cls, record: FileRecord) -> Self:
        """Return the coordinates of a file."""
        return cls(
            realm=record.realm,
            lineage=record.lineage,
            adjacency=tuple([neighbour.hex() for neighbour in record.adjacency]),
            horizon=record.horizon,
            resonance=record.resonance,
            velocity=record.velocity,
            density=record.density,
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that ``parse`` reads."""
        return {**msgspec.structs.asdict(self), "adjacency": sorted(self.adjacency)}


class _Entity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    created_at: str
    entity_type: Name
    id: Name
    realm: Name
    stat7_coordinates: Coordinates
    state: dict[str, object]


@lru_cache(maxsize=256)  # all files have the same coordinates when they arrive
def stat7_uri(coordinates: Coordinates) -> str:
    """Return ``stat7://{realm}/{lineage}/{adjacency hash}/{horizon}?r={resonance}&v={velocity}&d={density}``.

    The adjacency hash is the first 8 hex digits of the SHA-256 of ``{"adjacency":[…]}`` in canonical
    form. A realm's characters other than letters, digits and ``-._~`` are percent-encoded (RFC 3986).
    """
    adjacency = hashlib.sha256(f'{{"adjacency":{_adjacency_form(coordinates.adjacency)}}}'.encode()).hexdigest()[:8]
    return (
        f"stat7://{quote(coordinates.realm, safe='')}/{coordinates.lineage}/{adjacency}/{coordinates.horizon}"
        f"?r={_decimal(coordinates.resonance)}"
        f"&v={_decimal(coordinates.velocity)}"
        f"&d={_decimal(coordinates.density)}"
    )


def entity_address(entity: object) -> Address:
    """Return the address of a Phase 1 entity: the SHA-256 of its canonical form. Raises ``Malformed``."""
    return Address.of(canonical_form(entity))


def canonical_form(entity: object) -> bytes:
    """Return the canonical form of a Phase 1 entity, as the STAT7 design defines it.

    It is a JSON object with exactly ``created_at`` (RFC 3339, any zone), ``entity_type``, ``id``,
    ``realm`` (which need not be that of the coordinates), ``state`` (any JSON object) and
    ``stat7_coordinates``. Raises ``Malformed`` naming the field and what is accepted.
    """
    plain = plain_form(entity)
    return _careful_form(entity) if plain is None else plain


def _careful_form(entity: object) -> bytes:
    parsed = _converted(entity, _Entity, "the entity")
    try:
        created_at = canonical_timestamp(parsed.created_at)
    except Malformed as error:
        raise _refusal("created_at", f"created_at: {error}") from error
    try:
        state = canonical_json(parsed.state) if parsed.state else "{}"
    except Malformed as error:
        raise Malformed(f"state: {error}", field="state", **error.facts) from error
    text = (  # keys in ASCII order
        f'{{"created_at":"{created_at}","entity_type":{_string(parsed.entity_type)}'
        f',"id":{_string(parsed.id)},"realm":{_string(parsed.realm)}'
        f',"stat7_coordinates":{_coordinates_form(parsed.stat7_coordinates)},"state":{state}}}'
    )
    return _checked(text).encode()


def read_entity(data: bytes) -> object:
    """Read the JSON text of an entity, strictly: no key twice, no NaN. Raises ``Malformed``."""
    try:
        return json.loads(data, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}", expected="a JSON object in UTF-8") from error


def _coordinates_form(coordinates: Coordinates) -> str:
    return (
        f'{{"adjacency":{_adjacency_form(coordinates.adjacency)},"density":{_decimal(coordinates.density)}'
        f',"horizon":"{coordinates.horizon}","lineage":{coordinates.lineage},"realm":{_string(coordinates.realm)}'
        f',"resonance":{_decimal(coordinates.resonance)},"velocity":{_decimal(coordinates.velocity)}}}'
    )


def _adjacency_form(names: tuple[str, ...]) -> str:
    if not names:
        return "[]"
    if len(set(names)) < len(names):
        raise _refusal("adjacency", "the adjacency names a neighbour twice")
    return f"[{','.join(map(_string, sorted(names)))}]"


def _checked(text: str) -> str:
    """Return the canonical text if all its strings are Unicode. Raises ``Malformed``."""
    if "\\ud" in text:  # perhaps a surrogate, perhaps half of a pair
        for field, value in json.loads(text).items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise Malformed(
                    f"{field} holds half a surrogate pair", field=field, expected="strings of whole Unicode characters"
                ) from error
    return text


def _converted(value: object, kind: type[T], subject: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        field = at[1] if at else ""
        reason = f"{field}: {str(error)[: at.start()]}" if at and field else str(error)
        raise _refusal(field, f"{subject} is not of its form: {reason}") from error


def _refusal(field: str, message: str) -> Malformed:
    return Malformed(message, field=field, expected=_ACCEPTED[field.rpartition(".")[2]])


def _each_once(members: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in members:
        if key in found:
            raise ValueError(f"an object has the key {key!r} twice")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
