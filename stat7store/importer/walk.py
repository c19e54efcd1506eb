"""Walking trees: one folder's entries at a time, never a list of all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

from stat7store.importer.choice import Choice
from stat7store.importer.files import Facts, Folder, Found
from stat7store.importer.remembered import Remembered, Row, facts_in, size_in
from stat7store.importer.scan import Scan

NEW_FILES, NEW_BYTES = 128, 16 * 1024**2  # a batch of files to read ends at either
KNOWN_FILES = 1000
MOST_FOLDERS = 64  # of a batch: each stays open until the batch is done with

_DOT = ord(".")

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


class Known(NamedTuple):
    """Files of a folder that are what the journal has for them: their names, its rows, and their bytes together.

    None has an object of its own, since in most trees most files are unchanged.
    """

    folder: Folder
    names: Sequence[bytes]
    rows: Sequence[Row]
    size: int
    are_links: bool = False

    def found(self) -> Iterator[Found]:
        """Yield the files as ones that are to be read."""
        for name, row in zip(self.names, self.rows, strict=True):
            yield Found(self.folder, name, facts_in(row), self.are_links)


def split(files: Iterable[Found]) -> Iterator[list[Found]]:
    """Yield the files in parts that are read together: so many, or so many bytes."""
    part: list[Found] = []
    size = 0
    for file in files:
        part.append(file)
        size += file.facts.size
        if len(part) >= NEW_FILES or size >= NEW_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that are handled together: to be read, or known to the journal. Or what was passed over."""

    files: Sequence[Found] = ()
    known: Sequence[Known] = ()
    passed: Sequence[Passed] = ()


_Item = Found | Known | Passed


@dataclass(frozen=True)
class Walk:
    """Trees to walk: ``roots`` are folders or files, ``skip`` folders (device, inode) that are not entered.

    Memory holds one open folder for each level, and one batch.
    """

    roots: Sequence[bytes]
    choice: Choice = field(default_factory=Choice)
    journal: Callable[[bytes], Remembered] | None = None
    skip: frozenset[tuple[int, int]] = frozenset()

    def batches(self) -> Iterator[Batch]:
        """Yield all files in batches; what cannot be read is told of, and the walk goes on. Blocks."""
        new: list[Found] = []
        known: list[Known] = []
        passed: list[Passed] = []
        size = known_files = folders = 0
        for item in self._all():
            if isinstance(item, Known):
                known.append(item)
                known_files += len(item.names)
                if known_files >= KNOWN_FILES or len(known) >= MOST_FOLDERS:
                    yield Batch(known=known)
                    known, known_files = [], 0
            elif isinstance(item, Passed):
                passed.append(item)
                if len(passed) >= KNOWN_FILES:
                    yield Batch(passed=passed)
                    passed = []
            else:
                folders += not new or new[-1].folder is not item.folder
                new.append(item)
                size += item.facts.size
                if len(new) >= NEW_FILES or size >= NEW_BYTES or folders >= MOST_FOLDERS:
                    yield Batch(new)
                    new, size, folders = [], 0, 0
        yield Batch(new)
        yield Batch(known=known)
        yield Batch(passed=passed)

    def _all(self) -> Iterator[_Item]:
        for root in self.roots:
            try:
                if os.path.isdir(root):
                    yield from self._tree(Folder(root, follow=True))
                else:
                    yield from self._one(root)
            except OSError as error:
                yield Passed(root, _reason(error), failed=True)

    def _one(self, path: bytes) -> Iterator[_Item]:
        folder = Folder(os.path.dirname(path), follow=True)
        name = os.path.basename(path)
        is_link = os.path.islink(path)  # named by hand, so it is meant
        yield _judged(folder, name, os.stat(path), self._remembered(folder), is_link)

    def _tree(self, root: Folder) -> Iterator[_Item]:
        """Yield the files of each folder, then walk the folders in it: two readings, so that nothing is kept."""
        prefix = len(os.path.join(root.path, b""))
        levels = [(root, (yield from self._level(root, prefix)))]
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
                        levels.append((opened, (yield from self._level(opened, prefix))))
            except OSError as error:
                yield Passed(path, _reason(error), failed=True)

    def _level(self, folder: Folder, prefix: int) -> Generator[_Item, None, Iterator[bytes | Passed]]:
        """Yield the files of a folder; return the folders in it, which need no second reading if there are none."""
        if (yield from self._files(folder, prefix)):
            return self._folders(folder, prefix)
        return iter(())

    def _files(self, folder: Folder, prefix: int) -> Generator[_Item, None, bool]:
        """Yield the files of a folder; return whether there are folders in it."""
        remembered = self._remembered(folder)
        below = os.path.join(folder.path, b"")[prefix:]
        scan = Scan(folder.file, remembered.rows)
        folders = False
        while (part := scan.next(KNOWN_FILES)) is not None:
            names, rows, size, others = part
            known = Known(folder, names, rows, size)
            if self.choice.has_globs:
                known = yield from self._meant(known, below)
            if known.names:
                yield known
            for name in others:
                folders |= yield from self._other(folder, name, below, remembered)
        return folders or scan.folders

    def _meant(self, known: Known, below: bytes) -> Generator[_Item, None, Known]:
        """Yield those files that globs refuse; return the others."""
        reasons = [self.choice.file_refused(below + name, name) for name in known.names]
        for name, reason in zip(known.names, reasons, strict=True):
            if reason:
                yield Passed(os.path.join(known.folder.path, name), reason)
        meant = [not reason for reason in reasons]
        rows = list(compress(known.rows, meant))
        return Known(known.folder, list(compress(known.names, meant)), rows, sum(map(size_in, rows)))

    def _other(self, folder: Folder, name: bytes, below: bytes, remembered: Remembered) -> Generator[_Item, None, bool]:
        """Yield what a name stands for; return whether that is a folder."""
        path = os.path.join(folder.path, name)
        by_name = self.choice.has_globs or name[0] == _DOT
        reason = self.choice.file_refused(below + name, name) if by_name else ""
        try:
            status = os.stat(name, dir_fd=folder.file, follow_symlinks=False)
            if is_link := stat.S_ISLNK(status.st_mode):
                if not self.choice.follow_symlinks:
                    if not reason:
                        yield Passed(path, "a symbolic link")
                    return False
                status = os.stat(name, dir_fd=folder.file)
        except OSError as error:
            yield Passed(path, reason or _reason(error), failed=not reason)
            return False
        if stat.S_ISDIR(status.st_mode):
            return True
        yield Passed(path, reason) if reason else _judged(folder, name, status, remembered, is_link)
        return False

    def _folders(self, folder: Folder, prefix: int) -> Iterator[bytes | Passed]:
        below = os.path.join(folder.path, b"")[prefix:]
        with os.scandir(folder.file) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir(follow_symlinks=self.choice.follow_symlinks)
                except OSError:  # the first reading has told of it
                    continue
                if is_folder:
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

    def _remembered(self, folder: Folder) -> Remembered:
        return Remembered() if self.journal is None else self.journal(folder.path)


def _judged(folder: Folder, name: bytes, status: os.stat_result, remembered: Remembered, is_link: bool) -> _Item:
    """Return what a path is that is no folder: known, a file to be read, or nothing that is imported."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "no regular file")
        return Passed(os.path.join(folder.path, name), kind)
    row = remembered.get(name)
    if row is not None and row.startswith(Facts.of(status).packed()):
        return Known(folder, [name], [row], status.st_size, is_link)
    return Found(folder, name, Facts.of(status), is_link)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
