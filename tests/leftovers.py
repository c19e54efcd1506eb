"""Temporary folders of tests that passed, deleted when all tests are over.

Not sooner: a store has 4,096 folders, and for minutes after such a deletion ext4 without a journal looks at each inode
that became free whenever it makes a folder, which then takes 0.5 ms instead of 0.02.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

_LEAST_FREE_BYTES = 16 * 1024**3
_FAILED = pytest.StashKey[bool]()
# what a shell begins in the background reads nothing unless it is told what
_DELETE_ALL = 'exec 3<&0; while IFS= read -r folder; do rm -rf --one-file-system -- "$folder"; done <&3 &'


class Leftovers:
    """A plugin that deletes them; in each process that runs tests. What a failed test left stays."""

    def __init__(self) -> None:
        self._folders: list[Path] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the folder of a test once all of it has passed, its fixtures' end included."""
        report = yield
        item.stash[_FAILED] = report.failed or (report.when != "setup" and item.stash[_FAILED])
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if report.when == "teardown" and not item.stash[_FAILED] and folder is not None:
            self._folders.append(folder)
            if shutil.disk_usage(folder.parent).free < _LEAST_FREE_BYTES:
                self._delete()
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Delete them, and what modules and the session made too if all tests passed."""
        if self._folders and exitstatus == pytest.ExitCode.OK and not session.testsfailed:
            factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
            self._folders = [factory.getbasetemp()]
        self._delete()

    def _delete(self) -> None:
        """Delete the folders noted so far. Nobody waits for it: for all tests it takes some minutes."""
        if not self._folders:
            return
        with (
            subprocess.Popen(
                ["sh", "-c", _DELETE_ALL],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what cannot be deleted stays
                text=True,
                start_new_session=True,  # a Ctrl-C ends the tests, and not what cleans up after them
            ) as deleting,
            suppress(BrokenPipeError),
        ):
            assert deleting.stdin is not None
            deleting.stdin.write("".join(f"{folder}\n" for folder in self._folders))
        self._folders.clear()
