"""The comparison of peers measures what it says, of servers that answer right, and leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec
import psutil
import pytest
from PIL import Image

from scripts.compare_peers import main, parser, plan_of
from scripts.peers import ordered_writes
from scripts.peers.cases import MEDIUM, QUICK_FILES, SMALL, Case, Kind, all_cases, chosen, under_each
from scripts.peers.compare import Plan, compare
from scripts.peers.contest import FLOORS, Found, RawWrites
from scripts.peers.files import KIB, MIB, files_of, shape_of
from scripts.peers.generator import Load
from scripts.peers.nginx import Nginx
from scripts.peers.open_loop import open_loop, program
from scripts.peers.peer import ADDRESS, Peer
from scripts.peers.processes import free_port, server_ports
from scripts.peers.raw_writes import write
from scripts.peers.report import About, Comparison, Measurement, ratios_of
from scripts.peers.stat7 import Stat7
from scripts.peers.tables import charts, markdown, write_results
from scripts.peers.verify import WrongAnswer, load, verify
from scripts.peers.work import Ask, Done, Tail, Work, Writes, Writing, head
from stat7store.errors import Malformed, Unavailable
from stat7store.latency import machine
from stat7store.latency.report import Machine
from stat7store.media.sniff import sniff
from tests.house.project import ROOT, plain_environment
from tests.scripts.fake_peer import FakePeer

SCRIPT = ROOT / "scripts" / "compare_peers.py"
SERVER_CORE, CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
PATIENCE_S = 120.0  # on a busy machine; what comes sooner is not waited for
TRIES = 3


def silent(line: str) -> None:
    """Say nothing."""


@contextmanager
def served(peer: FakePeer, folder: Path) -> Iterator[int]:
    """The port at which a peer runs."""
    port = free_port()
    with peer.serving(folder, port, 1, [SERVER_CORE]):
        yield port


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The script, running."""
    environment = plain_environment(PYTHONPATH=str(ROOT))
    command = [sys.executable, str(SCRIPT), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        try:
            yield script
        finally:
            script.kill()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return as soon as something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def those_using(folder: Path) -> list[psutil.Process]:
    """Processes whose command or folder is below this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join([*process.cmdline(), process.cwd()]):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass
class LoggingPeer(FakePeer):
    """A peer that can have an access log; ``ran`` has for each start whether it had."""

    access_log: bool = False
    ran: list[bool] = field(default_factory=list)

    def with_access_log(self) -> Self:
        return replace(self, access_log=True)

    @contextmanager
    def serving(self, folder: Path, port: int, workers: int, cores: Sequence[int]) -> Iterator[list[psutil.Process]]:
        self.ran.append(self.access_log)
        with super().serving(folder, port, workers, cores) as processes:
            yield processes


def plan(peers: Sequence[Peer], samples: Path, folder: Path, *patterns: str) -> Plan:
    """A tiny plan."""
    return Plan(
        peers=peers,
        cases=chosen(all_cases(), patterns),
        samples=samples,
        counts=QUICK_FILES,
        command="test",
        folder=folder,
        rounds=2,
        seconds=0.1,
    )


@pytest.mark.real
def test_all_of_it_tiny(samples: Path, tmp_path: Path) -> None:
    """Each case is measured on this store and on nginx, every file was verified, and nothing is left behind."""
    folder, written, results = tmp_path / "folder", tmp_path / "found.json", tmp_path / "results.md"
    folder.mkdir()
    flags = ["--quick", f"--folder={folder}", f"--json={written}", f"--results={results}", f"--samples={samples}"]
    for _ in range(TRIES):  # a neighbour may hold up a server for a whole round
        with begun(*flags) as script:
            output, said = script.communicate()
        assert script.returncode == 0, said
        found = msgspec.json.decode(written.read_bytes(), type=Comparison)
        if all(min(each.per_second) > 0 for each in found.measurements):
            break
    assert json.loads(written.read_text())["format"] == 1
    measured = {(each.case, each.peer) for each in found.measurements}
    cases = [case.name for case in plan_of_quick(samples).cases]
    assert measured >= set(itertools.product(cases, ("stat7", "nginx")))
    assert {("put-4KiB-16", "raw writes"), ("put-4KiB-16", "raw ordered writes")} <= measured
    for each in found.measurements:
        assert (each.errors, len(each.per_second)) == (0, 1), each
        assert each.per_second[0] > 0
        assert 0 < each.p50_ms[0] <= each.p99_ms[0]
        assert (each.rate > 0) == each.case.startswith("open-") == bool(each.tails)
    loaded = sum(QUICK_FILES[size] for size in {case.file_size for case in plan_of_quick(samples).cases})
    assert [about.verified for about in found.peers] == [loaded, loaded, 0, 0]
    assert not found.left_out
    assert {ratio.peer for ratio in found.ratios} == {"nginx", "raw writes", "raw ordered writes"}
    assert "put-4KiB-16" in output
    assert "| put-4KiB-16 | raw writes |" in results.read_text()
    assert not list(folder.iterdir())
    wait_until(lambda: not those_using(folder))


def plan_of_quick(samples: Path) -> Plan:
    """The plan of ``--quick``."""
    return plan_of(parser().parse_args(["--quick", f"--samples={samples}"]), "test")


@pytest.mark.real
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(samples: Path, tmp_path: Path, told: signal.Signals) -> None:
    """Ctrl-C and SIGTERM stop every server and remove every file."""
    with begun("--quick", "--cases=head-*", "--rounds=1000", f"--folder={tmp_path}", f"--samples={samples}") as script:
        assert script.stderr is not None
        next(line for line in script.stderr if "round 2" in line)
        assert those_using(tmp_path)
        script.send_signal(told)
        script.communicate()
    assert script.returncode == 130
    wait_until(lambda: not those_using(tmp_path))
    assert not list(tmp_path.iterdir())


def test_wrong_bytes_are_caught(samples: Path, tmp_path: Path) -> None:
    """A peer that answers with one other byte ends the comparison before anything is measured, and nothing stays."""
    right, wrong = FakePeer("right"), FakePeer("wrong", spoil=True)
    with pytest.raises(WrongAnswer, match="wrong answers 200 with other bytes"):
        compare(plan([right, wrong], samples, tmp_path, "head-4KiB"), silent)
    assert not list(tmp_path.iterdir())


def test_wrong_ranges_are_caught(samples: Path, tmp_path: Path) -> None:
    """A peer whose ranges begin a byte too early is caught."""
    peer = FakePeer()
    (file,) = files_of(shape_of(4 * KIB, samples), 1)
    peer.files[file.address] = file.data
    with served(peer, tmp_path) as port:
        assert verify(peer, port, [file]) == {file.address: ""}
        peer.range_shift = 1
        with pytest.raises(WrongAnswer, match="range"):
            verify(peer, port, [file])


def test_a_peer_leaves_out_what_it_cannot(samples: Path, tmp_path: Path) -> None:
    """What a peer does not do is left out of its cases, with the reason, and the others are measured."""
    peer = FakePeer()
    found = compare(plan([peer], samples, tmp_path, "not-modified-*", "cold-64KiB", "put-4KiB-1"), silent)
    assert found.left_out == [
        "fake, not-modified-4KiB: it gives no entity tags",
        "fake, cold-64KiB: what it keeps in memory cannot be dropped",
    ]
    assert [(each.case, each.peer) for each in found.measurements] == [
        ("put-4KiB-1", "fake"),
        ("put-4KiB-1", "raw writes"),
        ("put-4KiB-1", "raw ordered writes"),
    ]


def test_what_breaks_costs_nothing_else(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case in which something fails is told of, and what was measured before and after it is kept."""
    measure = RawWrites.measure

    def fill_the_disk(self: RawWrites, case: Case, seconds: float) -> Found:
        if case.connections == 16:
            raise OSError(errno.ENOSPC, "No space left on device")
        return measure(self, case, seconds)

    monkeypatch.setattr(RawWrites, "measure", fill_the_disk)
    found = compare(plan([FakePeer()], samples, tmp_path, "put-4KiB-*"), silent)
    assert found.broken == ["put-4KiB-16, 1 workers: [Errno 28] No space left on device"]
    assert {each.case for each in found.measurements} == {"put-4KiB-1", "put-4KiB-64"}
    assert "Left out: put-4KiB-16" in markdown(found)


def test_a_server_that_starts_but_once_costs_nothing_else(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that does not start with two workers ends the comparison if it is the first, and else is told of."""
    serving = FakePeer.serving

    def refuse_two(
        self: FakePeer, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        if workers == 2:
            raise Unavailable("it does not start")
        return serving(self, folder, port, workers, cores)

    monkeypatch.setattr(FakePeer, "serving", refuse_two)
    wanted = plan([FakePeer()], samples, tmp_path, "put-64KiB-64")
    found = compare(replace(wanted, workers=[1, 2]), silent)
    assert found.broken == ["2 workers: it does not start"]
    assert {each.workers for each in found.measurements} == {1}
    with pytest.raises(Unavailable, match="it does not start"):
        compare(replace(wanted, workers=[2]), silent)


def test_every_write_is_new(samples: Path, tmp_path: Path) -> None:
    """Writes are whole files of the shape's size, no two of them alike, and end after as many as were allowed."""
    shape, peer = shape_of(4 * KIB, samples), FakePeer()
    with served(peer, tmp_path) as port:
        writes = Writes(Writing("POST", "/"), shape.before, shape.after, 10**15)
        done = Load(Work(port=port, connections=4, seconds=60.0, writes=writes, most=50)).run()
    assert (done.requests, done.errors, len(peer.files)) == (50, 0, 50)
    assert {len(data) for data in peer.files.values()} == {4 * KIB}


def test_uploads_in_two_steps(samples: Path, tmp_path: Path) -> None:
    """What the Location of the first answer names is given the bytes, with their digest."""
    shape, peer = shape_of(4 * KIB, samples), FakePeer(writing=Writing("POST", "/", in_two_steps=True))
    with served(peer, tmp_path) as port:
        writes = Writes(Writing("POST", "/", in_two_steps=True), shape.before, shape.after, 10**15)
        done = Load(Work(port=port, connections=2, seconds=60.0, writes=writes, most=10)).run()
    assert (done.requests, done.errors) == (10, 0)
    assert sorted(peer.digests) == sorted(f"sha256:{digest}" for digest in peer.files)


def test_answers_in_pieces(tmp_path: Path) -> None:
    """An answer that comes byte by byte counts once, when it is whole; a wrong one is an error."""
    peer = FakePeer(dribble=True, files={"a": b"x" * 30})
    with served(peer, tmp_path) as port:
        right = Ask(head("GET", "/a", port), 200, 30)
        assert counted(Work(port=port, connections=2, seconds=30.0, asks=[right] * 5, once=True)) == (5, 0)
        wrong = Ask(head("GET", "/a", port), 200, 31)
        assert counted(Work(port=port, connections=1, seconds=30.0, asks=[wrong, right], once=True)) == (1, 1)


def counted(work: Work) -> tuple[int, int]:
    """Right answers and errors."""
    done = Load(work).run()
    return done.requests, done.errors


@pytest.mark.parametrize("connections", [2, 100])
def test_waiting_counts_in_an_open_loop(tmp_path: Path, connections: int) -> None:
    """While a server stalls, requests go on being due: none is skipped, and the time they waited counts, with a
    connection or without. It is not taken for the client's own.
    """
    for _ in range(TRIES):  # a neighbour may hold up the client itself
        with served(FakePeer(stall_s=1.2, files={"a": b"x"}), tmp_path) as port:
            done = open_loop([Ask(head("GET", "/a", port), 200, 1)], port, connections, 1.0, 100.0, CORE)
        assert (done.requests, done.errors, done.error) == (125, 0, "")
        assert done.tail is not None
        if done.tail.late_p99_ms < done.tail.max_ms / 2:
            break
    assert done.tail is not None
    assert done.p50_ms > 100  # all that were due while the server stalled, not only those that it held up
    assert done.tail.max_ms > 700
    assert done.p50_ms <= done.tail.p90_ms <= done.p99_ms <= done.tail.p999_ms <= done.tail.max_ms
    assert done.tail.late_p99_ms < done.tail.max_ms / 2


def test_a_client_that_stalls_says_so(tmp_path: Path) -> None:
    """If the client itself is held up, all that was due meanwhile shows in its own lateness."""
    peer = FakePeer(files={"a": b"x"})
    with served(peer, tmp_path) as port, ThreadPoolExecutor(1) as thread:
        asks = [Ask(head("GET", "/a", port), 200, 1)]
        doing = thread.submit(open_loop, asks, port, 2, 5.0, 300.0, CORE)  # more are due than could be sent
        wait_until(lambda: peer.asked > 0)
        (client,) = (each for each in psutil.Process().children() if each.name() == "open_loop")
        client.suspend()
        time.sleep(0.8)
        client.resume()
        done = doing.result()
    assert (done.requests, done.errors) == (1575, 0)
    assert done.tail is not None
    assert done.tail.late_p99_ms > 300


def test_an_open_loop_counts_errors(tmp_path: Path) -> None:
    """Answers may come in pieces; those of another status or size than was asked for are errors, told once."""
    peer = FakePeer(dribble=True, files={"a": b"x" * 30, "b": b"x" * 40})
    with served(peer, tmp_path) as port:
        right, wrong = (Ask(head("GET", f"/{name}", port), 200, 30) for name in "ab")
        done = open_loop([right], port, 4, 0.5, 40.0, CORE)
        assert (done.requests, done.errors) == (30, 0)
        done = open_loop([right, wrong], port, 4, 0.5, 200.0, CORE)
        assert done.requests + done.errors == 150  # also those of the warm-up
        assert min(done.requests, done.errors) > 0
        assert done.error == "200 with 40 bytes"
        done = open_loop([Ask(right.request, 206, 30)], port, 4, 0.5, 20.0, CORE)
        assert (done.requests, done.errors, done.error) == (0, 15, "200 with 30 bytes")


def test_an_open_loop_ends_with_its_last_connection(tmp_path: Path) -> None:
    """What a server does not answer before it closes all connections is an error each, and nothing is waited for."""
    peer = FakePeer()
    with served(peer, tmp_path) as port:
        done = open_loop([Ask(head("GET", "/gone", port), 200, 30)], port, 4, 60.0, 40.0, CORE)
    assert (done.requests, done.errors, done.error) == (0, 2410, "the server closed the connection")
    assert done.client_cpu_s < 30


def test_an_open_loop_needs_a_server() -> None:
    """Where nothing listens, the client says so."""
    with socket.socket() as silent_one, pytest.raises(Unavailable, match="connecting: Connection refused"):
        silent_one.bind(("127.0.0.1", 0))  # nobody else can listen there meanwhile
        open_loop([Ask(b"", 200, 0)], silent_one.getsockname()[1], 1, 1.0, 1.0, CORE)


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_without_a_compiler(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded before it is said what compiles the open loop's client; other cases need none."""
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr("scripts.compare_peers.program", lambda: program(tmp_path))
    monkeypatch.setattr("scripts.compare_peers.compare", None)  # is not come to
    assert main(["--peers=stat7", "--cases=open-4KiB"]) == 1
    said = capsys.readouterr().err
    assert compiler in said
    assert "apt-get install gcc libc6-dev" in said
    assert plan_of(parser().parse_args(["--cases=get-*"]), "test")
    assert not list(tmp_path.iterdir())


def test_the_open_loops_client_compiles_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code is clean, and it is compiled once."""
    monkeypatch.setenv("CC", "cc -Werror -Wconversion")
    made = program(tmp_path)
    at = made.stat().st_mtime_ns
    assert program(tmp_path).stat().st_mtime_ns == at
    assert list(tmp_path.iterdir()) == [made]


def test_shapes(samples: Path) -> None:
    """Files are pictures and clips of exactly the size, distinct, and named by the SHA-256 of their bytes."""
    for size, media_type in ((4 * KIB, "image/jpeg"), (64 * KIB, "image/jpeg"), (MIB, "video/mp4")):
        files = files_of(shape_of(size, samples), 3)
        assert {len(file.data) for file in files} == {size}
        assert [file.address for file in files] == [hashlib.sha256(file.data).hexdigest() for file in files]
        assert len({file.address for file in files}) == 3
        assert {sniff(file.data) for file in files} == {media_type}
        if media_type == "image/jpeg":
            Image.open(io.BytesIO(files[2].data)).load()


def test_raw_writes(tmp_path: Path) -> None:
    """The floor writes whole groups of whole files."""
    done = write(tmp_path / "raw", 4 * KIB, 8, 0.05)
    files = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    assert done.requests == len(files) > 0
    assert len(files) % 8 == 0
    assert {path.stat().st_size for path in files} == {4 * KIB}


def test_ordered_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread makes the syncs of one upload in the store's order; all files are whole and have their hash."""
    calls: list[str] = []

    def noted(name: str) -> None:
        call = getattr(os, name)

        def called(*given: object, **named: object) -> object:
            calls.append(name)
            return call(*given, **named)

        monkeypatch.setattr(os, name, called)

    root = tmp_path / "raw"
    for name in ("write", "fsync", "link", "fdatasync", "pwrite"):
        noted(name)
    done = ordered_writes.write(root, 4 * KIB, 1, 0.05)
    one = ["write", "fsync", "link", "fsync", *["pwrite"] * 11, "fdatasync", "pwrite"]
    assert calls == ["fsync", *one * done.requests]  # first the empty catalog
    done = ordered_writes.write(tmp_path / "more", 4 * KIB, 4, 0.05)
    files = [path for path in (tmp_path / "more").glob("??/*") if path.is_file()]
    assert done.requests == len(files) >= 4
    assert all(path.name == hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert {path.stat().st_size for path in files} == {4 * KIB}


@pytest.mark.real
def test_the_ordered_floor_syncs_as_the_store_does(samples: Path, tmp_path: Path) -> None:
    """One upload that has the store to itself makes the syncs of the floor, in the same order."""
    peer, port, trace = Stat7(), free_port(), tmp_path / "trace"
    first, second = files_of(shape_of(4 * KIB, samples), 2)
    wanted = "--trace=fsync,fdatasync,syncfs,linkat,pwrite64"
    peer.lay(tmp_path / "store", [])
    with peer.serving(tmp_path / "store", port, 1, [SERVER_CORE]) as (server,):
        load(peer, port, [first])
        processes = [f"--attach={child.pid}" for child in server.children(recursive=True)]
        command = ["strace", "-f", f"--output={trace}", wanted, *processes]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
            assert tracing.stderr is not None
            for _ in processes:
                assert "attached" in next(line for line in tracing.stderr if "attached" in line)
            load(peer, port, [second])
            tracing.terminate()
            tracing.communicate()
    calls = [line for line in trace.read_text().splitlines() if ", 4096, " not in line]  # without the catalog's pages
    made = [re.sub(r"^\d+ +(\w+)\(.*", r"\1", call) for call in calls]
    assert made == ["fsync", "linkat", "fsync", "fdatasync", "pwrite64"]


def test_ports(tmp_path: Path) -> None:
    """No port is given twice, by no process, and none is of those that outgoing connections take."""
    code = "from scripts.peers.processes import free_port; print(*(free_port() for _ in range(50))); input()"
    command = [sys.executable, "-c", code]
    environment = plain_environment(PYTHONPATH=str(ROOT))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports: list[int] = []
    with ExitStack() as stack:
        for _ in range(3):
            one = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(one)
            assert one.stdout is not None
            ports += map(int, one.stdout.readline().split())
    assert len(set(ports)) == len(ports) == 150
    assert not [port for port in ports if low <= port <= high]
    assert server_ports(20_000, 60_999) == [*range(10_000, 20_000), *range(61_000, 65_536)]
    assert server_ports(1024, 65_535) == list(range(10_000, 65_536))  # better one of those than none


@pytest.mark.real
def test_which_servers_log(samples: Path, tmp_path: Path) -> None:
    """Installed cases are asked of those that can log, with that on, on the same folder, after all others; each
    peer is told of once.
    """
    quiet, logging = FakePeer("quiet"), LoggingPeer("logging")
    found = compare(plan([logging, quiet], samples, tmp_path, "installed-4KiB", "get-4KiB"), silent)
    assert logging.ran == [False, True]
    assert [(each.case, each.peer) for each in found.measurements] == [
        ("get-4KiB", "logging"),
        ("get-4KiB", "quiet"),
        ("installed-4KiB", "logging"),
    ]
    assert [about.name for about in found.peers] == ["logging", "quiet"]


@pytest.mark.real
@pytest.mark.parametrize(("quiet", "log"), [(Stat7(), "server.log"), (Nginx(), "access.log")])
def test_access_logs(quiet: Stat7 | Nginx, log: str, samples: Path, tmp_path: Path) -> None:
    """The servers log every request where they are asked as installed, and none where they are not."""
    files = files_of(shape_of(4 * KIB, samples), 3)
    quiet.lay(tmp_path / "store", files)
    for peer in (quiet, quiet.with_access_log()):
        port = free_port()
        with peer.serving(tmp_path / "store", port, 1, [SERVER_CORE]):
            load(peer, port, files)
            verify(peer, port, files)
        path = tmp_path / "store" / log
        told = path.read_text() if path.exists() else ""
        for file in files:
            assert (peer.path.replace(ADDRESS, file.address) in told) == peer.access_log


def test_cases_under_each_congestion_control() -> None:
    """What only reads is measured under each; what writes once, under the kernel's own."""
    cases = [Case(Kind.GET, SMALL), Case(Kind.PUT, MEDIUM)]
    assert [case.name for case in under_each(cases, ["cubic", "bbr"])] == [
        "get-4KiB-cubic",
        "get-4KiB-bbr",
        "put-64KiB-16",
    ]
    assert under_each(cases, []) == cases


@pytest.mark.real
def test_congestion_control_in_an_own_network() -> None:
    """New connections have the congestion control that was asked for, and the machine's setting stays as it is.

    Who may have no network of their own is told so.
    """
    code = (
        "from scripts.peers.congestion import *\n"
        "enter_own_network(['reno'])\n"
        "for name in ('reno', ''):\n"
        "    use_congestion(name)\n"
        "    print(*congestion_of_connections())"
    )
    before = machine.congestion_control()
    environment = plain_environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert machine.congestion_control() == before
    if os.geteuid() == 0:
        assert done.stdout.split() == ["reno", "reno", before, before], done.stderr
    else:
        assert "--congestion needs a network namespace" in done.stderr


def test_an_unknown_congestion_control(capsys: pytest.CaptureFixture[str]) -> None:
    """It is bad usage, and the message says which the kernel has."""
    assert main(["--peers=stat7", "--cases=get-4KiB", "--congestion=reno,slow"]) == 2
    assert "this kernel has no congestion control slow ready; it has" in capsys.readouterr().err


def test_a_comparison_goes_on(samples: Path, tmp_path: Path) -> None:
    """What was measured before an interruption is kept and not measured again; another command is refused."""
    kept, folder = tmp_path / "kept.json", tmp_path / "folder"
    folder.mkdir()
    wanted = replace(plan([FakePeer()], samples, folder, "not-*", "put-4KiB-1", "put-4KiB-16"), kept=kept)

    def interrupt(line: str) -> None:
        if line.startswith("put-4KiB-16, 1 workers, round 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(wanted, interrupt)
    said: list[str] = []
    found = compare(wanted, said.append)
    assert not [line for line in said if line.startswith(("not", "put-4KiB-1,"))]
    assert [(each.case, each.peer, len(each.per_second)) for each in found.measurements] == [
        (case, peer, 2)
        for case in ("put-4KiB-1", "put-4KiB-16")
        for peer in ("fake", *(floor.name for floor in FLOORS))
    ]
    assert found.left_out == ["fake, not-modified-4KiB: it gives no entity tags"]
    assert "Measured in 2 runs, one going on where the other was interrupted" in found.notes
    with pytest.raises(Malformed, match="belongs to another command, `test`"):
        compare(replace(wanted, command="other"), silent)
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["kept.json"]


def test_one_place_tells_the_machine() -> None:
    """Sections of results name the congestion control, and no script asks elsewhere what machine this is."""
    assert machine.this_machine().system.endswith(f", TCP {machine.congestion_control()}")
    asking = [path.name for path in (ROOT / "scripts").rglob("*.py") if "Machine(" in path.read_text()]
    assert not asking


def measurement(
    case: str,
    peer: str,
    *rates: float,
    client_cpu: float = 0.5,
    rate: float = 0.0,
    late_ms: float = 0.0,
    errors: int = 0,
) -> Measurement:
    """A measurement of these rates."""
    return Measurement(
        case=case,
        peer=peer,
        workers=1,
        per_second=list(rates),
        p50_ms=[1.0] * len(rates),
        p99_ms=[3.0] * len(rates),
        per_cpu_s=[rate * 2 for rate in rates],
        server_cpu=1.0,
        client_cpu=client_cpu,
        rate=rate,
        tails=[Tail(p90_ms=2.0, p999_ms=4.0, max_ms=5.0, late_p99_ms=late_ms)] * len(rates) if rate else [],
        errors=errors,
    )


FOUND = [
    measurement("get-4KiB", "stat7", 100.0, 300.0, 200.0),
    measurement("get-4KiB", "nginx", 200.0, 100.0, 100.0, client_cpu=0.99),
    measurement("get-64KiB", "stat7", 50.0, 60.0, 70.0),
    measurement("get-64KiB", "nginx", 50.0, 0.0, 70.0),
    measurement("open-4KiB", "stat7", 10.0, 10.0, 10.0, client_cpu=1.0, rate=10.0, late_ms=0.02),
    measurement("open-4KiB", "nginx", 20.0, 20.0, 20.0, client_cpu=1.0, rate=20.0, late_ms=1.6),
    measurement("put-4KiB-1", "other", 1.0, 1.0, 1.0),
    measurement("put-4KiB-16", "stat7", 1.0, 1.0, 1.0),
    measurement("put-4KiB-16", "nginx", 1.0, 1.0, 1.0, errors=1),
]


def test_ratios() -> None:
    """A ratio is taken round by round; open loops, rounds without an answer, and cases that a peer erred in or the
    first was not in have none.
    """
    found = [(ratio.case, ratio.peer, ratio.median, ratio.low, ratio.high) for ratio in ratios_of(FOUND, "stat7")]
    assert found == [("get-4KiB", "nginx", 2.0, 0.5, 3.0), ("get-64KiB", "nginx", 1.0, 1.0, 1.0)]


def test_what_is_written(tmp_path: Path) -> None:
    """The section names peers, ratios with their spread, limits of the client, and shows a chart by size."""
    found = Comparison(
        made_at="2026-01-01T00:00:00+00:00",
        command="scripts/compare_peers.py",
        machine=Machine(system="Linux", processor="one", cores=2, memory=10**9, python="3"),
        base="stat7",
        seconds=1.0,
        rounds=3,
        peers=[About(name="nginx", version="1", durable=False, remark="no fsync", verified=1)],
        left_out=["rgw: not there"],
        notes=["A note"],
        measurements=FOUND,
        ratios=ratios_of(FOUND, "stat7"),
    )
    text = markdown(found)
    assert "| nginx | 1 | no | no fsync |" in text
    assert "| get-4KiB | 2.00 (0.50–3.00) |" in text
    assert "0.99!" in text
    assert "| get-4KiB | stat7 | 200 | 100–300 |  |  | 2,500 |  | 2,500 |" in text  # CPU µs of server and client
    assert "| 1.00 | 10 due a second; p99 is 3.0 times p50; p99 of what the client itself was late: 0.02 ms |" in text
    assert "| 1.00! | 20 due a second; p99 is 3.0 times p50; p99 of what the client itself was late: 1.6 ms |" in text
    assert "Left out: rgw: not there." in text
    assert [name for name, _ in charts(found)] == ["get"]
    under_cubic = [
        msgspec.structs.replace(each, case=f"{each.case}-cubic", congestion="cubic")
        for each in FOUND
        if each.case.startswith("get-")
    ]
    both = msgspec.structs.replace(found, measurements=[*FOUND, *under_cubic])
    assert [name for name, _ in charts(both)] == ["get", "get-cubic"]
    write_results(found, tmp_path / "results.md", "peers")
    assert (tmp_path / "results" / "peers-get.svg").exists()


def test_rates() -> None:
    """A rate is right answers over the time they took."""
    assert Done(requests=10, seconds=2.0, p50_ms=1.0, p99_ms=1.0, client_cpu_s=1.0).per_second == 5.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers=apache"], "no peer is called apache; there are stat7"),
        (["--cases=delete-*"], "no case is called delete-*; --list names them"),
    ],
)
def test_bad_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown peer or case is bad usage, and the message says what there is."""
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_is_named(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer that is not installed is left out, and the command that installs it is said."""
    monkeypatch.setattr("scripts.peers.registry.find", lambda program: "")
    assert main(["--peers=registry"]) == 1
    assert "registry: apt-get install docker-registry" in capsys.readouterr().err
