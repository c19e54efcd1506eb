"""Folders read against what is remembered of them, by the compiled scan and by the plain one."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stat7store.address import Address
from stat7store.importer import scan
from stat7store.importer.files import Facts
from stat7store.importer.remembered import Remembered, Row, pack, unpack

if TYPE_CHECKING:
    from stat7store.importer._scan import Scan as CompiledScan

    AnyScan: TypeAlias = CompiledScan | scan.PlainScan

ADDRESS = Address.of(b"bytes")
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


@dataclass
class Seen:
    """All that a scan yields, and the rows in the order of the names."""

    known: dict[bytes, Row]
    size: int
    others: list[bytes]
    folders: bool


def everything(reader: AnyScan, most: int) -> Seen:
    """Read to the end."""
    seen = Seen({}, 0, [], folders=False)
    while (part := reader.next(most)) is not None:
        names, rows, size, others = part
        assert len(names) + len(others) <= most
        seen.known |= dict(zip(names, rows, strict=True))
        seen.size += size
        seen.others += others
    assert reader.next(most) is None
    seen.others.sort()
    seen.folders = reader.folders
    return seen


@pytest.fixture(params=[scan.Scan, scan.PlainScan], ids=["chosen", "plain"])
def scanned(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scanning]:
    """A folder, and how to read it."""
    with closing(Scanning(request.param, tmp_path)) as scanning:
        yield scanning


class Scanning:
    """Reads one folder, again and again by the same descriptor."""

    def __init__(self, kind: type[AnyScan], folder: Path) -> None:
        self._kind = kind
        self.folder = folder
        self._file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def read(self, rows: dict[bytes, Row] | bytes = b"", most: int = 1000) -> Seen:
        """Read all of the folder against these rows."""
        return everything(self.begin(rows if isinstance(rows, bytes) else pack(rows.items())), most)

    def begin(self, rows: bytes = b"") -> AnyScan:
        """Begin to read."""
        return self._kind(self._file, rows)

    def descriptors(self) -> int:
        """How many descriptors of the folder this process has; what else it opens or closes meanwhile is its own."""
        count = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # that of this listing
                count += os.path.samestat(os.stat(f"/proc/self/fd/{name}"), os.fstat(self._file))
        return count

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._file)


def row_of(path: Path | bytes, *, size: int = 0, mtime_ns: int = 0, inode: int = 0) -> Row:
    """Return the row of a file as it is, or with so much added to its facts."""
    facts = Facts.of(os.stat(path))
    return Facts(facts.size + size, facts.mtime_ns + mtime_ns, facts.inode + inode).packed() + ADDRESS


def test_unchanged_files_are_told_from_all_else(scanned: Scanning) -> None:
    """A file is unchanged if all its facts are the remembered ones; everything else is another name."""
    folder = scanned.folder
    for name in ("same", "new", "grown", "later", "replaced", ".hidden", "link's target"):
        (folder / name).write_bytes(name.encode())
    os.utime(folder / "same", ns=(-5, -1_500_000_001))  # before 1970
    (folder / "inner").mkdir()
    (folder / "link").symlink_to("link's target")
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(folder / "socket"))
    rows = {os.fsencode(path.name): row_of(path) for path in folder.iterdir() if path.name not in ("new", "broken")}
    rows |= {
        b"grown": row_of(folder / "grown", size=1),
        b"later": row_of(folder / "later", mtime_ns=1),
        b"replaced": row_of(folder / "replaced", inode=1),
        b"gone": row_of(folder / "new"),
    }
    seen = scanned.read(rows)
    assert seen.known == {name: rows[name] for name in (b"same", b"link's target")}
    assert seen.size == len(b"same" + b"link's target")
    assert seen.others == sorted(
        [b"new", b"grown", b"later", b"replaced", b".hidden", b"link", b"broken", b"pipe", b"socket"]
    )
    assert seen.folders


@pytest.mark.parametrize("most", [1, 7, 50, 51])
def test_slices_lose_nothing(scanned: Scanning, most: int) -> None:
    """However small the slices are, all names come, each once; so they do when the folder is read again."""
    for number in range(50):
        (scanned.folder / str(number)).write_bytes(b"x" * number)
    rows = {b"%d" % number: row_of(scanned.folder / str(number)) for number in range(0, 50, 2)}
    for _ in range(2):
        seen = scanned.read(rows, most)
        assert seen.known == rows
        assert seen.others == sorted(b"%d" % number for number in range(1, 50, 2))
        assert seen.size == sum(range(0, 50, 2))
        assert not seen.folders


def test_an_empty_folder_has_nothing(scanned: Scanning) -> None:
    """There is nothing to yield, and no folder."""
    assert scanned.read() == Seen({}, 0, [], folders=False)


def test_rows_that_are_torn_count_as_far_as_they_are_whole(scanned: Scanning) -> None:
    """Wherever what is remembered was cut off, the rows before it are used, and nothing behind it is read."""
    for name in ("a", "b" * 255):
        (scanned.folder / name).write_bytes(b"x")
    rows = {os.fsencode(path.name): row_of(path) for path in scanned.folder.iterdir()}
    whole = pack(rows.items())
    first = len(pack([(b"a", rows[b"a"])]))
    for length in range(len(whole)):
        assert list(scanned.read(whole[:length]).known) == ([b"a"] if length >= first else [])
    assert scanned.read(whole).known == rows
    assert scanned.read(b"\xff" * 1000).known == {}


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A descriptor of something else, or of nothing, is an error."""
    with (tmp_path / "file").open("wb") as file:
        for kind in (scan.Scan, scan.PlainScan):
            for descriptor in (file.fileno(), 1 << 20):
                with pytest.raises(OSError, match=r"Not a directory|Bad file descriptor"):
                    kind(descriptor, b"")


@pytest.mark.usefixtures("uncollected")
def test_descriptors_are_not_kept(scanned: Scanning) -> None:
    """A scan lets go of its descriptor at the end, and when nobody holds it any more."""
    (scanned.folder / "file").touch()
    (scanned.folder / "other").touch()
    before = scanned.descriptors()
    for _ in range(3):
        scanned.begin().next(1)
        assert scanned.read().others == [b"file", b"other"]
    assert scanned.descriptors() == before == 1


@given(st.dictionaries(NAMES, st.sampled_from(["same", "changed", "unknown"]), max_size=20))
@settings(max_examples=50, deadline=None)
def test_both_scans_agree(files: dict[bytes, str]) -> None:
    """Whatever the names are, the compiled scan yields what the plain one does."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for name, kind in files.items():
            if name in (b".", b".."):
                continue
            path = os.path.join(os.fsencode(folder), name)
            with open(path, "wb") as file:
                file.write(name)
            if kind != "unknown":
                rows[name] = row_of(path, size=kind == "changed")
        with (
            closing(Scanning(scan.Scan, Path(folder))) as compiled,
            closing(Scanning(scan.PlainScan, Path(folder))) as plain,
        ):
            seen = compiled.read(rows, 8)
            assert seen == plain.read(rows, 8)
            same = {name for name, kind in files.items() if kind == "same" and not name.startswith(b".")}
            assert seen.known == {name: rows[name] for name in same}


@given(st.lists(st.tuples(NAMES, st.binary(min_size=56, max_size=56))), NAMES)
def test_what_is_packed_is_found(rows: list[tuple[bytes, Row]], other: bytes) -> None:
    """Of several rows for one name the last one counts; unpacked they are in the order of their names."""
    latest = dict(rows)
    packed = pack(rows)
    assert list(unpack(packed)) == sorted(latest.items())
    remembered = Remembered(packed)
    assert all(remembered.get(name) == row for name, row in latest.items())
    assert remembered.get(other) == latest.get(other)
