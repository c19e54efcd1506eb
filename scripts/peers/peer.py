"""What a peer is: a server of files that can be started in a folder, given files, and asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import psutil

from scripts.peers.files import File
from scripts.peers.work import Writing

ADDRESS = "{address}"


class Peer(Protocol):
    """One server of the comparison.

    ``remark`` says what one has to know to read its figures: above all whether a write that it has
    acknowledged is on the disk. ``writing`` is None where it takes no files over HTTP; ``lay`` then
    lays them into its folder. ``path`` is a file's path, with ``{address}`` for its SHA-256.
    ``most_written`` is how many bytes one measurement may write.
    """

    @property
    def name(self) -> str: ...

    @property
    def durable(self) -> bool:
        """Whether an acknowledged write is on the disk."""

    @property
    def remark(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def writing(self) -> Writing | None: ...

    @property
    def most_written(self) -> int: ...

    def missing(self) -> str | None:
        """Say what is missing to run it and the command that brings it; None if it can run."""

    def version(self) -> str:
        """Return its version, as it tells itself."""

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        """Make its new folder, and lay the files into it if that is how it takes them; return whether it did."""

    def serving(
        self, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        """Run it on these cores, at this port of 127.0.0.1; it may be run again on the same folder."""

    def blobs(self, folder: Path) -> Path | None:
        """Return where its files' bytes lie, so that they can be dropped from the page cache; None if they cannot."""


@runtime_checkable
class SupportsAccessLog(Protocol):
    """A peer that can log each request, as it does where it is installed and nobody has turned that off."""

    def with_access_log(self) -> Self:
        """Return the same server, which may run on the same folder, with its access log in there."""
