"""The canonical form written in C: what the careful way writes, or none."""

from __future__ import annotations

import gc
import json
import re
import sys
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stat7store import coordinates
from stat7store._plain import plain_form
from stat7store.errors import Malformed
from stat7store.latency.phase1 import Maker
from tests.test_canonical import RATINGS


class Word(str):
    """A string that is not quite one."""

    __slots__ = ()


ODD_NAMES = (
    st.sampled_from(
        [
            "e-5",
            "0.123456789",
            '"',
            "\\",
            "\x7f",
            "\x1f",
            "\t",
            "é",
            "Z",
            '","state":{}}',
            "",
            1,
            None,
            b"a",
            Word("a"),
            "a" * 2000,
        ]
    )
    | st.text()
)
ODD_NUMBERS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 1, 0, True, 1e-5, -1e-8, 1e-9, 0.123456785, -0.1234567851, 5e-324, 1.5, "1", None]
    ),
    st.sampled_from([float("nan"), float("inf"), 1.0000000000000002, 0.30000000000000004, 0.99999999, 0.999999995]),
    RATINGS,
    st.floats(),
)
MOMENTS = [
    "2025-01-01T00:00:00Z",
    "2025-01-01 00:00:00z",
    "2025-01-01t00:00:00.0Z",
    "2025-01-01T00:00:00.00000Z",
    "2025-01-01T00:00:00.9999999Z",
    "2025-01-01T00:00:00.0000001Z",
    "2025-01-01T00:00:00.Z",
    "2025-01-01T00:00:00.",
    "2025-01-01T00:00:00.1",
    "2025-01-01T00:00:00-00:00",
    "2025-01-01T00:00:00+00:00Z",
    "2025-01-01T23:59:60Z",
    "2025-01-01T23:60:00Z",
    "2025-01-01T24:00:00Z",
    "2025-01-01T00:00:00",
    "2025-W01-1T00:00:00Z",
    "",
    "2025-01-01T00:00:00Zulu",
    "2025-01-01T00:00:00ZZ",
    "2025-01-01T00:00:00.12",
    "2025-01-01T00:00:00+00:000",
    "2025-01-01T00:00:00.123456+00:00",
    "2025-01-01T00:00:00+00:01",
]
ODD: dict[str, st.SearchStrategy[Any]] = {
    "id": ODD_NAMES,
    "entity_type": ODD_NAMES,
    "realm": ODD_NAMES,
    "created_at": st.one_of(
        st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=30)))).map(datetime.isoformat),
        st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        st.datetimes(timezones=st.just(UTC)),
        st.from_regex(
            r"[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]*)?(Z|\+00:00)", fullmatch=True
        ),
        st.sampled_from(MOMENTS),
    ),
    "state": st.sampled_from([{"a": 1}, [], None]),
    "stat7_coordinates": st.just({}),
    "unknown": st.just(1),
}
ODD_COORDINATES: dict[str, st.SearchStrategy[Any]] = {
    "realm": ODD_NAMES,
    "lineage": st.sampled_from([-1, 2**63, 2**63 - 1, 0, 10, 1.0, True, "1"]),
    "adjacency": st.sampled_from([(), ["b"], ["b", "a"], None, {}]),
    "horizon": st.sampled_from(["noon", "", "genesi", "genesis ", Word("peak"), None, "peak"]),
    "resonance": ODD_NUMBERS,
    "velocity": ODD_NUMBERS,
    "density": ODD_NUMBERS,
    "unknown": st.just(1),
}


@st.composite
def entities(draw: st.DrawFn) -> dict[Any, Any]:
    """Draw a plain entity with one odd field, or without one, its keys perhaps in another order."""
    entity: dict[Any, Any] = Maker(draw(st.integers(0, 99))).entity()
    if draw(st.booleans()):
        entity = json.loads(
            json.dumps(entity, sort_keys=True)
        )  # its keys are equal to the names of fields, not the same
    odd, changed = draw(st.sampled_from([(ODD, entity), (ODD_COORDINATES, entity["stat7_coordinates"])]))
    field = draw(st.sampled_from(sorted(odd)))
    changed[field] = draw(odd[field])
    if draw(st.integers(0, 9)) == 0:
        value = changed.pop(field)
        if draw(st.booleans()):
            changed[draw(st.sampled_from(["other", "", 7, Word(field), f"{field}s"]))] = value
    return entity


@settings(max_examples=2000)
@given(entities())
@example(None)
@example([])
@example({})
def test_the_short_way_gives_what_the_careful_way_gives_or_nothing(entity: Any) -> None:
    """Whatever the entity, the short way is silent or writes what the careful way writes."""
    found = plain_form(entity)
    assert found is None or found == coordinates._careful_form(entity)


@settings(max_examples=2000)
@given(
    st.sampled_from(["density", "resonance", "velocity"]), st.integers(-(10**8), 10**8) | st.sampled_from([0, 10**8])
)
def test_numbers_of_8_decimals_go_the_short_way(field: str, steps: int) -> None:
    """Whatever has at most 8 decimals is written, and as the careful way writes it."""
    entity: Any = Maker(0).entity()
    value = float(f"{abs(steps) if field == 'density' else steps}e-8")
    entity["stat7_coordinates"][field] = value
    assert plain_form(entity) == coordinates._careful_form(entity)


def test_every_day_is_judged_as_the_calendar_does() -> None:
    """What is no day is left to the careful way; every day is written."""
    entity = Maker(0).entity()
    for year, month, day in product((0, 1, 4, 1900, 2000, 2023, 2024, 9999), range(14), range(33)):
        entity["created_at"] = f"{year:04}-{month:02}-{day:02}T23:59:59Z"
        try:
            expected = coordinates._careful_form(entity)
        except Malformed:
            expected = None
        assert plain_form(entity) == expected, entity["created_at"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment_is_judged_as_the_careful_way_does(moment: str) -> None:
    """In UTC with a capital T and Z it is written, with milliseconds; everything else is left to the careful way."""
    entity: Any = {**Maker(0).entity(), "created_at": moment}
    written = plain_form(entity)
    try:
        assert (written or coordinates._careful_form(entity)) == coordinates._careful_form(entity)
    except Malformed:
        assert written is None
    usual = re.fullmatch(r"2025-01-01T(00|23):[0-5]\d:[0-5]\d(\.\d+)?(Z|\+00:00)", moment)
    assert (written is not None) == (usual is not None)


@given(st.integers(0, 2**32))
def test_entities_of_phase_1_go_the_short_way(seed: int) -> None:
    """Entities such as Phase 1 made are plain."""
    entity = Maker(seed).entity()
    assert plain_form(entity) == coordinates._careful_form(entity)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the short way writes is the canonical form; the careful way is not asked."""
    monkeypatch.setattr(coordinates, "plain_form", lambda entity: b"plain")
    assert coordinates.canonical_form(None) == b"plain"


@pytest.mark.usefixtures("uncollected")
def test_nothing_is_held_or_let_go() -> None:
    """Neither a plain entity nor another one is left with more references, or fewer."""
    for entity in (Maker(0).entity(), {**Maker(0).entity(), "state": {"a": 1}}, {}, "text"):
        parts = [
            entity,
            *gc.get_referents(entity),
            *[more for one in gc.get_referents(entity) for more in gc.get_referents(one)],
        ]
        before = [sys.getrefcount(part) for part in parts]
        for _ in range(1000):
            plain_form(entity)
        assert [sys.getrefcount(part) for part in parts] == before
