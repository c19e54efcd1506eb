"""The short way to a canonical form: the careful way's result, or none."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stat7store.coordinates import canonical_form
from stat7store.latency.phase1 import Maker
from stat7store.plain import plain_form
from tests.test_canonical import decimal_by_definition

ODD_NAMES = st.sampled_from(["e-5", "0.123456789", '"', "\\", "\x7f", "\t", "é", "Z", '","state":{}}', "", 1, None])
ODD_NUMBERS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 1, 0, True, 1e-5, -1e-8, 1e-9, 0.123456785, -0.1234567851, 5e-324, 1.5, "1"]
    ),
    st.floats(-1, 1),
)
ODD: dict[str, st.SearchStrategy[Any]] = {
    "id": ODD_NAMES,
    "entity_type": ODD_NAMES,
    "realm": ODD_NAMES,
    "created_at": st.one_of(
        st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=30)))).map(datetime.isoformat),
        st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        st.datetimes(timezones=st.just(UTC)),
        st.sampled_from(
            [
                "2025-01-01T00:00:00Z",
                "2025-01-01 00:00:00z",
                "2025-01-01t00:00:00.0Z",
                "2025-01-01T00:00:00.00000Z",
                "2025-01-01T00:00:00.9999999Z",
                "2025-01-01T00:00:00.0000001Z",
                "2025-01-01T00:00:00-00:00",
                "2025-02-30T00:00:00Z",
                "2025-01-01T23:59:60Z",
                "2025-01-01T24:00:00Z",
                "2025-01-01T00:00:00",
                "2025-W01-1T00:00:00Z",
                "",
            ]
        ),
    ),
    "state": st.sampled_from([{"a": 1}, [], None]),
    "stat7_coordinates": st.just({}),
}
ODD_COORDINATES: dict[str, st.SearchStrategy[Any]] = {
    "realm": ODD_NAMES,
    "lineage": st.sampled_from([-1, 2**63, 2**63 - 1, 1.0, True, "1"]),
    "adjacency": st.sampled_from([(), ["b"], ["b", "a"], None]),
    "horizon": st.just("noon"),
    "resonance": ODD_NUMBERS,
    "velocity": ODD_NUMBERS,
    "density": ODD_NUMBERS,
}


@st.composite
def entities(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a plain entity with one odd field."""
    entity: dict[str, Any] = Maker(draw(st.integers(0, 99))).entity()
    odd, changed = draw(st.sampled_from([(ODD, entity), (ODD_COORDINATES, entity["stat7_coordinates"])]))
    field = draw(st.sampled_from(sorted(odd)))
    changed[field] = draw(odd[field])
    return entity


def written_plainly(entity: dict[str, Any]) -> bytes:
    """Write the canonical form of a plain entity by its definition, with nothing of the product's."""
    where = entity["stat7_coordinates"]
    moment = entity["created_at"]
    numbers = {name: decimal_by_definition(where[name]) for name in ("density", "resonance", "velocity")}
    return (
        f'{{"created_at":"{moment[:10]}T{moment[11:19]}.000Z","entity_type":{json.dumps(entity["entity_type"])}'
        f',"id":{json.dumps(entity["id"])},"realm":{json.dumps(entity["realm"])},"stat7_coordinates":{{"adjacency":[]'
        f',"density":{numbers["density"]},"horizon":"{where["horizon"]}","lineage":{where["lineage"]}'
        f',"realm":{json.dumps(where["realm"])},"resonance":{numbers["resonance"]}'
        f',"velocity":{numbers["velocity"]}}},"state":{{}}}}'
    ).encode()


@settings(max_examples=1000)
@given(entities())
def test_the_short_way_gives_what_the_definition_says_or_nothing(entity: dict[str, Any]) -> None:
    """Whatever the entity, the short way is silent or writes what the definition writes."""
    found = plain_form(entity)
    assert found is None or found == written_plainly(entity)


@given(st.integers(0, 2**32))
def test_entities_of_phase_1_go_the_short_way(seed: int) -> None:
    """Entities such as Phase 1 made are plain, unless a number is 0 or below 0.0001."""
    entity = Maker(seed).entity()
    where: Any = entity["stat7_coordinates"]
    if min(abs(where[name]) for name in ("resonance", "velocity", "density")) >= 0.0001:
        assert plain_form(entity) == canonical_form(entity)
