"""``GET /metrics``: what Prometheus reads is well-formed, complete, and true."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stat7store.server.board import Board, BoardMemory
from stat7store.server.exposition import Sample, counter, exposition, gauge
from stat7store.server.histograms import BUCKETS, COUNTED, Histograms
from stat7store.server.housekeeping import DEEDS
from stat7store.server.requests import RequestCounts
from stat7store.timing import STAGES
from storage.s3_options import S3Options
from tests.media import distinct_jpeg, sample
from tests.running import RunningServer, wait_until

BACKENDS = ("filesystem", "s3")
_REQUESTS, _RETRIEVALS = "stat7_requests_total", "stat7_retrieval_seconds_count"
Metrics = dict[str, dict[frozenset[tuple[str, str]], float]]


def read(text: str) -> Metrics:
    """Parse as Prometheus does; name → labels → value. A name or a set of labels that comes twice is refused."""
    found: Metrics = {}
    families = set()
    for family in text_string_to_metric_families(text):
        assert family.name not in families
        families.add(family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        for each in family.samples:
            values = found.setdefault(each.name, {})
            labels = frozenset(each.labels.items())
            assert labels not in values
            values[labels] = each.value
    return found


def scrape(server: RunningServer) -> Metrics:
    """Ask a server for its metrics."""
    with urlopen(f"{server.url}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return read(answer.read().decode())


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the sum of the samples that have these labels."""
    return sum(each for having, each in metrics.get(name, {}).items() if labels.items() <= dict(having).items())


def scraped_after(server: RunningServer, before: Metrics, requests: int, retrievals: int = 0) -> tuple[Metrics, int]:
    """Scrape until so many requests since ``before`` are counted, which each is a moment after its answer.

    Returns what was scraped last, and how many scrapes are counted in it: that of ``before`` among them.
    """
    after, scrapes = before, 0

    def counted() -> bool:
        nonlocal after, scrapes
        after, scrapes = scrape(server), scrapes + 1
        grown = {name: value(after, name) - value(before, name) for name in (_REQUESTS, _RETRIEVALS)}
        return grown[_REQUESTS] == requests + scrapes and grown[_RETRIEVALS] >= retrievals

    wait_until(counted, 30)
    return after, scrapes


def ask(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> int:
    """Return the status of an answer that is read whole."""
    try:
        with urlopen(Request(url, data=data, method=method, headers=headers), timeout=30) as answer:
            answer.read()
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_requests_uploads_and_bytes_are_counted(server: RunningServer) -> None:
    """What was asked for shows by method and status, over all workers; so do uploads, known or new, and their bytes."""
    before = scrape(server)
    photos = [distinct_jpeg(sample("rocket.jpg").read_bytes(), number) for number in range(5)]
    for photo in photos:
        assert ask(f"{server.url}/v1/files", "POST", photo) == 201
    assert ask(f"{server.url}/v1/files", "POST", photos[0]) == 200
    assert ask(f"{server.url}/v1/files/{'0' * 64}") == 404
    assert ask(f"{server.url}/v1/files", "PROPFIND") == 405
    assert ask(f"{server.url}/v1/files", "BREW") == 400  # it does not even get to be a request
    after, _ = scraped_after(server, before, 9)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("stat7_requests_total", method="POST", status="201") == 5
    assert grown("stat7_requests_total", method="POST", status="200") == 1
    assert grown("stat7_requests_total", method="GET", status="404") == 1
    assert grown("stat7_requests_total", method="other", status="405") == 1
    assert grown("stat7_requests_total", method="other", status="400") == 1
    assert grown("stat7_uploads_total", outcome="created") == 5
    assert grown("stat7_uploads_total", outcome="deduplicated") == 1
    assert grown("stat7_received_bytes_total") == sum(map(len, [*photos, photos[0]]))
    assert grown("stat7_files", realm="image") == 5
    assert grown("stat7_file_bytes", realm="image") == sum(map(len, photos))


def test_retrievals_are_counted_in_every_lane(server: RunningServer) -> None:
    """GET and HEAD are requests like others, with the fast lane and without; what was sent is counted in bytes."""
    photo = distinct_jpeg(sample("rocket.jpg").read_bytes(), 77)
    address = f"{server.url}/v1/files/{_stored(server, photo)}"
    before = scrape(server)
    for _ in range(5):
        assert ask(address) == 200
    assert ask(f"{address}?download=1") == 200
    assert ask(address, "HEAD") == 200
    assert ask(address, Range="bytes=0-9") == 206
    after, scrapes = scraped_after(server, before, 8, retrievals=8)
    for name, labels, expected in (
        ("stat7_requests_total", {"method": "GET", "status": "200"}, 6 + scrapes),
        ("stat7_requests_total", {"method": "HEAD", "status": "200"}, 1),
        ("stat7_requests_total", {"method": "GET", "status": "206"}, 1),
        ("stat7_sent_bytes_total", {}, 6 * len(photo) + 10),
        ("stat7_retrieval_seconds_count", {}, 8),
    ):
        assert value(after, name, **labels) - value(before, name, **labels) == expected, name
    for stage in STAGES:
        counted = value(after, "stat7_stage_seconds_count", stage=stage)
        assert 0 <= counted <= value(after, "stat7_retrieval_seconds_count")
    assert value(after, "stat7_stage_seconds_count", stage="index") == value(after, "stat7_retrieval_seconds_count")


def _stored(server: RunningServer, photo: bytes) -> str:
    with urlopen(Request(f"{server.url}/v1/files", data=photo), timeout=30) as answer:
        return str(answer.headers["Location"]).rpartition("/")[2]


def test_the_backend_tells_of_itself(server: RunningServer, request: pytest.FixtureRequest) -> None:
    """A store on S3 counts its requests there; one on files has no such metrics at all."""
    _stored(server, distinct_jpeg(sample("rocket.jpg").read_bytes(), 78))
    metrics = scrape(server)
    (facts,) = metrics["stat7_build_info"]
    backend = dict(facts)["backend"]
    if backend == "s3":
        wait_until(lambda: value(scrape(server), "stat7_s3_requests_total") > 0)
        assert value(scrape(server), "stat7_s3_sent_bytes_total") > 0
        assert "stat7_s3_errors_total" in metrics
    else:
        assert not any(name.startswith("stat7_s3") for name in metrics)
    assert dict(facts)["version"]


def test_every_process_is_measured(server: RunningServer) -> None:
    """Supervisor, janitor and workers show their memory, processor time and open files, as the kernel tells them."""
    metrics = scrape(server)
    names = {"supervisor", "janitor", "worker 1", "worker 2"}
    for name in ("resident_memory_bytes", "open_fds", "cpu_seconds_total", "threads"):
        found = metrics[f"stat7_process_{name}"]
        assert {dict(labels)["process"] for labels in found} == names
        assert all(each > 0 for each in found.values()) or name == "cpu_seconds_total"
    supervisor = server.process
    assert value(metrics, "stat7_process_resident_memory_bytes", process="supervisor") == pytest.approx(
        supervisor.memory_info().rss, rel=0.2
    )
    assert value(metrics, "stat7_process_open_fds", process="supervisor") == pytest.approx(supervisor.num_fds(), abs=3)
    assert value(metrics, "stat7_process_cpu_seconds_total") <= sum(
        sum(process.cpu_times()[:2]) + 0.1 for process in server.processes
    )


def test_housekeeping_shows_from_the_start(server: RunningServer) -> None:
    """Every kind of housekeeping has its counter before it first happens, so that an alarm can watch it."""
    metrics = scrape(server)
    assert {f"stat7_{deed.name}_total" for deed in DEEDS} <= metrics.keys()
    assert value(metrics, "stat7_catalog_used_bytes") <= value(metrics, "stat7_catalog_map_bytes")
    written_to = "spools" if "stat7_s3_requests_total" in metrics else "blobs"
    assert {dict(labels)["folder"] for labels in metrics["stat7_free_bytes"]} == {written_to, "catalog"}
    assert all(free > 0 for free in metrics["stat7_free_bytes"].values())


def test_connections_are_counted(server: RunningServer) -> None:
    """Idle connections show in about a second, and are gone soon after they ended."""
    host, port = server.url.removeprefix("http://").split(":")
    wait_until(lambda: value(scrape(server), "stat7_connections") <= 2)  # those of the tests before are gone
    before = value(scrape(server), "stat7_connections")
    held = [socket.create_connection((host, int(port))) for _ in range(20)]
    wait_until(lambda: value(scrape(server), "stat7_connections") >= before + 20)
    for each in held:
        each.close()
    wait_until(lambda: value(scrape(server), "stat7_connections") <= 2)


def test_access_is_as_for_statistics(server: RunningServer) -> None:
    """Metrics ask the same access object: a host name that is not this machine's is refused."""
    for path in ("/metrics", "/v1/stats"):
        assert ask(f"{server.url}{path}", Host="evil.example") == 403


def test_damage_is_an_alarm(tmp_path: Path, bucket: S3Options | None) -> None:
    """A file whose bytes are gone is refused with 500, and counted each time it is asked for."""
    if bucket is not None:
        return
    with RunningServer(tmp_path / "data", workers=1) as server:
        address = _stored(server, distinct_jpeg(sample("rocket.jpg").read_bytes(), 1))
        assert value(scrape(server), "stat7_damaged_requests_total") == 0
        next((tmp_path / "data" / "blobs").glob(f"???/{address}.*")).unlink()
        for _ in range(3):
            assert ask(f"{server.url}/v1/files/{address}") == 500
        wait_until(lambda: value(scrape(server), "stat7_errors_total") >= 3)
        metrics = scrape(server)
        assert value(metrics, "stat7_damaged_requests_total") == 3
        assert value(metrics, "stat7_requests_total", method="GET", status="500") == 3
        assert value(metrics, "stat7_errors_total") == 3


def test_the_text_escapes_what_it_must() -> None:
    """Labels may hold anything; whole numbers stay exact; a family without samples is not there."""
    wild = 'a"b\\c\nd'
    text = exposition(
        [
            gauge("one", "One.", Sample(2**60 + 1, {"a": wild, "b": ""})),
            counter("none_total", "None."),
            gauge("two", "Two.", Sample(0.1)),
        ]
    )
    assert str(2**60 + 1) in text
    assert read(text) == {
        "one": {frozenset({("a", wild), ("b", "")}): 2**60 + 1},
        "two": {frozenset(): 0.1},
    }


def durations(chance: random.Random) -> Iterator[int]:
    """Durations of all sizes, in nanoseconds."""
    for _ in range(1000):
        yield int(2 ** chance.uniform(0, 42))


def test_bounds_are_exact() -> None:
    """How many durations lie below a power of two is exact, over all workers; the sum is within 0.4 %."""
    memory = Histograms.allocate(2)
    first, second = (Histograms(memory, 2, worker, 0) for worker in (1, 2))
    counted = list(durations(random.Random(7)))
    for number, ns in enumerate(counted):
        (first, second)[number % 2].count(*[ns] * len(COUNTED))
    for found in first.counted().values():
        assert found.count == len(counted)
        longest = 3_600_000_000_000
        assert found.sum_ns == pytest.approx(sum(min(ns, longest) for ns in counted), rel=0.004)
        for power in range(1, 41):
            assert found.below[power] == sum(ns < 2**power for ns in counted), power
        assert all(less <= more for less, more in pairwise(found.below))
    assert BUCKETS > 40 * 128


def test_requests_of_all_workers_are_summed() -> None:
    """Each worker counts for itself; any status and any method has its place, and no other's."""
    memory = RequestCounts.allocate(2)
    first, second = RequestCounts(memory, 1), RequestCounts(memory, 2)
    for status in (100, 200, 499, 599):
        first.count("GET", status)
        second.count("GET", status)
        second.count("BREW", status)
    expected = {("GET", status): 2 for status in (100, 200, 499, 599)}
    expected |= {("other", status): 1 for status in (100, 200, 499, 599)}
    assert first.totals() == second.totals() == expected


def test_a_new_worker_has_no_connections() -> None:
    """What a dead worker had open is not its successor's."""
    memory = BoardMemory()
    Board(memory).connections = 17
    assert Board(memory).connections_of_all() == {1: 0}


def test_processes_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """A worker that was killed is not measured until its successor has started; the others are."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        janitor = min(server.process.children(), key=psutil.Process.create_time)
        janitor.kill()
        wait_until(lambda: value(scrape(server), "stat7_processes_replaced_total") == 1)
        assert len(scrape(server)["stat7_process_open_fds"]) >= 2
