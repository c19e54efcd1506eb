"""Temporary folders of tests that passed, deleted while other tests run.

A store has 4,096 folders, whose deletion takes 0.3 s, most of it waiting for the disk: another process does it. What a
failed test left stays, and then so does what the fixtures of modules made.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

_PATIENCE_S = 20
_FAILED = pytest.StashKey[bool]()
_DELETER = 'while IFS= read -r folder; do rm -rf --one-file-system -- "$folder"; done'


class Leftovers:
    """A plugin that deletes them; in each process that runs tests."""

    def __init__(self) -> None:
        self._deleter: subprocess.Popen[str] | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Delete the folder of a test once all of it has passed, its fixtures' end included."""
        report = yield
        item.stash[_FAILED] = report.failed or (report.when != "setup" and item.stash[_FAILED])
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if report.when == "teardown" and not item.stash[_FAILED] and folder is not None:
            self._delete(folder)
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Delete what modules and the session made too, if all tests passed, and wait a while for the end of it."""
        if self._deleter is None:
            return
        if exitstatus == pytest.ExitCode.OK and not session.testsfailed:
            factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
            for folder in factory.getbasetemp().iterdir():
                self._delete(folder)
        assert self._deleter.stdin is not None
        with suppress(BrokenPipeError):
            self._deleter.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # what is left then it deletes on its own
            self._deleter.wait(_PATIENCE_S)

    def _delete(self, folder: Path) -> None:
        if self._deleter is None:
            self._deleter = subprocess.Popen(
                ["sh", "-c", _DELETER],
                stdin=subprocess.PIPE,
                pipesize=1 << 20,  # thousands of names: a deletion that lags behind holds up no test
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what cannot be deleted stays
                text=True,
                start_new_session=True,  # a Ctrl-C ends the tests, and not what cleans up after them
            )
        assert self._deleter.stdin is not None
        with suppress(BrokenPipeError):
            print(folder, file=self._deleter.stdin, flush=True)
