"""Which file is asked for next, and which part of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from stat7store.address import Address
from storage.base import Span

EACH, UNIFORM, ZIPF = "each", "uniform", "zipf"
CHOICES = (EACH, UNIFORM, ZIPF)
_BATCH = 1000


class Target(NamedTuple):
    """A file to ask for; its size in bytes."""

    address: Address
    size: int


def chosen(targets: Sequence[Target], choice: str, chance: random.Random, exponent: float = 1.1) -> Iterator[Target]:
    """Yield files for ever (``each``: every file once, in random order).

    ``uniform``: each as likely as any other. ``zipf``: the file of rank r with a probability
    proportional to r to the power of minus ``exponent``, the ranks dealt out at random.
    """
    shuffled = list(targets)
    chance.shuffle(shuffled)
    if choice == EACH:
        yield from shuffled
        return
    weights = None
    if choice == ZIPF:
        weights = list(accumulate((rank + 1) ** -exponent for rank in range(len(shuffled))))
    while True:
        yield from chance.choices(shuffled, cum_weights=weights, k=_BATCH)


def part_of(target: Target, length: int | None, chance: random.Random) -> Span | None:
    """Return a span of up to ``length`` bytes that starts anywhere in the file; None: the whole file."""
    if length is None:
        return None
    taken = min(length, target.size)
    return Span(chance.randint(0, target.size - taken), taken)
