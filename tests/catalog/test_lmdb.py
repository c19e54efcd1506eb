"""The embedded catalog keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from stat7store.catalog import indexes, late
from stat7store.catalog.base import Catalog
from stat7store.catalog.lmdb import LmdbCatalog
from tests.catalog.contract import BulkCatalogContract, CatalogContract
from tests.catalog.machine import CatalogMachine


class TestLmdb(BulkCatalogContract, CatalogContract):
    async def open(self, folder: Path) -> Catalog:
        return LmdbCatalog(folder)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the indexes of numbers be in parts of three files each, and the rows of two files wait at most."""
    monkeypatch.setattr(indexes, "PART_NUMBERS", 3)
    monkeypatch.setattr(late, "MOST_LATE", 2)


@pytest.mark.usefixtures("small_parts")
class TestLmdbInSmallSteps(BulkCatalogContract, CatalogContract):
    """With a map that has to grow, indexes in many parts, and queries that look at three entries at a time."""

    async def open(self, folder: Path) -> Catalog:
        return LmdbCatalog(folder, map_size=1 << 18, scan_limit=3)


class LmdbMachine(CatalogMachine):
    def open(self, folder: Path) -> Catalog:
        return LmdbCatalog(folder, map_size=1 << 18, scan_limit=4)


@pytest.mark.usefixtures("small_parts")
def test_catalog_and_model_agree() -> None:
    """Whatever is done, in whatever order, the catalog answers as the model does."""
    run_state_machine_as_test(LmdbMachine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
