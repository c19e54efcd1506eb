"""Disks that are full: uploads are refused before, reads and deletes go on, and room that is there again is used."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.reliability import Reliability, Row, recovery
from tests.faults.small_disks import fill, free, small_disk
from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until

MIB = 1 << 20


class Answer(NamedTuple):
    """A status, and the JSON or the bytes that came with it."""

    status: int
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body as a document."""
        return dict(json.loads(self.body))


def ask(
    server: RunningServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Ask over a connection of its own."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


def photograph(number: int, size: int) -> bytes:
    """A photograph of so many bytes, another for each number; what follows its end is no matter."""
    if size < 200_000:  # as far as anybody looks at it
        return b"\xff\xd8\xff\xe0\0\x10JFIF\0" + number.to_bytes(8, "big").ljust(size, b"\0")
    return distinct_jpeg(sample("rocket.jpg").read_bytes(), number).ljust(size, b"\0")


class Shelf:
    """What a server has acknowledged, and whether it still has it."""

    def __init__(self, server: RunningServer, first: int = 0) -> None:
        """``first`` is the number of its first photograph."""
        self.server = server
        self.files: dict[str, bytes] = {}
        self.lost = 0
        self.wrong = 0
        self.refusals: list[dict[str, Any]] = []
        self._numbers = itertools.count(first)

    def put(self, size: int) -> int:
        """Upload one more file; return the status."""
        number = next(self._numbers)
        data = photograph(number, size)
        answer = ask(self.server, "POST", "/v1/files", data, {"X-Filename": f"{'a long name ' * 20}{number}.jpg"})
        if answer.status == 201:
            self.files[hashlib.sha256(data).hexdigest()] = data
        else:
            self.refusals.append(answer.document)
        return answer.status

    def put_until_refused(self, size: int) -> None:
        """Upload files until there is no room for one."""
        while self.put(size) == 201:
            assert len(self.files) < 10_000
        assert self.refusals[-1]["status"] == 507

    def check(self) -> None:
        """Read everything: by GET, HEAD and in the list."""
        for address, data in self.files.items():
            answer = ask(self.server, "GET", f"/v1/files/{address}")
            self.lost += answer.status != 200
            self.wrong += answer.status == 200 and answer.body != data
            assert ask(self.server, "HEAD", f"/v1/files/{address}").status == 200
        listed = ask(self.server, "GET", "/v1/files?limit=1000").document
        assert len(listed["files"]) == min(1000, len(self.files))
        assert (self.lost, self.wrong) == (0, 0)

    def delete(self, number: int) -> None:
        """Delete so many files."""
        for address in list(self.files)[:number]:
            assert ask(self.server, "DELETE", f"/v1/files/{address}").status == 204
            del self.files[address]


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 96 MiB."""
    with small_disk(request.param, tmp_path / request.param, 96 * MIB) as folder:
        yield folder


def test_uploads_are_refused_and_everything_else_goes_on(disk: Path, soak: bool, reliability: Reliability) -> None:
    """Uploads fill the disk to --min-free and no further; others fill it to the last byte; deletes make room again.

    Without the blocks set aside for the catalog no delete succeeds on a disk that others filled: taking
    ``set_aside`` out of the catalog fails this. Taking the look at the disk out of ``Room`` fails it too.
    """
    times = 20 if soak else 1
    seconds: list[float] = []
    with RunningServer(disk / "data", "--min-free=16MiB") as server:
        shelf = Shelf(server)
        for _ in range(times):
            shelf.put_until_refused(2 * MIB)
            refusal = shelf.refusals[-1]
            assert refusal["type"] == "/problems/no-space"
            assert refusal["setting"] == "min_free"
            assert refusal["limit"] == 16 * MIB
            assert refusal["needed"] >= 2 * MIB
            assert refusal["free"] < 16 * MIB + refusal["needed"]
            assert free(disk) >= 15 * MIB
            fill(disk / "of others")
            assert shelf.put(5000) == 507
            shelf.check()
            shelf.delete(10)
            shelf.check()
            (disk / "of others").unlink()
            begun = time.monotonic()
            wait_until(lambda: shelf.put(2 * MIB) == 201)
            seconds.append(time.monotonic() - begun)
            shelf.check()
        refused = len(shelf.refusals)
    reliability.add(
        Row(
            fault="full disk",
            store=f"filesystem on {disk.name}",
            how="filled by uploads to --min-free, then by another program to the last byte; 10 deletes; room made",
            times=times,
            checked=f"every file by GET, HEAD and list while full; {refused} refusals, all 507",
            lost=shelf.lost,
            wrong=shelf.wrong,
            left_out="",
            **recovery(seconds),
        )
    )


def test_deleted_files_make_room_without_a_restart(disk: Path) -> None:
    """As soon as the janitor has deleted the bytes, uploads are taken again."""
    with RunningServer(disk / "data", "--min-free=16MiB") as server:
        shelf = Shelf(server)
        shelf.put_until_refused(4 * MIB)
        shelf.delete(2)
        wait_until(lambda: shelf.put(4 * MIB) == 201)
        shelf.check()


def test_uploads_at_once_cannot_fill_the_disk_together(tmp_path: Path) -> None:
    """Of 32 uploads on 2 workers, each of which fits, some are refused as they stream; room stays free, and no more.

    How many of them end is a matter of chance, as each may be refused because of room that is promised to others.
    What is left of the room is for those that come one by one.
    """
    size, clients, kept = 8 * MIB, 32, 24 * MIB
    least = 1 << 40
    with (
        small_disk("tmpfs", tmp_path / "disk", 128 * MIB) as disk,
        RunningServer(disk / "data", "--min-free=24MiB") as server,
    ):
        sockets = [_announce(server, size) for _ in range(clients)]
        try:
            assert {_status(each) for each in sockets} == {100}
            with ThreadPoolExecutor(clients) as threads:
                sent = [threads.submit(_send, each, photograph(number, size)) for number, each in enumerate(sockets)]
                while not all(one.done() for one in sent):
                    least = min(least, free(disk))
                    time.sleep(0.002)
            outcomes = [one.result() for one in sent]
            assert set(outcomes) <= {201, 507}
            assert 507 in outcomes
            burst = outcomes.count(201)
            shelf = Shelf(server, first=clients)
            # the room of one that was refused is free a moment later
            wait_until(lambda: shelf.put(size) == 507 and free(disk) < kept + size + MIB)
            least = min(least, free(disk))
            assert least >= kept - MIB  # the catalog's own pages are not promised
            assert ask(server, "GET", "/v1/stats").document["files"] == burst + len(shelf.files)
        finally:
            for each in sockets:
                each.close()


def test_what_cannot_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """A client that waits for ``100 Continue`` is told 507, and 413, instead of it; one that fits is told to go on."""
    with RunningServer(tmp_path / "data", "--max-store-bytes=8MiB", "--max-upload-size=64MiB") as server:
        for size, status in ((9 * MIB, 507), (65 * MIB, 413), (7 * MIB, 100)):
            with _announce(server, size) as connection:
                assert _status(connection) == status
        assert Shelf(server).put(7 * MIB) == 201  # an announcement alone keeps nobody out


def _send(connection: socket.socket, data: bytes) -> int:
    with suppress(ConnectionError):  # it may be refused in the midst of it
        connection.sendall(data)
    return _status(connection)


def _announce(server: RunningServer, size: int) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /v1/files HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def _status(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])


def test_the_store_stays_within_its_own_limit(tmp_path: Path) -> None:
    """--max-store-bytes counts what is stored; each file deleted makes room at once."""
    with RunningServer(tmp_path / "data", "--max-store-bytes=10MB") as server:
        shelf = Shelf(server)
        shelf.put_until_refused(3_000_000)
        assert len(shelf.files) == 3
        refusal = shelf.refusals[-1]
        assert (refusal["setting"], refusal["limit"]) == ("max_store_bytes", 10_000_000)
        assert (refusal["free"], refusal["needed"]) == (1_000_000, 3_000_000)
        assert shelf.put(900_000) == 201
        shelf.check()
        shelf.delete(1)
        assert shelf.put(3_000_000) == 201


def test_a_body_of_unknown_length_is_cut_off_in_time(tmp_path: Path) -> None:
    """Chunked bodies and forms are refused as they stream, once more came than there is room for."""
    with RunningServer(tmp_path / "data", "--max-store-bytes=4MiB") as server:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            yield photograph(0, MIB)
            for _ in range(63):
                sent += MIB
                yield bytes(MIB)

        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        try:
            try:
                connection.request("POST", "/v1/files", body=chunks(), encode_chunked=True)
            except ConnectionError:
                pass
            else:
                assert connection.getresponse().status == 507
        finally:
            connection.close()
        assert ask(server, "GET", "/v1/stats").document["files"] == 0
        assert Shelf(server).put(MIB) == 201  # nothing is held for what was refused


def test_a_limit_on_the_size_of_files(tmp_path: Path, reliability: Reliability) -> None:
    """RLIMIT_FSIZE below a file's size: 507 for that file, and everything else goes on; then it is lifted."""
    with RunningServer(tmp_path / "data") as server:
        shelf = Shelf(server)
        assert shelf.put(2 * MIB) == 201
        children = server.process.children()
        for process in children:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4 * MIB, resource.RLIM_INFINITY))
        assert shelf.put(6 * MIB) == 507
        assert shelf.put(2 * MIB) == 201
        shelf.check()
        shelf.delete(1)
        begun = time.monotonic()
        for process in children:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert shelf.put(6 * MIB) == 201
        seconds = time.monotonic() - begun
        shelf.check()
        assert [process.is_running() for process in children] == [True] * len(children)
    reliability.add(
        Row(
            fault="full disk",
            store="filesystem",
            how="RLIMIT_FSIZE below the size of a file, then lifted",
            times=1,
            checked="every file while it held and afterwards",
            lost=shelf.lost,
            wrong=shelf.wrong,
            left_out="",
            **recovery([seconds]),
        )
    )


@pytest.mark.timeout(1800)
def test_a_catalog_that_is_full_grows(tmp_path: Path, soak: bool, reliability: Reliability) -> None:
    """A memory map of 1 MiB fills up and grows by itself: nobody notices."""
    files = 6000 if soak else 3000
    with RunningServer(tmp_path / "data", "--map-size=1MiB") as server:
        shelf = Shelf(server)
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(shelf.put, [1000] * files)) == {201}
        shelf.check()
        shelf.delete(5)
        grown = ask(server, "GET", "/v1/stats").document["housekeeping"]["map_growths"]
        assert grown > 0
    reliability.add(
        Row(
            fault="full disk",
            store="filesystem",
            how="memory map of the catalog full, again and again",
            times=grown,
            checked=f"{files} uploads, all 201, and every file afterwards",
            lost=shelf.lost,
            wrong=shelf.wrong,
        )
    )


def test_an_import_stops_at_the_limits_and_goes_on_later(tmp_path: Path) -> None:
    """It says which setting stopped it; what it brought by then is there, and a run with more room brings the rest."""
    for number in range(12):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        (tmp_path / "photographs" / f"{number}.jpg").write_bytes(photograph(number, MIB))

    def imported(most: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stat7store", "import", "--data", "data", "--json", "photographs"],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "STAT7_MAX_STORE_BYTES": most},
        )

    stopped = imported("4MiB")
    assert stopped.returncode == 1
    assert "--max-store-bytes" in stopped.stderr
    with RunningServer(tmp_path / "data") as server:
        brought = ask(server, "GET", "/v1/stats").document["bytes"]
    assert brought <= 4 * MIB
    done = imported("64MiB")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 12 - brought // MIB
