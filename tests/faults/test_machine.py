"""The store against a model of it in memory: random uploads, deletes, damage, scrubs, sweeps and deaths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from storage.filesystem import FilesystemBlobs
from tests.faults.machine import StoreMachine
from tests.faults.reliability import Reliability, Row

_STEPS = 40


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_store_does_as_its_model(tmp_path: Path, samples: Path, soak: bool, reliability: Reliability) -> None:
    """In whatever order files come, go, rot, are scrubbed and swept: the store says what a dictionary would."""

    class Machine(StoreMachine):
        root = tmp_path / "blobs"

    FilesystemBlobs.create(Machine.root)
    examples = 100 if soak else 4
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=_STEPS,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],  # to find fewer steps for a failure takes minutes of disk work
        ),
    )
    reliability.add(
        Row(
            fault="random steps beside a model",
            store="filesystem",
            how=f"up to {_STEPS} uploads, deletes, reads, damage, scrubs, sweeps, deaths, restarts in any order",
            times=examples,
            checked="every answer, and in the end every blob, against a dictionary",
            lost=0,
            wrong=0,
        )
    )
