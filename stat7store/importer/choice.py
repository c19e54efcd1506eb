"""Which of the files in a tree are meant."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """Globs as of ``fnmatch``: one with a slash is compared with the path below the root, one without with the name.

    A file is meant if it matches any of ``include`` (or there are none) and none of ``exclude``; a
    folder that matches ``exclude`` is not looked into. In a path ``*`` matches slashes too.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hidden: bool = False
    follow_symlinks: bool = False

    @property
    def has_globs(self) -> bool:
        """Whether more than a dot at its beginning can make a name refused."""
        return bool(self.include or self.exclude)

    def folder_refused(self, path: bytes, name: bytes) -> str:
        """Return why a folder at this path below the root is passed over; "" if it is not."""
        if not self.hidden and name.startswith(b"."):
            return "hidden"
        return "excluded" if self.exclude and _matches(self.exclude, path, name) else ""

    def file_refused(self, path: bytes, name: bytes) -> str:
        """Return why a file at this path below the root is passed over; "" if it is not."""
        if (reason := self.folder_refused(path, name)) or not self.include:
            return reason
        return "" if _matches(self.include, path, name) else "not included"


def _matches(globs: Sequence[str], path: bytes, name: bytes) -> bool:
    return any(
        re.match(fnmatch.translate(glob), os.fsdecode(path if "/" in glob else name)) is not None for glob in globs
    )
