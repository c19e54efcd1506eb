"""Fixtures of the filesystem backend's tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.filesystem import FilesystemBlobs


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all tests: its 4097 folders are not made anew for each, and take longer still to remove."""
    root = tmp_path_factory.mktemp("storage") / "blobs"
    FilesystemBlobs.create(root)
    return root


@pytest.fixture
def root(shared_root: Path) -> Iterator[Path]:
    """A root without blobs."""
    yield shared_root
    for entry in shared_root.iterdir():
        if not entry.is_dir() or entry.is_symlink():
            entry.unlink()
            continue
        for inner in entry.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()
    FilesystemBlobs.create(shared_root)


@pytest.fixture
async def blobs(root: Path) -> AsyncIterator[FilesystemBlobs]:
    """An empty store in files."""
    store = FilesystemBlobs(root)
    yield store
    await store.close()
