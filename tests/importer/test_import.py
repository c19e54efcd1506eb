"""Imports of real trees, in processes of their own, into folders and over HTTP."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.client import Client
from tests.importer.making import (
    LONG_AGO,
    about_stored,
    blobs_in,
    command,
    entries_in,
    environment,
    halted_import,
    photograph,
    photographs,
    run_import,
    small_images,
    texts,
)
from tests.media import large_mp4, sample
from tests.running import RunningServer, wait_until

ROOT = Path(__file__).parent.parent.parent
# root may read everything; without these capabilities it is held to permissions like everyone
OBEYING = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

pytestmark = pytest.mark.usefixtures("samples")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder for a tree."""
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a store is to be made."""
    return tmp_path / "data"


@pytest.fixture(params=["folder", "server"])
def way(request: pytest.FixtureRequest, tmp_path: Path, data: Path) -> Iterator[list[str | Path]]:
    """Both ways in, as flags; the server serves the folder ``data``."""
    if request.param == "folder":
        yield ["--data", data]
        return
    with RunningServer(data, workers=1) as server:
        yield ["--server", server.url, "--journal", tmp_path / "journal.sqlite"]


def test_a_tree_is_stored_as_it_is(tree: Path, data: Path, way: list[str | Path]) -> None:
    """Every image and movie in a tree is in the store afterwards, once, under its name; the rest is refused."""
    made = photographs(tree / "a", 70) | photographs(tree / "b" / "c", 5, start=70)
    shutil.copy(sample("bikes.mp4"), tree / "b")
    shutil.copy(sample("bigbuckbunny.mp4"), tree / "b")  # larger than one block
    (tree / "b" / "twin.jpg").write_bytes(photograph(3))
    (tree / "notes.txt").write_text("no image")
    (tree / "empty.jpg").touch()
    done = run_import(*way, tree)
    assert (done.code, done.counts) == (0, (77, 1, 2, 0))
    movies = [Address.of(sample(name).read_bytes()) for name in ("bikes.mp4", "bigbuckbunny.mp4")]
    known = entries_in(data)
    assert known.keys() == {*made.values(), *movies}
    for path, address in made.items():
        assert known[address].record.filename in (path.name, "twin.jpg")
        assert known[address].record.realm == "image"
    assert [known[movie].record.realm for movie in movies] == ["movie", "movie"]
    assert set(blobs_in(data)) == set(texts(list(known)))


async def test_what_was_imported_can_be_fetched(tree: Path, data: Path) -> None:
    """A server that runs while its folder is imported into serves the new files at once, byte for byte."""
    made = photographs(tree, 20)
    with RunningServer(data, workers=2) as server:
        assert run_import("--data", data, tree).counts == (20, 0, 0, 0)
        async with Client(server.url) as client:
            for path, address in made.items():
                assert (await client.get(address)).data == path.read_bytes()


def test_a_second_import_reads_nothing(tree: Path, way: list[str | Path]) -> None:
    """Files that the journal knows as they are, are not even opened again."""
    made = photographs(tree, 10)
    assert run_import(*way, tree).counts == (10, 0, 0, 0)
    for path in made:
        size = path.stat().st_size
        path.write_bytes(bytes(size))  # other bytes behind the same facts: who reads them would refuse them
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert run_import(*way, tree).counts == (0, 10, 0, 0)


def test_a_changed_file_is_imported_anew(tree: Path, data: Path, way: list[str | Path]) -> None:
    """Other size, time or inode: the file is read again, and its new bytes are stored too."""
    made = list(photographs(tree, 4))
    assert run_import(*way, tree).counts == (4, 0, 0, 0)
    made[0].write_bytes(photograph(1000))  # another time
    os.utime(made[1], (LONG_AGO + 1, LONG_AGO + 1))  # another time, the same bytes
    replacement = tree / "new"
    replacement.write_bytes(photograph(1002))
    os.utime(replacement, (LONG_AGO, LONG_AGO))
    replacement.replace(made[2])  # another inode
    assert run_import(*way, tree).counts == (2, 2, 0, 0)
    assert {Address.of(photograph(1000)), Address.of(photograph(1002))} <= entries_in(data).keys()


async def test_what_was_deleted_from_the_store_comes_again(tree: Path, data: Path) -> None:
    """The journal is no truth: what the destination has lost is brought again."""
    made = photographs(tree, 3)
    with RunningServer(data, workers=1) as server:
        assert run_import("--data", data, tree).counts == (3, 0, 0, 0)
        async with Client(server.url) as client:
            await client.delete(next(iter(made.values())))
        assert run_import("--data", data, tree).counts == (1, 2, 0, 0)


def test_a_lost_blob_is_healed(tree: Path, data: Path) -> None:
    """An address whose bytes are gone is stored again when the file is read again."""
    made = photographs(tree, 3)
    run_import("--data", data, tree)
    lost = next((data / "blobs").glob("???/*"))
    lost.unlink()
    (data / "import-journal.sqlite").unlink()
    run_import("--data", data, tree)
    assert blobs_in(data) == texts(list(made.values()))


def test_what_is_known_to_be_damaged_comes_again(tree: Path, data: Path) -> None:
    """A file whose stored bytes were found damaged is read again though it is unchanged, and is whole then."""
    made = photographs(tree, 3)
    run_import("--data", data, tree)
    rotten = next((data / "blobs").glob("???/*"))
    rotten.write_bytes(bytes(rotten.stat().st_size))
    verify = [sys.executable, "-m", "stat7store", "verify", "--data", str(data)]
    assert subprocess.run(verify, check=False, capture_output=True, env=environment()).returncode == 1
    assert run_import("--data", data, tree).counts == (0, 3, 0, 0)
    assert subprocess.run(verify, check=False, capture_output=True, env=environment()).returncode == 0
    assert blobs_in(data) == texts(list(made.values()))


def test_a_journal_is_of_one_destination(tree: Path, tmp_path: Path) -> None:
    """A journal that two stores share does not take the files of one for those of the other."""
    photographs(tree, 5)
    shared = ("--journal", tmp_path / "journal")
    assert run_import("--data", tmp_path / "one", *shared, tree).counts == (5, 0, 0, 0)
    assert run_import("--data", tmp_path / "two", *shared, tree).counts == (5, 0, 0, 0)
    assert run_import("--data", tmp_path / "one", *shared, tree).counts == (0, 5, 0, 0)


def test_tags(tree: Path, data: Path, way: list[str | Path]) -> None:
    """Tags are given to all files that are imported with them, also to those that were there already."""
    made = photographs(tree, 3)
    run_import(*way, "--tag", "sea", tree)
    assert run_import(*way, "--tag", "sun", "--tag", "air", tree).counts == (0, 3, 0, 0)
    known = entries_in(data)
    assert [known[address].record.tags for address in made.values()] == [("air", "sea", "sun")] * 3


def test_a_dry_run_changes_nothing(tree: Path, data: Path, way: list[str | Path]) -> None:
    """A dry run tells what would be, and neither store nor journal nor sources change; nor is a store made."""
    photographs(tree, 4)
    (tree / "notes.txt").write_text("no image")
    first = run_import(*way, "--dry-run", "--delete-source", tree)
    assert len(list(tree.iterdir())) == 5
    assert first.code == 0
    assert first.counts[:2] == (4, 0) or "--server" in way
    assert first.summary["dry_run"] is True
    if "--data" in way:
        assert first.counts == (4, 0, 1, 0)
        assert not data.exists()
    run_import(*way, tree)
    photographs(tree, 2, start=100)
    before = _contents(data)
    done = run_import(*way, "--dry-run", tree)
    assert (done.summary["stored"] in (2, 3), done.summary["there"]) == (True, 4)
    assert _contents(data) == before
    assert len(list(tree.iterdir())) == 7


def _contents(data: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in data.rglob("*")
        if path.is_file() and path.name not in ("lock.mdb", "serve.lock")
    }


def test_sources_are_deleted_only_once_they_are_stored(tree: Path, data: Path, way: list[str | Path]) -> None:
    """With ``--delete-source`` exactly the files that are durably stored are gone, and links stay."""
    made = photographs(tree, 5)
    run_import(*way, tree)
    more = photographs(tree, 5, start=5)
    (tree / "notes.txt").write_text("no image")
    done = run_import(*way, "--delete-source", tree)
    assert (done.counts, done.summary["deleted"]) == ((5, 5, 1, 0), 10)
    assert [path.name for path in tree.iterdir()] == ["notes.txt"]
    assert entries_in(data).keys() == {*made.values(), *more.values()}


def test_a_source_is_kept_while_its_blob_is_lost(tree: Path, data: Path, way: list[str | Path]) -> None:
    """With ``--delete-source`` a file whose stored bytes are missing is stored again before it is deleted."""
    (address,) = photographs(tree, 1).values()
    run_import(*way, tree)
    next((data / "blobs").glob("???/*")).unlink()
    assert run_import(*way, "--delete-source", tree).code == 0
    assert not list(tree.iterdir())
    assert blobs_in(data) == [str(address)]


def test_names_of_any_bytes(tree: Path, data: Path, way: list[str | Path], tmp_path: Path) -> None:
    """Names in Unicode, with newlines or of no encoding are imported under names that every part takes."""
    names = ["фото 🌊.jpg".encode(), b"two\nlines.jpg", b"latin-\xe9t\xe9.jpg", b"\xff" * 251 + b".jpg", b"back\\slash"]
    for n, name in enumerate(names):
        (tree / os.fsdecode(name)).write_bytes(photograph(n))
    report = tmp_path / "report.jsonl"
    assert run_import(*way, "--report", report, tree).counts == (5, 0, 0, 0)
    known = entries_in(data)
    kept = [known[Address.of(photograph(n))].record.filename for n in range(5)]
    assert kept[:3] == ["фото 🌊.jpg", "two\N{REPLACEMENT CHARACTER}lines.jpg", "latin-\ufffdt\ufffd.jpg"]
    assert kept[3] == "\ufffd" * 83 + ".jpg"
    told = {os.fsencode(json.loads(line)["path"]) for line in report.read_text().splitlines()}
    assert told == {os.fsencode(tree) + b"/" + name for name in names}


def test_a_report_has_every_path(tree: Path, data: Path, tmp_path: Path) -> None:
    """The report says of each path what became of it and why, as CSV or JSON lines by its extension."""
    ((path, address),) = photographs(tree, 1).items()
    (tree / "notes.txt").write_text("no image")
    (tree / ".hidden.jpg").write_bytes(photograph(1))
    for report in (tmp_path / "report.csv", tmp_path / "report.jsonl"):
        run_import("--data", data, "--report", report, tree)
        with report.open(newline="") as file:
            rows = list(csv.DictReader(file)) if report.suffix == ".csv" else [json.loads(line) for line in file]
        told = {Path(row["path"]).name: row for row in rows}
        assert told.keys() == {path.name, "notes.txt", ".hidden.jpg"}
        assert told[path.name]["address"] == str(address)
        assert told[path.name]["outcome"] == ("stored" if report.suffix == ".csv" else "there")
        assert told["notes.txt"]["outcome"] == "refused"
        assert "text/plain" in told["notes.txt"]["reason"]
        assert (told[".hidden.jpg"]["outcome"], told[".hidden.jpg"]["reason"]) == ("skipped", "hidden")


def test_which_files_are_meant(tree: Path, data: Path) -> None:
    """Globs choose by name or by path; what is hidden or a link is passed over unless asked for."""
    photographs(tree / "a", 2)
    photographs(tree / "b" / "deep", 2, start=2)
    photographs(tree / ".trash", 1, start=4)
    (tree / "link.jpg").symlink_to(tree / "a" / "photo 0.jpg")
    (tree / "b" / "up").symlink_to(tree)
    dry = ("--dry-run", "--data", data)
    assert run_import(*dry, tree).counts[0] == 4
    assert run_import(*dry, "--hidden", tree).counts[0] == 5
    assert run_import(*dry, "--include", "*1.jpg", "--include", "*/deep/*2*", tree).counts[0] == 2
    assert run_import(*dry, "--exclude", "deep", tree).counts[0] == 2
    assert run_import(*dry, "--exclude", "b/*", tree).counts[0] == 2
    linked = run_import(*dry, "--follow-symlinks", tree)
    assert (linked.code, linked.counts[0]) == (0, 5)
    assert run_import(*dry, tree / ".trash", tree / "a" / "photo 1.jpg").counts[0] == 2


def test_special_files_are_never_opened(tree: Path, data: Path) -> None:
    """A named pipe or a socket in the tree neither blocks the import nor fails it."""
    photographs(tree, 1)
    os.mkfifo(tree / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket.jpg"))
        done = run_import("--data", data, tree)
    assert (done.code, done.counts, done.summary["skipped"]) == (0, (1, 0, 0, 0), 2)


def test_the_store_is_not_imported_into_itself(tree: Path) -> None:
    """A tree that holds the store's own folder is imported without it."""
    photographs(tree, 3)
    assert run_import("--data", tree / "data", tree).counts == (3, 0, 0, 0)
    assert run_import("--data", tree / "data", tree).counts == (0, 3, 0, 0)


def test_a_tree_deeper_than_paths_may_be_long(tree: Path, data: Path) -> None:
    """Files whose whole path is longer than the system takes are imported like any other."""
    name = "n" * 200
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(30):  # 6,000 bytes
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    file = os.open("deep.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    os.write(file, photograph(0))
    os.close(file)
    os.close(folder)
    try:
        assert run_import("--data", data, tree).counts == (1, 0, 0, 0)
        assert run_import("--data", data, tree).counts == (0, 1, 0, 0)
    finally:
        subprocess.run(["rm", "-rf", tree], check=True)


def test_what_cannot_be_read_is_told_and_the_rest_imported(tree: Path, tmp_path: Path) -> None:
    """A file and a folder without permission are failures by name, the others are stored, the exit code is 1."""
    photographs(tree, 3)
    locked = tree / "locked"
    photographs(locked, 1, start=10)
    (tree / "photo 0.jpg").chmod(0)
    locked.chmod(0)
    report = tmp_path / "report.csv"
    done = run_import("--data", tmp_path / "data", "--report", report, tree, prefix=OBEYING)
    locked.chmod(0o700)
    assert (done.code, done.counts) == (1, (2, 0, 0, 2)), done.errors
    rows = csv.DictReader(report.read_text().splitlines())
    failed = {row["path"]: row["reason"] for row in rows if row["outcome"] == "failed"}
    assert failed == {str(tree / "photo 0.jpg"): "Permission denied", str(locked): "Permission denied"}
    assert "photo 0.jpg" in done.errors


def test_wrong_usage(tree: Path, data: Path, tmp_path: Path) -> None:
    """What cannot be meant is refused with exit code 2 before anything is made."""
    wrong: list[list[str | Path]] = [
        ["--data", data, tree / "missing"],
        ["--data", data, "--report", tmp_path / "report.pdf", tree],
        ["--data", data, "--tag", "", tree],
        ["--data", data, "--server", "http://127.0.0.1:1", tree],
        [],
    ]
    for arguments in wrong:
        assert run_import(*arguments).code == 2, arguments
    assert not data.exists()


def test_a_server_that_is_not_there(tree: Path, tmp_path: Path) -> None:
    """Without a server the import says so and fails, and can be run again."""
    photographs(tree, 1)
    done = run_import("--server", "http://127.0.0.1:9", "--journal", tmp_path / "journal", tree)
    assert done.code == 1
    assert "cannot reach" in done.errors


def test_killed_at_any_time_the_next_run_goes_on(tree: Path, data: Path) -> None:
    """Killed again and again in the middle, the import ends in the same state as one that was not."""
    made = small_images(tree, 3000)
    in_the_middle = 0
    for part in (0.0, 0.2, 0.5, 0.8):
        process = subprocess.Popen(command("--data", data, tree), env=environment(), stdout=subprocess.DEVNULL)
        wait_until(lambda least=part * 3000, run=process: about_stored(data) > least or run.poll() is not None, 120)
        process.kill()
        in_the_middle += process.wait() == -signal.SIGKILL
    assert in_the_middle
    done = run_import("--data", data, tree)
    assert (done.code, done.summary["files"], done.summary["failed"]) == (0, 3000, 0)
    assert entries_in(data).keys() == set(made)
    assert blobs_in(data) == texts(made)
    assert run_import("--data", data, tree).counts == (0, 3000, 0, 0)


def test_what_a_crash_left_is_swept(tree: Path, data: Path) -> None:
    """A blob that a killed import left without an entry is gone after the next import."""
    made = photographs(tree, 3)
    run_import("--data", data, tree)
    script = (
        "import sqlite3, sys\n"
        "journal = sqlite3.connect(sys.argv[1])\n"
        "journal.execute('UPDATE destinations SET unfinished = 1')\n"
        "journal.commit()\n"
    )
    subprocess.run([sys.executable, "-c", script, data / "import-journal.sqlite"], check=True)
    orphan = data / "blobs" / "abc" / f"abc{'0' * 61}.{'1' * 16}"
    orphan.write_bytes(b"left behind")
    run_import("--data", data, tree)
    assert blobs_in(data) == texts(list(made.values()))


def test_an_interrupt_ends_it_in_order(tree: Path, tmp_path: Path) -> None:
    """Ctrl-C ends an import with exit code 130 and its totals; the next run brings the rest."""
    made = small_images(tree, 5000)
    halted = halted_import(tree, 5000, tmp_path, "--json")
    halted.process.send_signal(signal.SIGINT)
    code, output, _ = halted.ended()
    assert code == 130
    summary = json.loads(output)
    assert summary["interrupted"] is True
    assert 0 < summary["stored"] < 5000
    done = run_import("--data", halted.data, tree)
    assert done.counts == (5000 - summary["stored"], summary["stored"], 0, 0)
    assert blobs_in(halted.data) == texts(made)


def test_a_large_file_takes_little_memory(tree: Path, data: Path, soak: bool) -> None:
    """A movie streams: the import's memory does not grow with it."""
    size = 5 * 1024**3 if soak else 300 * 1024**2
    large_mp4(tree / "large.mp4", size)
    peaks = []
    for name in ("small", "large"):
        if name == "small":
            shutil.copy(sample("bikes.mp4"), tree.parent / "small.mp4")
        script = (
            "import re, resource, sys\n"
            "from stat7store.cli import main\n"
            "code = main(sys.argv[1:])\n"
            # its own ru_maxrss would be that of the tests, if they take more
            "own = re.search('VmHWM:[^0-9]*([0-9]+) kB', open('/proc/self/status').read())[1]\n"
            "print(max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\n"
            "sys.exit(code)\n"
        )
        source = tree.parent / "small.mp4" if name == "small" else tree
        done = subprocess.run(
            [sys.executable, "-c", script, "import", "--data", str(data), str(source)],
            check=True,
            capture_output=True,
            text=True,
            env=environment(),
        )
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 32 * 1024  # KiB
    (movie,) = [entry for entry in entries_in(data).values() if entry.locator.size == size]
    digest = subprocess.run(["sha256sum", tree / "large.mp4"], check=True, capture_output=True, text=True).stdout
    assert digest.startswith(str(movie.address))


def test_the_script_is_the_same_command(tree: Path, data: Path) -> None:
    """``scripts/bulk_import.py`` imports like the verb, and tells where it stands in plain lines."""
    photographs(tree, 3)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bulk_import.py", "--data", data, tree],
        check=True,
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )
    assert "3 files" in done.stdout
    assert "3 stored" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
