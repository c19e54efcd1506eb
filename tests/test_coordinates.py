"""Coordinates, their URI, and the canonical form and address of Phase 1's entities."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat7store.coordinates import Coordinates, canonical_form, entity_address, read_entity, stat7_uri
from stat7store.errors import Malformed
from stat7store.record import HORIZONS, FileRecord
from tests.test_canonical import JSON, RATINGS, TEXT, decimal_by_definition

LUCA: dict[str, Any] = {
    "id": "LUCA-0000",
    "entity_type": "fragment",
    "realm": "void",
    "created_at": "2025-01-01T00:00:00+00:00",
    "state": {},
    "stat7_coordinates": {
        "realm": "void",
        "lineage": 0,
        "adjacency": [],
        "horizon": "genesis",
        "resonance": 1.0,
        "velocity": 0.0,
        "density": 0.0,
    },
}
NAMES = TEXT.filter(bool)
COORDINATES = st.fixed_dictionaries(
    {
        "realm": NAMES,
        "lineage": st.integers(0, 2**63 - 1),
        "adjacency": st.lists(NAMES, unique=True, max_size=6),
        "horizon": st.sampled_from(HORIZONS),
        "resonance": RATINGS,
        "velocity": RATINGS,
        "density": RATINGS.map(abs),
    }
)
ENTITIES = st.fixed_dictionaries(
    {
        "id": NAMES,
        "entity_type": NAMES,
        "realm": NAMES,
        "created_at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        "state": st.dictionaries(TEXT, JSON.map(lambda value: json.loads(json.dumps(value))), max_size=4),
        "stat7_coordinates": COORDINATES,
    }
)


def shuffled(value: Any, order: random.Random) -> Any:
    """Return an equal JSON value whose object keys, at every depth, stand in another order."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(inner, order) for inner in value] if isinstance(value, list) else value


def test_the_worked_example() -> None:
    """The example of the design has the canonical form, the address and the URI that it says."""
    assert canonical_form(LUCA) == (
        b'{"created_at":"2025-01-01T00:00:00.000Z","entity_type":"fragment","id":"LUCA-0000","realm":"void",'
        b'"stat7_coordinates":{"adjacency":[],"density":0.0,"horizon":"genesis","lineage":0,"realm":"void",'
        b'"resonance":1.0,"velocity":0.0},"state":{}}'
    )
    assert str(entity_address(LUCA)) == "bedf6aee88bcefc23bb767c9fc808b844de49d445cb62634ce66302da1396f0d"
    uri = stat7_uri(Coordinates.parse(LUCA["stat7_coordinates"]))
    assert uri == "stat7://void/0/cae85551/genesis?r=1.0&v=0.0&d=0.0"


@given(ENTITIES, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_neighbours_does_not_matter(entity: dict[str, Any], order: random.Random) -> None:
    """Equal entities have one canonical form, however their keys and neighbours are ordered."""
    other = shuffled(entity, order)
    order.shuffle(other["stat7_coordinates"]["adjacency"])
    assert canonical_form(other) == canonical_form(entity)


@given(ENTITIES)
def test_the_canonical_form_is_the_definition(entity: dict[str, Any]) -> None:
    """Outside the free state, the form is what ``json.dumps`` writes of the rounded and sorted values."""
    coordinates = entity["stat7_coordinates"]
    decimals = {name: decimal_by_definition(coordinates[name]) for name in ("resonance", "velocity", "density")}
    expected = {
        **entity,
        "created_at": entity["created_at"][:19]
        + "."
        + f"{datetime.fromisoformat(entity['created_at']).microsecond // 1000:03d}Z",
        "state": {},
        "stat7_coordinates": {
            **coordinates,
            "adjacency": sorted(coordinates["adjacency"]),
            **{name: f"<{text}>" for name, text in decimals.items()},
        },
    }
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    for name, decimal in decimals.items():
        text = text.replace(f'"{name}":"<{decimal}>"', f'"{name}":{decimal}')
    assert canonical_form({**entity, "state": {}}).decode() == text
    assert entity_address(entity) == hashlib.sha256(canonical_form(entity)).digest()


@given(ENTITIES)
def test_the_canonical_form_settles_at_once(entity: dict[str, Any]) -> None:
    """The canonical form is JSON in ASCII, and its own canonical form."""
    form = canonical_form(entity)
    assert form.isascii()
    assert canonical_form(read_entity(form)) == form


@given(ENTITIES)
def test_an_entity_is_not_changed(entity: dict[str, Any]) -> None:
    """Asking for an address changes nothing in the entity."""
    before = copy.deepcopy(entity)
    entity_address(entity)
    assert entity == before


@given(ENTITIES, st.data())
def test_every_field_counts(entity: dict[str, Any], data: st.DataObject) -> None:
    """Another value in any field gives another address."""
    other = copy.deepcopy(entity)
    field = data.draw(st.sampled_from(["id", "entity_type", "realm", "state", "lineage", "horizon", "adjacency"]))
    if field in ("lineage", "horizon", "adjacency"):
        changed = {"lineage": 7, "horizon": "decay", "adjacency": ["one", "two"]}[field]
        other["stat7_coordinates"][field] = changed
        same = entity["stat7_coordinates"][field] == changed
    else:
        other[field] = {"changed": True} if field == "state" else "changed"
        same = entity[field] == other[field]
    assert (entity_address(other) == entity_address(entity)) == same


def refused(entity: object) -> Malformed:
    """Return how an entity is refused."""
    with pytest.raises(Malformed) as caught:
        entity_address(entity)
    return caught.value


BAD_FIELDS: dict[str, list[object]] = {
    **{name: ["", None, 1, True, ["x"], "\ud800"] for name in ("id", "entity_type", "realm")},
    "state": [None, [], "x", 0, {"a": math.nan}, {1: 2}, {"a": {1: 2}}, {"\udfff": 1}, {"a": {1}}],
    "created_at": [None, 0, "", "yesterday", "2025-01-01T00:00:00", datetime.now(UTC)],
    "stat7_coordinates": [None, []],
}
NO_RATINGS: list[object] = [math.nan, math.inf, -math.inf, 1.0000001, -1.01, 2, True, False, "0.5", None, [0.5]]
BAD_DIMENSIONS: dict[str, list[object]] = {
    "realm": ["", None, 1],
    "lineage": [-1, 1.0, True, "1", None, 2**63, 10**5000],
    "adjacency": [None, "abc", [1], [""], [None], ["a", "b", "a"], ["a", 1], {"a": 1}],
    "horizon": ["", "Genesis", "end", None, 0, []],
    "resonance": NO_RATINGS,
    "velocity": NO_RATINGS,
    "density": [*NO_RATINGS, -0.1, -1],
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_entities_are_refused(field: str) -> None:
    """A field of the wrong type or form is refused; the error names it and says what is accepted."""
    for value in BAD_FIELDS[field]:
        error = refused({**LUCA, field: value})
        assert error.facts["field"] == field
        assert field in str(error)
        assert error.facts["expected"]


@pytest.mark.parametrize("dimension", BAD_DIMENSIONS)
def test_bad_coordinates_are_refused(dimension: str) -> None:
    """A dimension of the wrong type or out of range is refused, in an entity and by itself."""
    for value in BAD_DIMENSIONS[dimension]:
        coordinates = {**LUCA["stat7_coordinates"], dimension: value}
        error = refused({**LUCA, "stat7_coordinates": coordinates})
        assert error.facts["field"].rpartition(".")[2] == dimension
        assert error.facts["expected"]
        with pytest.raises(Malformed) as alone:
            Coordinates.parse(coordinates)
        assert alone.value.facts["field"] == dimension


@pytest.mark.parametrize("dimension", ["realm", "adjacency"])
@pytest.mark.parametrize("half", ["\ud800", "a\udfff", "\udc00\ud800"])
def test_half_characters_are_refused(dimension: str, half: str) -> None:
    """Half a surrogate pair, which other parsers read in other ways, is refused in names too; a pair is not."""
    for text, good in ((half, False), ("\U0001f600", True), ("\\udead", True)):
        coordinates = {**LUCA["stat7_coordinates"], dimension: [text] if dimension == "adjacency" else text}
        if good:
            assert Coordinates.parse(coordinates).to_json()[dimension] == coordinates[dimension]
            assert entity_address({**LUCA, "stat7_coordinates": coordinates}) != entity_address(LUCA)
            continue
        with pytest.raises(Malformed, match="surrogate"):
            Coordinates.parse(coordinates)
        with pytest.raises(Malformed, match="surrogate"):
            entity_address({**LUCA, "stat7_coordinates": coordinates})


@pytest.mark.parametrize("key", list(LUCA))
def test_a_missing_key_is_named(key: str) -> None:
    """An entity that lacks a key is refused, and the key is named."""
    assert key in str(refused({name: value for name, value in LUCA.items() if name != key}))


@pytest.mark.parametrize("dimension", list(LUCA["stat7_coordinates"]))
def test_a_missing_dimension_is_named(dimension: str) -> None:
    """Coordinates that lack a dimension are refused, and the dimension is named."""
    coordinates = {name: value for name, value in LUCA["stat7_coordinates"].items() if name != dimension}
    assert dimension in str(refused({**LUCA, "stat7_coordinates": coordinates}))


def test_unknown_keys_are_refused() -> None:
    """An entity and its coordinates have exactly the keys of the design; any other is named."""
    assert "colour" in str(refused({**LUCA, "colour": "red"}))
    assert "colour" in str(refused({**LUCA, "stat7_coordinates": {**LUCA["stat7_coordinates"], "colour": 1}}))
    assert refused({7: 1}).facts["expected"]


@pytest.mark.parametrize("value", [None, 1, "entity", [LUCA], b"{}"])
def test_only_an_object_is_an_entity(value: object) -> None:
    """What is no JSON object is refused with the keys that an entity has."""
    assert "created_at" in refused(value).facts["expected"]


def test_whole_numbers_and_negative_zero() -> None:
    """1 stands for 1.0 and −0.0 for 0.0, so that all writers of JSON get the same address."""
    coordinates = {**LUCA["stat7_coordinates"], "resonance": 1, "velocity": -0.0, "density": 0}
    assert entity_address({**LUCA, "stat7_coordinates": coordinates}) == entity_address(LUCA)


def test_the_two_realms_may_differ() -> None:
    """An entity's realm and that of its coordinates are two fields, and both count."""
    other = {**LUCA, "realm": "data"}
    assert b'"realm":"data","stat7_coordinates":{"adjacency":[],' in canonical_form(other)
    assert entity_address(other) != entity_address(LUCA)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"id": 1, "id": 2}', "twice"),
        (b'{"state": {"a": 1, "a": 1}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
    ],
    ids=range(9),
)
def test_json_is_read_strictly(data: bytes, reason: str) -> None:
    """Text in which parsers differ (keys twice, NaN), or that is no JSON, is refused."""
    with pytest.raises(Malformed, match=reason):
        read_entity(data)


@given(COORDINATES)
def test_coordinates_are_read_back(value: dict[str, Any]) -> None:
    """Coordinates go to JSON and back unchanged, but for the order of neighbours."""
    coordinates = Coordinates.parse(value)
    assert coordinates.to_json() == {**value, "adjacency": sorted(value["adjacency"])}
    assert stat7_uri(Coordinates.parse(coordinates.to_json())) == stat7_uri(coordinates)


@given(COORDINATES)
def test_the_uri_is_a_uri(value: dict[str, Any]) -> None:
    """Whatever the realm is called, the URI has its six parts, and only characters of RFC 3986."""
    uri = stat7_uri(Coordinates.parse(value))
    scheme, _, host, lineage, adjacency, rest = uri.split("/")
    horizon, _, query = rest.partition("?")
    assert (scheme, lineage, horizon) == ("stat7:", str(value["lineage"]), value["horizon"])
    assert len(adjacency) == 8
    assert set(host) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")
    names = [part.partition("=") for part in query.split("&")]
    assert [name for name, _, _ in names] == ["r", "v", "d"]
    texts = [decimal_by_definition(value[name]) for name in ("resonance", "velocity", "density")]
    assert [text for _, _, text in names] == texts


def test_the_adjacency_hash_is_that_of_its_canonical_form() -> None:
    """The hash is of the sorted adjacency in canonical form, so that its order does not matter."""
    expected = hashlib.sha256(b'{"adjacency":["a","b","\\u00e9"]}').hexdigest()[:8]
    for adjacency in (["a", "b", "é"], ["é", "b", "a"]):
        uri = stat7_uri(Coordinates.parse({**LUCA["stat7_coordinates"], "adjacency": adjacency}))
        assert uri.split("/")[4] == expected


def test_a_file_has_coordinates_too() -> None:
    """A file's neighbours are named by their addresses in hex."""
    record = FileRecord(address=bytes(32), stored_at=0, filename="", realm="image", adjacency=(b"\x01" * 32,))
    coordinates = Coordinates.of(record)
    assert coordinates.to_json()["adjacency"] == ["01" * 32]
    expected = hashlib.sha256(b'{"adjacency":["%s"]}' % (b"01" * 32)).hexdigest()[:8]
    assert stat7_uri(coordinates) == f"stat7://image/1/{expected}/genesis?r=0.0&v=0.0&d=1.0"
    changed = Coordinates.of(msgspec.structs.replace(record, resonance=-0.123456789))
    assert "?r=-0.12345679&" in stat7_uri(changed)
