"""The order in which things reach the disk, which no kill of a process alone can show to be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.breaking import Template
from tests.faults.steps import CUT, DOOMED, LARGE, LAST, SMALL, address_of
from tests.storage.tracing import calls

CALLS = ("write", "fsync", "fdatasync", "syncfs", "linkat", "pwrite64")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> list[str]:
    """The calls of the program that does all that changes a store, each in the order of its end."""
    trace, _ = Template(tmp_path_factory.mktemp("order") / "data").traced(CALLS)
    return calls(trace)


@pytest.mark.parametrize("role", [SMALL, LARGE, CUT, LAST])
def test_each_step_is_on_disk_before_the_next(traced: list[str], role: str) -> None:
    """The bytes are synced, then named, then the name is synced, then the catalog's commit, then it is said.

    It holds the sync of the file, that of the folder before the catalog, and that of the catalog: in a power cut
    each of them is all that stands between an acknowledged upload and its loss.
    """
    name = re.escape(str(address_of(role)))
    said = said_at(traced, role)
    linked = found(traced, rf'linkat\(.*"{name[:3]}/{name}\.', said)
    written = found(traced, r"fsync\(\d+<[^>]*/spool/", linked)
    named = found(traced, rf"fsync\(\d+<[^>]*/blobs/{name[:3]}>", said)
    synced = found(traced, r"fdatasync\(\d+<[^>]*/data\.mdb>", said)
    committed = found(traced, r"pwrite64\(\d+<[^>]*/data\.mdb>", said)
    assert written < linked < named < synced < committed < said
    assert all(written > said_at(traced, before) for before in (SMALL, LARGE) if said_at(traced, before) < said)


def test_a_delete_is_committed_before_it_is_said(traced: list[str]) -> None:
    """The catalog is on disk without the file before anyone is told that it is gone."""
    said = said_at(traced, DOOMED)
    synced = found(traced, r"fdatasync\(\d+<[^>]*/data\.mdb>", said)
    committed = found(traced, r"pwrite64\(\d+<[^>]*/data\.mdb>", said)
    assert said_at(traced, CUT) < synced < committed < said


def said_at(traced: list[str], step: str) -> int:
    """Return the place of the call by which the program says that a step is done."""
    return found(traced, rf"write\(.*Said.*[^a-z]{step}[^a-z]", len(traced))


def found(traced: list[str], pattern: str, before: int) -> int:
    """Return the place of the last such call before that place; -1 if there is none."""
    return max((at for at in range(before) if re.match(pattern, traced[at])), default=-1)
