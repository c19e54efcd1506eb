"""Reading files that change, disappear or turn into something else meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.importer.files import BLOCK_BYTES, Changed, Facts, Folder, Found, Source, delete_source, is_settled
from stat7store.importer.gauge import Gauge
from stat7store.importer.outcome import Outcome
from stat7store.importer.reading import Hashed, hash_source, read_each


def found(path: Path) -> Found:
    """The file as a walk finds it."""
    return Found(Folder(os.fsencode(path.parent)), os.fsencode(path.name), Facts.of(path.stat()))


class Watched(Gauge):
    """A gauge that calls a function after each block."""

    def __init__(self, meanwhile: Callable[[Gauge], None]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def add_read(self, size: int) -> None:
        """Call it."""
        self._meanwhile(self)


def read(path: Path, meanwhile: Callable[[Gauge], None]) -> list[Hashed | Outcome]:
    """Read one file; ``meanwhile`` is called after each block."""
    file, done = found(path), list[Hashed | Outcome]()

    def hashed(one: Found) -> Hashed:
        with Source(one, Watched(meanwhile)) as source:
            return hash_source(one, source, lambda head, size: None)

    read_each([file], hashed, done)
    return done


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    """The address is that of all bytes, whether they fill one block, less or more."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    (hashed,) = read(tmp_path / "file", lambda gauge: None)
    assert isinstance(hashed, Hashed)
    assert hashed.address == Address.of(data)
    assert hashed.data == (data if size <= BLOCK_BYTES else None)


@pytest.mark.parametrize("size", [1000, 3 * BLOCK_BYTES])
def test_a_file_that_changes_is_read_again(tmp_path: Path, size: int) -> None:
    """A file that is written to while it is read has the address of its bytes afterwards."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    changes = iter([True])

    def meanwhile(gauge: Gauge) -> None:
        if next(changes, False):
            with path.open("ab") as file:
                file.write(b"more")

    (hashed,) = read(path, meanwhile)
    assert isinstance(hashed, Hashed)
    assert hashed.address == Address.of(bytes(size) + b"more")


def test_a_file_that_keeps_changing_is_a_failure(tmp_path: Path) -> None:
    """A file that changes at every reading is told of, and not read for ever."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))

    def meanwhile(gauge: Gauge) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    (outcome,) = read(path, meanwhile)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.reason) == ("failed", "it kept changing while it was read")


def test_a_file_that_is_cut_is_noticed(tmp_path: Path) -> None:
    """A file that gets shorter while it is read does not end the import."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * BLOCK_BYTES))
    cuts = iter([BLOCK_BYTES + 5])

    def cut_once(gauge: Gauge) -> None:
        for size in cuts:
            os.truncate(path, size)

    (hashed,) = read(path, cut_once)
    assert isinstance(hashed, Hashed)
    assert hashed.address == Address.of(bytes(BLOCK_BYTES + 5))


def test_a_file_that_became_a_pipe_does_not_block(tmp_path: Path) -> None:
    """What was a file when it was found, and is a pipe or a link when it is opened, is a failure."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    file = found(path)
    replacements: list[Callable[[], None]] = [lambda: os.mkfifo(path), lambda: path.symlink_to(os.devnull)]
    for replace in replacements:
        path.unlink()
        replace()
        done: list[object] = []
        read_each([file], lambda one: Source(one, Gauge()), done)
        (outcome,) = done
        assert isinstance(outcome, Outcome)
        assert outcome.kind == "failed"


def test_a_stop_ends_reading_within_a_file(tmp_path: Path) -> None:
    """When the import is stopped, a large file is let go of at its next block."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * BLOCK_BYTES))
    assert read(path, Gauge.stop) == []


def test_a_source_that_changed_is_not_deleted(tmp_path: Path) -> None:
    """Only what is still what was read is deleted."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    file = found(path)
    path.write_bytes(b"newer")
    with pytest.raises(Changed):
        delete_source(file, file.facts)
    assert path.exists()
    again = found(path)
    delete_source(again, again.facts)
    assert not path.exists()


def test_what_changed_just_now_is_not_settled() -> None:
    """A change within the tick of a file system's clock could be followed by one that shows no other time."""
    assert is_settled(Facts(1, 1_000_000_000, 1), 1_100_000_000)
    assert not is_settled(Facts(1, 1_000_000_000, 1), 1_010_000_000)
