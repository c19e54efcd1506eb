"""Canonical text of single values, against slow and plain definitions of the same."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stat7store.canonical import MAX_DEPTH, canonical_decimal, canonical_json, canonical_timestamp
from stat7store.errors import Malformed

RATINGS = st.one_of(
    st.floats(-1.0, 1.0),
    st.integers(-(10**9), 10**9).map(lambda n: float(f"{n}e-9")),  # ties among them
    st.integers(-(10**8), 10**8).map(lambda n: float(f"{n}e-8")),
)
TEXT = st.text(st.characters(codec="utf-8"))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def decimal_by_definition(value: float) -> str:
    """Round the written number half-even to 8 decimals, and drop zeros at its end but one."""
    rounded = Decimal(repr(value)).quantize(Decimal("0.00000001"), ROUND_HALF_EVEN)
    whole, decimals = f"{rounded:f}".split(".")
    text = f"{whole}.{decimals.rstrip('0') or '0'}"
    return "0.0" if text == "-0.0" else text


@given(RATINGS)
@example(-0.0)
@example(-1e-9)
@example(5e-9)  # a tie that goes to 0
@example(1.5e-8)  # a tie that goes to 2e-8
@example(0.123456785)  # below the tie in binary
@example(0.999999995)
@example(1e-300)
def test_decimals_are_rounded_as_defined(value: float) -> None:
    """The quick way of rounding gives what the definition with decimal arithmetic gives."""
    assert canonical_decimal(value) == decimal_by_definition(value)


@given(RATINGS)
def test_decimals_settle_at_once(value: float) -> None:
    """Writing what was written changes nothing, has no exponent, and is off by half a step at most."""
    text = canonical_decimal(value)
    assert canonical_decimal(float(text)) == text
    assert "e" not in text
    assert "." in text
    assert abs(Decimal(text) - Decimal(repr(value))) <= Decimal("0.000000005")


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.0"), (0.3, "0.3"), (1.234e-5, "0.00001234"), (-1, "-1.0")])
def test_decimals_of_the_design(value: float, text: str) -> None:
    """The examples of the design come out as it says."""
    assert canonical_decimal(value) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2025-01-01T00:00:00+00:00", "2025-01-01T00:00:00.000Z"),
        ("2025-01-01t00:00:00z", "2025-01-01T00:00:00.000Z"),
        ("2025-01-01 00:00:00.5-00:00", "2025-01-01T00:00:00.500Z"),
        ("2024-12-31T19:30:00.1239-04:30", "2025-01-01T00:00:00.123Z"),
        ("2025-01-01T00:59:59.999999999+01:00", "2024-12-31T23:59:59.999Z"),
        ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000Z"),
    ],
)
def test_timestamps_of_any_zone(text: str, canonical: str) -> None:
    """A moment is written in UTC with milliseconds, whatever zone it came in; finer fractions are cut off."""
    assert canonical_timestamp(text) == canonical
    assert canonical_timestamp(canonical) == canonical


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),  # noqa: DTZ001  # the zone is drawn beside it
    st.integers(-1439, 1439),
)
def test_a_moment_has_one_timestamp(moment: datetime, offset: int) -> None:
    """The same moment written in two zones has one canonical form."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    written = canonical_timestamp(aware.isoformat())
    assert written == canonical_timestamp(aware.astimezone(UTC).isoformat())
    cut = aware.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)
    assert datetime.fromisoformat(written) == cut


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025-01-01",
        "2025-01-01T00:00:00",
        "2025-01-01T00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2025-01-01T24:00:00Z",
        "2025-01-01T00:00:60Z",
        "2025-01-01T00:00:00,5Z",
        "2025-01-01T00:00:00.Z",
        "2025-01-01T00:00:00+24:00",
        "2025-W01-1T00:00:00Z",
        "20250101T000000Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00Z",
        "٢٠٢٥-01-01T00:00:00Z",
        "2025-01-01T00:00:00Z\n",
        "x" * 1000,
    ],
)
def test_bad_timestamps_are_refused(text: str) -> None:
    """What is no moment in time, or does not say its zone, is refused with the accepted form."""
    with pytest.raises(Malformed) as refused:
        canonical_timestamp(text)
    assert "RFC 3339" in refused.value.facts["expected"]
    assert len(str(refused.value)) < 150


def without_negative_zero(value: Any) -> Any:
    """Return a JSON value with 0.0 for every −0.0."""
    if isinstance(value, dict):
        return {key: without_negative_zero(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_negative_zero(inner) for inner in value]
    return 0.0 if isinstance(value, float) and value == 0 else value


@given(JSON)
@example({"é": 1, "z": 2, '"': 3, "\U0001f600": 4, "\uffff": 5})
@example([1e-5, 1e22, -1e-7, 1.5e300, 5e-324, 2**200, True, 1, 1.0, -0.0])
def test_json_is_ascii_sorted_and_exact(value: Any) -> None:
    """Canonical JSON reads back as the very value, in ASCII, without exponents or white space, keys sorted."""
    text = canonical_json(value)
    assert text.isascii()
    expected = without_negative_zero(value)
    seen: list[str] = []

    def note(digits: str) -> float:
        seen.append(digits)
        return float(digits)

    read = json.loads(text, parse_float=note)
    assert repr(read) == repr(json.loads(json.dumps(expected, sort_keys=True)))
    assert not any("e" in digits for digits in seen)
    if not any(abs(float(digits)) < 1e-4 or abs(float(digits)) >= 1e16 for digits in seen):
        assert text == json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert canonical_json(read) == text


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, {1: 2}, {None: 1, "a": 2}, (1, 2), {1}, b"x", 10**5000, object(), Decimal(1)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_json_is_refused(value: object) -> None:
    """NaN, infinities, keys that are no strings and Python's other types are refused, however deep they lie."""
    for wrapped in (value, [value], {"a": [value]}):
        with pytest.raises(Malformed) as refused:
            canonical_json(wrapped)
        assert refused.value.facts["expected"]


def test_nesting_has_a_limit() -> None:
    """Lists and objects nest to the limit and no deeper, so that no input exhausts the stack."""
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert canonical_json(value) == "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    with pytest.raises(Malformed, match="too deep"):
        canonical_json({"one more": value})
