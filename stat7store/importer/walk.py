"""Walking trees: one folder's entries at a time, never a list of all."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stat7store.address import Address
from stat7store.importer.choice import Choice
from stat7store.importer.files import Facts, Folder, Found
from stat7store.importer.journal import Lookup

NEW_FILES, NEW_BYTES = 64, 16 * 1024**2  # a batch of files to read ends at either
KNOWN_FILES = 1000

_NAMES = sys.getfilesystemencoding()

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Passed(NamedTuple):
    """A path that is not imported, and why; ``failed`` if it should have been."""

    path: bytes
    reason: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that are handled together: all to be read, or all known to the journal. Or what was passed over."""

    files: Sequence[Found] = ()
    known: bool = False
    passed: Sequence[Passed] = ()


@dataclass(frozen=True)
class Walk:
    """Trees to walk: ``roots`` are folders or files, ``skip`` folders (device, inode) that are not entered.

    Memory holds one open folder for each level, and one batch.
    """

    roots: Sequence[bytes]
    choice: Choice = field(default_factory=Choice)
    journal: Callable[[bytes], Lookup] | None = None
    skip: frozenset[tuple[int, int]] = frozenset()

    def batches(self) -> Iterator[Batch]:
        """Yield all files in batches; what cannot be read is told of, and the walk goes on. Blocks."""
        new: list[Found] = []
        known: list[Found] = []
        passed: list[Passed] = []
        size = 0
        for item in self._all():
            if isinstance(item, Passed):
                passed.append(item)
                if len(passed) >= KNOWN_FILES:
                    yield Batch(passed=passed)
                    passed = []
            elif item.known is not None:
                known.append(item)
                if len(known) >= KNOWN_FILES:
                    yield Batch(known, known=True)
                    known = []
            else:
                new.append(item)
                size += item.facts.size
                if len(new) >= NEW_FILES or size >= NEW_BYTES:
                    yield Batch(new)
                    new, size = [], 0
        yield Batch(new)
        yield Batch(known, known=True)
        yield Batch(passed=passed)

    def _all(self) -> Iterator[Found | Passed]:
        for root in self.roots:
            try:
                if os.path.isdir(root):
                    yield from self._tree(Folder(root, follow=True))
                else:
                    yield from self._one(root)
            except OSError as error:
                yield Passed(root, _reason(error), failed=True)

    def _one(self, path: bytes) -> Iterator[Found | Passed]:
        folder = Folder(os.path.dirname(path), follow=True)
        name = os.path.basename(path)
        is_link = os.path.islink(path)  # named by hand, so it is meant
        yield self._file(folder, name, os.stat(path), is_link, self._lookup(folder))

    def _tree(self, root: Folder) -> Iterator[Found | Passed]:
        """Yield the files of each folder, then walk the folders in it: two readings, so that nothing is kept."""
        prefix = len(os.path.join(root.path, b""))
        yield from self._files(root, prefix)
        levels = [(root, self._folders(root, prefix))]
        while levels:
            folder, names = levels[-1]
            path = folder.path
            try:
                inner = next(names, None)
                if inner is None:
                    levels.pop()
                elif isinstance(inner, Passed):
                    yield inner
                else:
                    path = os.path.join(path, inner)
                    opened = Folder(inner, folder, follow=self.choice.follow_symlinks)
                    if reason := self._not_entered(opened, [above for above, _ in levels]):
                        yield Passed(path, reason)
                    else:
                        yield from self._files(opened, prefix)
                        levels.append((opened, self._folders(opened, prefix)))
            except OSError as error:
                yield Passed(path, _reason(error), failed=True)

    def _files(self, folder: Folder, prefix: int) -> Iterator[Found | Passed]:
        lookup = self._lookup(folder)
        refused = self.choice.file_refused
        below = os.path.join(folder.path, b"")[prefix:]
        with os.scandir(folder.file) as entries:
            for entry in entries:
                name = entry.name.encode(_NAMES, "surrogateescape")  # as os.fsencode does, in a quarter of its time
                is_link = entry.is_symlink()
                try:
                    if is_link and not self.choice.follow_symlinks:
                        if not refused(below + name, name):
                            yield Passed(os.path.join(folder.path, name), "a symbolic link")
                        continue
                    if entry.is_dir():
                        continue
                    if reason := refused(below + name, name):
                        yield Passed(os.path.join(folder.path, name), reason)
                        continue
                    yield self._file(folder, name, entry.stat(), is_link, lookup)
                except OSError as error:
                    yield Passed(os.path.join(folder.path, name), _reason(error), failed=True)

    def _file(
        self, folder: Folder, name: bytes, status: os.stat_result, is_link: bool, lookup: Lookup
    ) -> Found | Passed:
        if not stat.S_ISREG(status.st_mode):
            kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "no regular file")
            return Passed(os.path.join(folder.path, name), kind)
        facts = Facts.of(status)
        row = lookup(name)
        if row is not None and (row[1], row[2], row[3]) == (facts.size, facts.mtime_ns, facts.inode):
            return Found(folder, name, facts, is_link, Address(row[4]))
        return Found(folder, name, facts, is_link)

    def _folders(self, folder: Folder, prefix: int) -> Iterator[bytes | Passed]:
        below = os.path.join(folder.path, b"")[prefix:]
        with os.scandir(folder.file) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=self.choice.follow_symlinks):
                    name = os.fsencode(entry.name)
                    reason = self.choice.folder_refused(below + name, name)
                    yield Passed(os.path.join(folder.path, name), reason) if reason else name

    def _not_entered(self, folder: Folder, above: Sequence[Folder]) -> str:
        status = os.fstat(folder.file)
        if (status.st_dev, status.st_ino) in self.skip:
            return "the store itself"
        if self.choice.follow_symlinks and any(os.path.samestat(status, os.fstat(one.file)) for one in above):
            return "a symbolic link to a folder that it is in"
        return ""

    def _lookup(self, folder: Folder) -> Lookup:
        return (lambda name: None) if self.journal is None else self.journal(folder.path)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
