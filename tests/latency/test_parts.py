"""The parts of the latency test: choosing files, counting durations, loading, comparing, writing."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from stat7store.address import Address
from stat7store.errors import Malformed
from stat7store.latency.charts import lines, stacked_bars
from stat7store.latency.choosing import Target, chosen, part_of
from stat7store.latency.compare import compare
from stat7store.latency.histogram import Durations
from stat7store.latency.load import Load
from stat7store.latency.mixed import measure_mixed
from stat7store.latency.page import html_of, html_of_comparison
from stat7store.latency.phase1 import Maker, measure_rates, measure_scale
from stat7store.latency.ranges import check_ranges
from stat7store.latency.report import PARTS, TOTAL, Machine, Moment, Report, Run, Usage, read_report, write_report
from stat7store.latency.results import put_section, write_charts
from stat7store.latency.wire import Exchange
from storage.base import Span

TARGETS = [Target(Address.of(b"%d" % number), 100 + number) for number in range(200)]
Answer = Callable[[int], bytes]


def durations(*milliseconds: float) -> Durations:
    """Durations of these lengths."""
    counted = Durations()
    for length in milliseconds:
        counted.add(round(length * 1e6))
    return counted


def run_named(name: str, p50_ms: float = 1.0) -> Run:
    """A run whose every part took the same."""
    stages = {part: durations(*[p50_ms] * 100).summary(p50_ms * len(PARTS)) for part in PARTS}
    total = durations(*[p50_ms * len(PARTS)] * 100)
    return Run(
        name=name,
        files="images",
        file_count=int(name.split(maxsplit=1)[0]),
        load="closed",
        concurrency=1,
        rate=None,
        choice="uniform",
        shape="whole",
        temperature="warm",
        mix="100/0",
        requests=100,
        writes=0,
        joined=100,
        verified=100,
        bytes=1000,
        seconds=1.0,
        errors={},
        stages=stages | {TOTAL: total.summary()},
        sources={"page cache": 100},
        percentiles=total.curve(),
        over_time=[Moment(0.0, 50, 1.0, 2.0), Moment(0.5, 50, 1.0, 3.0)],
        usage=Usage(1.0, 1000, 0.5),
    )


def report_of(*runs: Run) -> Report:
    """A report of these runs."""
    return Report(
        version="0",
        made_at="2026-01-01T00:00:00Z",
        command="latency --images 5 --server '<b>&'",
        machine=Machine("Linux", "a processor", 2, 1 << 30, "3.11"),
        server="started",
        built=["made"],
        runs=list(runs),
    )


@asynccontextmanager
async def answering(answer: Answer, stall: Callable[[int], float] = lambda number: 0.0) -> AsyncIterator[int]:
    """A server that answers the nth request with given bytes, after given seconds; yields its port."""
    count = 0
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        handlers.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                number, count = count, count + 1
                await asyncio.sleep(stall(number))
                data = answer(number)
                writer.write(data)
                if not data:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, handlers))


def asking(body: bytes, count: int) -> list[Exchange]:
    """So many retrievals of a file with these bytes."""
    exchanges = [Exchange(number, b"GET / HTTP/1.1\r\n\r\n", Address.of(body), reads=True) for number in range(count)]
    for exchange in exchanges:
        exchange.expected_bytes = len(body)
    return exchanges


def whole(body: bytes) -> bytes:
    """An answer with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: y\r\n\r\n%s" % (len(body), body)


def test_each_file_is_chosen_once() -> None:
    """`each` yields every file exactly once, and not in the order given."""
    found = list(chosen(TARGETS, "each", random.Random(1)))
    assert sorted(found) == sorted(TARGETS)
    assert found != TARGETS


def test_zipf_prefers_few() -> None:
    """Under `zipf` the most popular tenth gets most requests; under `uniform` about a tenth of them."""
    for choice, least, most in (("zipf", 0.5, 1.0), ("uniform", 0.0, 0.2)):
        counts = Counter(islice(chosen(TARGETS, choice, random.Random(1)), 20_000))
        top = sum(count for _, count in counts.most_common(len(TARGETS) // 10)) / 20_000
        assert least < top < most, choice


def test_ranges_lie_in_their_file() -> None:
    """A range never passes the end of its file, and a file that is shorter is asked for whole."""
    chance = random.Random(1)
    for target in TARGETS:
        span = part_of(target, 150, chance)
        assert span is not None
        assert span.length == min(150, target.size)
        assert span.end <= target.size
    assert part_of(TARGETS[0], None, chance) is None


def test_percentiles_are_right_to_three_digits() -> None:
    """Percentiles are those of the durations within a thousandth; count, mean and maximum are exact."""
    counted = durations(*range(1, 1001))
    summary = counted.summary(1001)
    assert (summary.count, summary.mean_ms, summary.max_ms) == (1000, 500.5, 1000)
    for found, exact in ((summary.p50_ms, 500), (summary.p90_ms, 900), (summary.p99_ms, 990), (summary.p999_ms, 999)):
        assert found == pytest.approx(exact, rel=0.0011)
    assert summary.share == pytest.approx(0.5)


def test_durations_merge() -> None:
    """What two counted apart is, merged, what one had counted of all."""
    merged = durations(1, 2, 3)
    merged.merge(durations(10, 20, -1))
    assert merged.summary() == durations(1, 2, 3, 10, 20, -1).summary()


def test_a_negative_duration_keeps_the_sums() -> None:
    """The mean takes a negative duration as it is, so that parts add up; percentiles take it for none."""
    summary = durations(-2, 4).summary()
    assert (summary.mean_ms, summary.max_ms) == (1.0, 4.0)
    assert summary.p50_ms == 0


async def test_bytes_are_verified() -> None:
    """An answer that does not hash to the address, is short or is refused is an error; a right one is not."""
    answers = [whole(b"right"), whole(b"wrong"), whole(b"righ"), whole(b"right").replace(b"200", b"404"), b""]
    async with answering(lambda number: answers[number]) as port, Load("127.0.0.1", port, 1) as load:
        exchanges = asking(b"right", 5)
        await load.closed(exchanges)
    assert [exchange.error for exchange in exchanges] == [
        "",
        "wrong bytes",
        "wrong length",
        "status 404",
        "connection lost",
    ]
    assert [exchange.verified for exchange in exchanges] == [True, False, False, False, False]


async def test_ranges_are_compared_with_the_whole_file() -> None:
    """A range that holds other bytes than the file has there is an error; a right one is verified."""
    data = bytes(range(100))
    right, wrong = asking(data, 2)
    for exchange, came in ((right, data[10:20]), (wrong, data[11:21])):
        exchange.span, exchange.file_bytes = Span(10, 10), len(data)
        exchange.digest = hashlib.sha256(came).digest()

    async def fetch(address: Address) -> bytes:
        return data

    await check_ranges(fetch, [right, wrong])
    assert [(one.verified, one.error) for one in (right, wrong)] == [(True, ""), (False, "wrong bytes")]


async def test_a_body_in_pieces_is_verified() -> None:
    """A body that comes in many pieces is hashed whole."""
    body = random.Random(1).randbytes(3_000_000)
    async with answering(lambda number: whole(body)) as port, Load("127.0.0.1", port, 2) as load:
        exchanges = asking(body, 5)
        await load.closed(exchanges)
    assert all(exchange.verified and not exchange.error for exchange in exchanges)
    assert all(0 < exchange.sent <= exchange.first < exchange.last for exchange in exchanges)


async def test_nobody_to_talk_to() -> None:
    """When the server goes away, every request that is left ends as an error, and the load ends."""
    async with answering(lambda number: b"") as port:
        load = Load("127.0.0.1", port, 1)
        await load.__aenter__()
        first = asking(b"x", 1)
        await load.closed(first)
    exchanges = asking(b"x", 5)
    await asyncio.wait_for(load.closed(exchanges), 30)
    assert first[0].error == "connection lost"
    assert {exchange.error for exchange in exchanges} == {"cannot connect"}


async def test_a_closed_loop_keeps_to_its_concurrency() -> None:
    """With n connections, n requests are under way at a time and never more."""
    async with (
        answering(lambda number: whole(b"x"), lambda number: 0.01) as port,
        Load("127.0.0.1", port, 3) as load,
    ):
        exchanges = asking(b"x", 12)
        await load.closed(exchanges)
    for moment in [exchange.sent for exchange in exchanges]:
        assert sum(exchange.sent <= moment < exchange.last for exchange in exchanges) <= 3


async def test_an_open_loop_omits_nothing() -> None:
    """While one request stalls the only connection, those due meanwhile are late from their intended start."""
    stall_s, rate = 0.3, 100.0
    async with (
        answering(lambda number: whole(b"x"), lambda number: stall_s if number == 5 else 0.0) as port,
        Load("127.0.0.1", port, 1) as load,
    ):
        exchanges = asking(b"x", 40)
        await load.open(exchanges, rate)
    gaps = {later.intended - sooner.intended for sooner, later in pairwise(exchanges)}
    assert all(gap == pytest.approx(1e9 / rate, abs=2) for gap in gaps)
    stalled, after = exchanges[5:7]
    assert after.intended < stalled.last <= after.sent <= after.last
    assert after.sent - after.intended >= (stall_s - 1 / rate) * 0.9e9
    assert not any(exchange.error for exchange in exchanges)


def test_verdicts() -> None:
    """A stage is slower or faster by more than a tenth of its median, and otherwise the same."""
    before = report_of(run_named("5 images, whole, 1 at a time", 1.0), run_named("6 images, whole, 1 at a time"))
    for p50_ms, verdict in ((1.3, "slower"), (0.7, "faster"), (1.05, "same")):
        after = report_of(run_named("5 images, whole, 1 at a time", p50_ms))
        comparison = compare(before, after)
        assert {one.verdict for one in comparison.runs["5 images, whole, 1 at a time"]} == {verdict}
        assert comparison.unmatched == ["6 images, whole, 1 at a time"]
        assert verdict in html_of_comparison(comparison, "a", "b")
    with pytest.raises(Malformed, match="no run in common"):
        compare(before, report_of(run_named("7 images, whole, 1 at a time")))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    """JSON gives the report back; what is no report, or another format, is refused."""
    report = report_of(run_named("5 images, whole, 1 at a time"))
    path = tmp_path / "report.json"
    write_report(report, path)
    assert read_report(path) == report
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, format=99)))
    with pytest.raises(Malformed, match="format 99"):
        read_report(path)
    path.write_text("[]")
    with pytest.raises(Malformed, match="no report"):
        read_report(path)


def test_the_page_needs_nothing_else() -> None:
    """The page names no other place, runs no script, and takes nothing it was given for markup."""
    runs = [run_named(f"{count} images, whole, {load} at a time") for count in (5, 50) for load in (1, 8)]
    page = html_of(report_of(*runs))
    assert set(re.findall(r"https?://[^\"' )<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import", page)
    assert "&lt;b&gt;&amp;" in page
    assert page.count("<svg") == 2 * 3 + 1
    assert "prefers-color-scheme:dark" in page


def test_charts_take_what_there_is() -> None:
    """A chart of a single point, of nothing but zeros, or of no part at all is still a chart."""
    for chart in (
        lines("t", {"a": [(1.0, 0.0)]}, x_name="x", y_name="y"),
        lines("t", {"a": [(10.0, 1.0)]}, x_name="x", y_name="y", logarithmic_x=True),
        stacked_bars("t", [("a", {"b": 0.0, "c": -1.0}, "0 ms")]),
    ):
        assert chart.startswith("<svg")
        assert "nan" not in chart


def test_a_section_is_put_in_its_place(tmp_path: Path) -> None:
    """Writing a section again replaces it and leaves the others as they are."""
    path = tmp_path / "results.md"
    put_section(path, "one", "first")
    put_section(path, "two", "second")
    put_section(path, "one", "third")
    text = path.read_text()
    assert text.startswith("# Results\n")
    assert "first" not in text
    assert text.index("third") < text.index("second")
    put_section(path, "one", "third")
    assert path.read_text() == text


def test_a_section_takes_its_old_charts_along(tmp_path: Path) -> None:
    """Charts that a section does not show any more are deleted, and never those of another whose name begins alike."""
    path = tmp_path / "results.md"
    own, others = write_charts(path, "one", [("a", "1"), ("b", "2")]), write_charts(path, "one-more", [("a", "3")])
    put_section(path, "one", "\n".join(own))
    put_section(path, "one-more", "\n".join(others))
    put_section(path, "one", own[1])
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["one-b.svg", "one-more-a.svg"]


def test_entities_are_the_same_again() -> None:
    """The same seed makes the same entities, none of them twice; another seed makes others."""
    one, again, other = Maker(1), Maker(1), Maker(2)
    addresses = [one.file().record.address for _ in range(100)]
    assert addresses == [again.file().record.address for _ in range(100)]
    assert len({*addresses, *(other.file().record.address for _ in range(100))}) == 200


async def test_phase1_measures_every_load(tmp_path: Path) -> None:
    """A tiny scale has a figure for every load."""
    folder = tmp_path / "catalog"
    scale, addresses = await measure_scale(folder, 300)
    assert scale.lookup.count == scale.lookup_and_record.count > 0
    loads = await asyncio.to_thread(
        measure_mixed, {folder: addresses}, [300], seconds=0.05, parallel=[1, 2], rounds=2, show=lambda line: None
    )
    assert len(loads) == 2 + 2 * 2
    assert all(rates[300] > 0 for rates in loads.values())
    assert scale.bytes_per_entity > 0
    assert all(rate > 0 for rate in msgspec.structs.astuple(measure_rates(100)))
