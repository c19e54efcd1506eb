"""Metrics in Prometheus' text form: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Sample(NamedTuple):
    """One value, under its labels; ``suffix`` is for the parts of a histogram."""

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""


class Family(NamedTuple):
    """All samples of one name. ``meaning`` is one line of plain text."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    samples: Sequence[Sample]


def counter(name: str, meaning: str, *samples: Sample) -> Family:
    """Return a family of what only ever grows; its name ends in ``_total``."""
    return Family(name, "counter", meaning, samples)


def gauge(name: str, meaning: str, *samples: Sample) -> Family:
    """Return a family of what goes up and down."""
    return Family(name, "gauge", meaning, samples)


def distribution(
    labels: Mapping[str, str], up_to: Iterable[tuple[float, int]], total: int, sum_of_all: float
) -> list[Sample]:
    """Return the samples of one histogram: ``up_to`` are bounds and how many values lie below each."""
    return [
        *(Sample(count, {**labels, "le": _number(bound)}, "_bucket") for bound, count in up_to),
        Sample(total, {**labels, "le": "+Inf"}, "_bucket"),
        Sample(sum_of_all, labels, "_sum"),
        Sample(total, labels, "_count"),
    ]


def exposition(families: Iterable[Family]) -> str:
    """Return the text; families without samples are left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += (f"# HELP {family.name} {family.meaning}", f"# TYPE {family.name} {family.kind}")
            lines += (_line(family.name, sample) for sample in family.samples)
    return "\n".join([*lines, ""])


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sample.labels.items())
    return (
        f"{name}{sample.suffix}{{{labels}}} {_number(sample.value)}"
        if labels
        else f"{name}{sample.suffix} {_number(sample.value)}"
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
