"""A line that tells how far a transfer is: bytes, rate, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console


class Progress:
    """Shown on standard error while it is a terminal, and gone at the end."""

    def __init__(self, total: int, *, hidden: bool = False) -> None:
        """``total`` is in bytes, 0 where it is not known."""
        shown = Console(stderr=True)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(compact=True),
            console=shown,
            transient=True,
            disable=hidden or not shown.is_terminal,
            expand=True,
            # or what is printed meanwhile would go to standard error
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total or None)
        self._of_file = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def begin(self, name: str) -> None:
        """Name what is transferred now."""
        self._of_file = 0
        self._progress.update(self._task, description=name if len(name) <= 24 else f"…{name[-23:]}")

    def advance(self, size: int) -> None:
        """Count further bytes."""
        self._of_file += size
        self._progress.advance(self._task, size)

    def skip(self, size: int) -> None:
        """Count the rest of a file of that size, which will not come."""
        self._progress.advance(self._task, size - self._of_file)
