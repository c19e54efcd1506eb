"""The processes of an import: that they end with it, and that one which dies costs no file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.errors import Unavailable
from stat7store.importer.channel import Channel
from stat7store.importer.files import Facts, Folder, Found
from stat7store.importer.spoolers import Spooler
from tests.importer.making import (
    Halted,
    blobs_in,
    command,
    entries_in,
    environment,
    halted_import,
    photographs,
    run_import,
    small_images,
    texts,
)

FILES = 6000

pytestmark = pytest.mark.usefixtures("samples")


class Import:
    """An import of some thousands of files that is stopped in the midst of its work."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.made: list[Address] = small_images(self.tree, FILES)
        self.halted: Halted = halted_import(self.tree, FILES, folder)

    def goes_on(self) -> None:
        """Import again: every file is there then, once."""
        data = self.halted.data
        done = run_import("--data", data, self.tree)
        assert (done.code, done.summary["files"], done.summary["failed"]) == (0, FILES, 0)
        assert entries_in(data).keys() == set(self.made)
        assert blobs_in(data) == texts(self.made)


@pytest.fixture
def importing(tmp_path: Path) -> Iterator[Import]:
    """An import in the midst of its work."""
    under_way = Import(tmp_path)
    yield under_way
    under_way.halted.kill()


def test_a_process_that_is_killed_fails_the_import(importing: Import) -> None:
    """When one of its processes is killed, an import says so and ends with exit code 1; the next one goes on."""
    importing.halted.others[0].kill()
    code, _, said = importing.halted.ended()
    assert code == 1
    assert "ended before its time" in said
    assert "Traceback" not in said
    importing.goes_on()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_an_import(importing: Import, number: signal.Signals) -> None:
    """However an import is ended, all its processes end too; the next one goes on."""
    importing.halted.process.send_signal(number)
    code, _, _ = importing.halted.ended()
    assert code == -number
    importing.goes_on()


def test_ctrl_c_reaches_all_and_ends_all_in_order(importing: Import) -> None:
    """Ctrl-C, which a terminal sends to every process of an import, ends it in order; the next one goes on."""
    importing.halted.signal_all(signal.SIGINT)
    code, _, said = importing.halted.ended()
    assert code == 130
    assert "Traceback" not in said
    importing.goes_on()


def test_a_full_store_stops_the_import(tmp_path: Path) -> None:
    """What a process finds no room for stops the import with the reason, and the store holds no more than it may."""
    made = photographs(tmp_path / "tree", 300)
    size = next(iter(made)).stat().st_size
    (tmp_path / "settings.toml").write_text(f"max_store_bytes = {200 * size}\n")
    done = run_import("--config", tmp_path / "settings.toml", "--data", tmp_path / "data", tmp_path / "tree")
    assert done.code == 1
    assert "--max-store-bytes" in done.errors
    stored = entries_in(tmp_path / "data")
    assert len(stored) <= 200
    assert run_import("--data", tmp_path / "data", tmp_path / "tree").counts == (300 - len(stored), len(stored), 0, 0)
    assert blobs_in(tmp_path / "data") == texts(list(made.values()))


def test_few_open_files_are_enough(tmp_path: Path) -> None:
    """With few open files allowed, a tree of one file a folder is imported all the same, again and again."""
    made = small_images(tmp_path / "tree", 1500)
    for number, image in enumerate(sorted((tmp_path / "tree").rglob("*.*"))):
        folder = tmp_path / "tree" / f"folder {number}"
        folder.mkdir()
        image.rename(folder / image.name)
    for stored in (1500, 0):
        done = subprocess.run(
            ["prlimit", "--nofile=1024:1024", *command("--json", "--data", tmp_path / "data", tmp_path / "tree")],
            env=environment(),
            capture_output=True,
            check=True,
            timeout=120,  # it used to hang
        )
        summary = json.loads(done.stdout)
        assert (summary["files"], summary["stored"], summary["failed"]) == (1500, stored, 0)
    assert entries_in(tmp_path / "data").keys() == set(made)


async def test_a_process_that_is_not_heard_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is cut ends the import; no other task waits for ever for what nobody receives."""
    ours, theirs = Channel.pair()
    spooler = Spooler(os.getpid(), ours)
    found = Found(Folder(os.fsencode(tmp_path)), b"name", Facts(0, 0, 0))

    def cut(channel: Channel) -> tuple[bytes, list[int]]:
        raise OSError("a message was cut")

    first = asyncio.create_task(spooler.spool([found]))
    await asyncio.sleep(0)
    monkeypatch.setattr(Channel, "receive", cut)
    theirs.send(b"answer")  # the process lives on
    for asked in (first, spooler.spool([found])):
        with pytest.raises(Unavailable, match="ended before its time"):
            await asyncio.wait_for(asked, 10)
    theirs.close()
