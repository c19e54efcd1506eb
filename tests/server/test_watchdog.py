"""The watchdog kills a process of ours that blocks the catalog, and no other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stat7store.catalog.write_lock import WriteLock
from stat7store.server.log import make_log
from stat7store.server.watchdog import LOOK_EVERY_S, Watchdog
from stat7store.settings import Settings
from tests.holder import commit_and_hold, holder
from tests.running import wait_until

LIMIT_S = 10.0


class Watched:
    """A watchdog with a clock of the test's own."""

    def __init__(self, catalog: Path) -> None:
        self.now = 1000.0
        log = make_log(Settings(log_format="json"))
        self.watchdog = Watchdog(WriteLock(catalog), LIMIT_S, log, lambda: self.now)

    def look(self, *ours: int, after_s: float = LOOK_EVERY_S) -> int | None:
        """Let time pass and look once; our processes are these."""
        self.now += after_s
        return self.watchdog.look({pid: f"worker {pid}" for pid in ours})

    def look_for(self, seconds: float, *ours: int) -> list[int | None]:
        """Look as often as the server would in so many seconds."""
        return [self.look(*ours) for _ in range(int(seconds / LOOK_EVERY_S))]


def stop(pid: int) -> None:
    """Stop a process, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        pass


def test_a_stopped_process_is_named_once_its_time_is_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not before the limit, and then at once; the line says who, in what state, and for how long."""
    watched = Watched(tmp_path)
    with holder(tmp_path) as program:
        stop(program.pid)
        watched.look(program.pid)  # the first look finds it; time counts from then on
        assert set(watched.look_for(LIMIT_S - 1, program.pid)) == {None}
        assert watched.look(program.pid) == program.pid
        assert watched.watchdog.stalls == 1
        said = capfd.readouterr().err
        assert f'"name": "worker {program.pid}"' in said
        assert "(stopped)" in said
        assert '"seconds": 10' in said


def test_one_that_gets_on_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that holds the lock at every look, but commits in between, is busy and not stuck."""
    watched = Watched(tmp_path)
    with holder(tmp_path) as program:
        for _ in range(3):
            assert set(watched.look_for(LIMIT_S, program.pid)) == {None}
            commit_and_hold(program)
    assert watched.watchdog.stalls == 0
    assert not capfd.readouterr().err


def test_one_that_changes_nothing_again_and_again_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Transactions that change nothing have no number of their own; a flood of them is not one that lasts."""
    watched = Watched(tmp_path)
    with holder(tmp_path, flood=True) as program:
        assert set(watched.look_for(3000, program.pid)) == {None}
    assert watched.watchdog.stalls == 0
    assert not capfd.readouterr().err


def test_a_foreign_process_is_told_of_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another program is never to be killed; that it blocks everyone is said once, with what to do."""
    watched = Watched(tmp_path)
    with holder(tmp_path) as program:
        stop(program.pid)
        assert set(watched.look_for(2 * LIMIT_S, os.getpid())) == {None}
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "another program holds the catalog's write lock" in said
        assert f'"pid": {program.pid}' in said
        assert watched.watchdog.stalls == 1


@contextmanager
def frozen_while(folder: Path) -> Iterator[None]:
    """Freeze the filesystem of a folder for the length of the context: who writes there waits, as for a dead disk."""
    subprocess.run(["fsfreeze", "-f", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own."""
    missing = [tool for tool in ("mkfs.ext4", "mount", "fsfreeze") if shutil.which(tool) is None]
    if missing or os.geteuid():
        told = f"needs root and {', '.join(missing) or 'nothing else'}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_one_that_waits_for_the_disk_is_not_killed(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A kill would not end it before the disk answers; that the disk does not answer is said once."""
    watched = Watched(disk)
    with holder(disk) as program:
        with frozen_while(disk):
            print("commit", file=program.stdin, flush=True)
            wait_until(lambda: psutil.Process(program.pid).status() == psutil.STATUS_DISK_SLEEP)
            assert set(watched.look_for(2 * LIMIT_S, program.pid)) == {None}
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "the disk of the catalog does not answer" in said
        assert program.stdout is not None
        assert program.stdout.readline()  # it has committed, and gone on


def test_time_in_which_nobody_looked_does_not_count(tmp_path: Path) -> None:
    """A machine that slept for a day slept with its workers: none is killed for that."""
    watched = Watched(tmp_path)
    with holder(tmp_path) as program:
        watched.look(program.pid)
        for _ in range(4):
            assert watched.look(program.pid, after_s=86_400.0) is None
        assert watched.look(program.pid, after_s=86_400.0) == program.pid  # five looks of 2 s at most


def test_the_next_holder_has_a_time_of_its_own(tmp_path: Path) -> None:
    """What one holder took is not charged to the next."""
    watched = Watched(tmp_path)
    for _ in range(3):
        with holder(tmp_path) as program:
            watched.look(program.pid)
            assert set(watched.look_for(LIMIT_S - 1, program.pid)) == {None}
        watched.look()


def test_a_catalog_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    """Before the catalog is made, there is nothing to see."""
    assert Watched(tmp_path / "nowhere").look() is None
