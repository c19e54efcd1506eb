"""How files get their names and lose them, durably, many at a time.

The order of the calls is the whole point: the bytes are on disk before anyone is told the name, and
the name is on disk before anyone relies on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from storage.base import BlobUnavailable
from storage.linux import FOLDER, Linux, unavailable

# Up to here a sync of each file and folder is the faster way; above, one of the whole filesystem is.
_FEW = 3


class NewName(NamedTuple):
    """An open file, and the path under the root that it is to have. The commit closes the file."""

    file: int
    path: str


class FileCommit:
    """Links and unlinks files under one root folder. Every method blocks."""

    def __init__(self, root: int, linux: Linux, *, trusted: bool = False) -> None:
        """``root``: the open root folder, which must stay open for the life of this object.

        ``trusted``: someone will take a name alone, with no catalog that tells it, for a whole file.
        """
        self._root = root
        self._linux = linux
        self._trusted = trusted
        self._files = os.open("/proc/self/fd", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)

    def put(self, batch: Sequence[NewName]) -> list[BlobUnavailable | None]:
        """Make every file durable under its name, or none of them: one outcome for each.

        A file that could not be synced is never synced again, because the second sync would succeed
        without the bytes. So after any failure the whole batch is refused and its names are removed.
        """
        try:
            if len(batch) <= _FEW:
                self._put_each(batch)
            else:
                self._put_together(batch)
        except OSError as error:
            for new in batch:
                with contextlib.suppress(OSError):  # what stays is an orphan, and swept as one
                    os.unlink(new.path, dir_fd=self._root)
            # protection: fail-what-was-not-synced
            return [unavailable(error) for _ in batch]
        finally:
            for new in batch:
                os.close(new.file)
        return [None] * len(batch)

    def _put_each(self, batch: Sequence[NewName]) -> None:
        if len(batch) > 1:
            for new in batch:
                self._linux.start_writing(new.file, 0, 0)
        for new in batch:
            # protection: sync-file
            os.fsync(new.file)
        for new in batch:
            self._link(new)
        # protection: sync-folder-of-names
        for folder in _folders(new.path for new in batch):
            self._sync_folder(folder)

    def _put_together(self, batch: Sequence[NewName]) -> None:
        if self._trusted:
            self._linux.sync_filesystem(self._root)
            for new in batch:
                self._linux.check_written(new.file)
        for new in batch:
            self._link(new)
        # protection: sync-filesystem
        self._linux.sync_filesystem(self._root)
        # A write that failed before an earlier sync of the filesystem was reported there, not here.
        # protection: check-writes-after-shared-sync
        for new in batch:
            self._linux.check_written(new.file)

    def _link(self, new: NewName) -> None:
        # Only a source that is looked up in a folder makes Python pass AT_SYMLINK_FOLLOW; without it
        # the link would be one to the entry in /proc, and fail with EXDEV.
        os.link(str(new.file), new.path, src_dir_fd=self._files, dst_dir_fd=self._root, follow_symlinks=True)

    def delete(self, paths: Sequence[str]) -> list[BlobUnavailable | None]:
        """Remove the files for good: one outcome for each. A missing one is no error.

        A folder is synced even if nothing was there to remove: an earlier try may have been cut
        short between the two.
        """
        outcomes: dict[str, BlobUnavailable] = {}
        for path in paths:
            try:
                os.unlink(path, dir_fd=self._root)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                outcomes[path] = unavailable(error)
        folders = _folders(paths)
        try:
            if len(folders) <= _FEW:
                # protection: sync-folder-after-delete
                for folder in folders:
                    self._sync_folder(folder)
            else:
                self._linux.sync_filesystem(self._root)
        except OSError as error:
            return [unavailable(error) for _ in paths]
        return [outcomes.get(path) for path in paths]

    def _sync_folder(self, name: str) -> None:
        try:
            folder = os.open(name, FOLDER, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            os.fsync(self._root)  # someone took the folder away, and all that was in it
            return
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let go of what this object opened itself."""
        os.close(self._files)


def _folders(paths: Iterable[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths}
