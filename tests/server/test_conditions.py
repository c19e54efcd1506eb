"""Conditional requests: what the conditions of a GET or HEAD ask for."""

from __future__ import annotations

import pytest

from stat7store.server.conditions import Verdict, entity_tag, evaluate, range_applies

ADDRESS = "ab" * 32
TAG = f'"{ADDRESS}"'
MODIFIED = 784_111_777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"


def verdict(**conditions: str) -> Verdict:
    """The verdict on conditions that are named as headers are, with underscores."""
    headers = {name.title().replace("_", "-"): value for name, value in conditions.items()}
    return evaluate(headers, ADDRESS, MODIFIED)


def test_entity_tag() -> None:
    """The entity tag is strong: the address in quotes."""
    assert entity_tag(ADDRESS) == TAG


def test_no_conditions() -> None:
    """Without conditions the request goes on."""
    assert verdict() is Verdict.PROCEED


@pytest.mark.parametrize("tags", [TAG, "*", f'"other", {TAG}', f'{TAG}\t,"other"', f'W/"other",,{TAG}'])
def test_tag_matches(tags: str) -> None:
    """A list that has the tag, or a star, satisfies If-Match, and gives 304 to If-None-Match."""
    assert verdict(if_match=tags) is Verdict.PROCEED
    assert verdict(if_none_match=tags) is Verdict.NOT_MODIFIED


@pytest.mark.parametrize("tags", ["", '"other"', ADDRESS, f"{TAG}x", f"x{TAG}", "**", '*, "other"', TAG.upper()])
def test_tag_does_not_match(tags: str) -> None:
    """A list without the tag fails If-Match, and lets If-None-Match go on."""
    assert verdict(if_match=tags) is Verdict.FAILED
    assert verdict(if_none_match=tags) is Verdict.PROCEED


def test_weak_tag() -> None:
    """A weak tag never satisfies If-Match, and does count for If-None-Match (RFC 9110 §13.1)."""
    assert verdict(if_match=f"W/{TAG}") is Verdict.FAILED
    assert verdict(if_none_match=f'W/"other", W/{TAG}') is Verdict.NOT_MODIFIED


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        *((DATE, Verdict.PROCEED), (LATER, Verdict.PROCEED), (EARLIER, Verdict.FAILED)),
        *(("yesterday", Verdict.FAILED), ("", Verdict.FAILED)),
    ],
)
def test_if_unmodified_since(date: str, expected: Verdict) -> None:
    """If-Unmodified-Since holds from the time of storing on; an unreadable date does not hold."""
    assert verdict(if_unmodified_since=date) is expected


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        *((DATE, Verdict.NOT_MODIFIED), (LATER, Verdict.PROCEED), (EARLIER, Verdict.PROCEED)),
        *(("yesterday", Verdict.PROCEED), ("", Verdict.PROCEED)),
    ],
)
def test_if_modified_since(date: str, expected: Verdict) -> None:
    """Only the very time of storing gives 304, as nginx has it by default."""
    assert verdict(if_modified_since=date) is expected


def test_tags_hide_dates() -> None:
    """A tag condition makes the date condition beside it count for nothing (RFC 9110 §13.2.2)."""
    assert verdict(if_match=TAG, if_unmodified_since=EARLIER) is Verdict.PROCEED
    assert verdict(if_none_match=TAG, if_modified_since=EARLIER) is Verdict.NOT_MODIFIED
    assert verdict(if_none_match='"other"', if_modified_since=DATE) is Verdict.PROCEED


def test_failure_goes_first() -> None:
    """A condition that fails is told before one that would give 304."""
    assert verdict(if_match='"other"', if_none_match=TAG) is Verdict.FAILED
    assert verdict(if_unmodified_since=EARLIER, if_modified_since=DATE) is Verdict.FAILED
    assert verdict(if_match=TAG, if_none_match=TAG) is Verdict.NOT_MODIFIED


@pytest.mark.parametrize(
    ("validator", "applies"),
    [
        *((None, True), (TAG, True), (DATE, True), ("Sun Nov  6 08:49:37 1994", True)),
        *((f"W/{TAG}", False), ('"other"', False), (f'"other", {TAG}', False), ("*", False), (ADDRESS, False)),
        *((LATER, False), (EARLIER, False), ("yesterday", False), ("", False), ('"', False)),
    ],
)
def test_if_range(validator: str | None, applies: bool) -> None:
    """Only the very tag, by strong comparison, or the very date lets the range count."""
    headers = {} if validator is None else {"If-Range": validator}
    assert range_applies(headers, ADDRESS, MODIFIED) is applies
