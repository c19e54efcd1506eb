"""Files with few and borderline values, and the queries that can be asked of them."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from stat7store.catalog.base import SORTS, NewFile, Query
from tests.catalog.making import address_of, new_file

REALMS = ("image", "movie", "")
TAGS = ("red", "blue", "long" * 100, "long" * 100 + "er")
MEDIA_TYPES = ("image/png", "image/gif", "images/odd", "video/mp4")
HORIZONS = ("genesis", "peak")
FLOATS = (-1.0, -0.5, -1e-300, -0.0, 0.0, 1e-300, 0.5, 1.0)
NAMES = ("a.PNG", "b.png", "MOVIE.mp4", "Straße")
TIMES = (-(2**63), -5, -1, 0, 1, 1_700_000_000_000, 1_700_000_000_003, 2**63 - 1)


def some_files(count: int) -> list[NewFile]:
    """Return files that share their values with each other and with the queries, always the same."""
    random = Random(7)
    return [
        new_file(
            number,
            size=random.choice((0, 1, 1000, 2**40)),
            media_type=random.choice(MEDIA_TYPES),
            realm=random.choice(REALMS),
            horizon=random.choice(HORIZONS),
            lineage=random.randrange(3),
            adjacency=tuple(address_of(other) for other in range(number) if random.random() < 3 / count),
            resonance=random.choice((*FLOATS, *[0.0] * 20)),
            velocity=random.choice(FLOATS),
            density=random.choice(FLOATS),
            tags=tuple(random.sample(TAGS, random.randrange(3))),
            filename=random.choice(NAMES),
            stored_at=random.choice(TIMES),
        )
        for number in range(count)
    ]


def queries(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Query]:
    """Return queries of up to three filters; ``numbers`` says whose neighbours may be asked for."""
    floats = st.sampled_from([*FLOATS, float("-inf"), float("inf"), 0.25])
    times = st.sampled_from([*TIMES, 2**70, -(2**70)])
    filters: dict[str, st.SearchStrategy[object]] = {
        "realm": st.sampled_from(REALMS),
        "horizon": st.sampled_from(HORIZONS),
        "lineage": st.sampled_from([0, 1, 2, 2**70, -1]),
        "adjacency": st.builds(address_of, numbers),
        "media_type": st.sampled_from([*MEDIA_TYPES, "image/*", "video/*", "*/*", "audio/*"]),
        "tag": st.sampled_from(TAGS),
        "name": st.sampled_from(["png", "movie", "strasse", "zzz"]),
        "stored_after": times,
        "stored_before": times,
        **{f"{name}_{end}": floats for name in ("resonance", "velocity", "density") for end in ("min", "max")},
    }
    order = {"sort": st.sampled_from(SORTS), "descending": st.booleans()}
    some = st.sets(st.sampled_from(sorted(filters)), max_size=3)
    return some.flatmap(lambda names: st.builds(Query, **{name: filters[name] for name in names}, **order))
