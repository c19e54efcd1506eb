"""The explicit-state model of the protocol: every order of its steps, with each protection there and taken out."""

from __future__ import annotations

import pytest

from tests.faults.model import CRASHES, Protocol, search
from tests.faults.reliability import Reliability, Removal, Row

FILESYSTEM = Protocol()
S3 = Protocol(locks=False, intents=True)
REMOVALS = [
    ("filesystem", "locations are never used again", FILESYSTEM._replace(new_names=False)),
    ("filesystem", "a spool locks its blob until the catalog has it", FILESYSTEM._replace(locks=False)),
    ("filesystem", "a name is synced before the catalog tells it", FILESYSTEM._replace(syncs=False)),
    ("filesystem", "an orphan is looked up again in the transaction", FILESYSTEM._replace(looks_again=False)),
    ("filesystem", "a reader that finds no blob looks again", FILESYSTEM._replace(reads_again=False)),
    ("S3", "locations are never used again", S3._replace(new_names=False)),
    ("S3", "an intent precedes the put", S3._replace(intents=False)),
    ("S3", "the transaction refuses a withdrawn intent", S3._replace(fences=False)),
    ("S3", "an orphan is looked up again in the transaction", S3._replace(looks_again=False)),
    ("S3", "a reader that finds no blob looks again", S3._replace(reads_again=False)),
]


@pytest.mark.parametrize(("store", "protocol"), [("filesystem", FILESYSTEM), ("S3", S3)])
def test_every_state_is_safe(store: str, protocol: Protocol, reliability: Reliability) -> None:
    """In whatever order the steps come and wherever it crashes, twice: an entry has its blob, what was acknowledged
    and not deleted has its entry, no reader is alarmed by a delete, and the sweeps leave nothing over."""
    found = search(protocol)
    reliability.add(
        Row(
            fault="every order of steps (a model)",
            store=store,
            how=f"two uploads of the same bytes, a delete, a reader, collector, sweeper, and up to {CRASHES} crashes",
            times=found.states,
            checked="every state that can be reached",
            lost=int(bool(found.problem)),
            wrong=0,
        )
    )
    assert not found.problem, str(found)
    assert found.states > 10_000


@pytest.mark.parametrize(("store", "protection", "protocol"), REMOVALS, ids=[f"{row[0]}: {row[1]}" for row in REMOVALS])
def test_no_protection_can_be_spared(
    store: str, protection: str, protocol: Protocol, reliability: Reliability, request: pytest.FixtureRequest
) -> None:
    """Without any one of the protections there is a way to lose a file, or to cry wolf: the search finds it."""
    found = search(protocol)
    print(f"{store}, not so: {protection}: {found}")
    reliability.add(
        Removal(
            protection=f"{protection} ({store})",
            taken_out=f"of the model; then: {found.problem}",
            test=request.node.nodeid,
            caught=bool(found.problem),
        )
    )
    assert found.problem
    assert found.story
