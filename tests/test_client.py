"""The public client, against a real server and real media, over whole and broken networks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from stat7store import errors
from stat7store.address import Address
from stat7store.client import ByteRange, Client, body
from stat7store.client.answers import decoded, error_of
from stat7store.errors import (
    Conflict,
    DigestMismatch,
    Malformed,
    NotAccepted,
    NotFound,
    Stat7Error,
    TooLarge,
    Unavailable,
)
from tests.faulty import Network, faulty
from tests.media import distinct_jpeg, distinct_mp4, sample
from tests.running import RunningServer, recorded

ROCKET = "rocket.jpg"
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Stat7Error) and kind is not Stat7Error
]


@pytest.fixture
async def client(server: RunningServer, samples: Path) -> AsyncIterator[Client]:
    """A client of the module's server."""
    async with Client(server.url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken bodies are resumed without long pauses."""
    monkeypatch.setattr(body, "FIRST_PAUSE_S", 0.001)


def photo(number: int) -> bytes:
    """A valid photograph that no other number has."""
    return distinct_jpeg(sample(ROCKET).read_bytes(), number)


def movie(number: int) -> bytes:
    """A valid clip of 1 MB that no other number has."""
    return distinct_mp4(sample("bigbuckbunny.mp4").read_bytes(), number)


async def in_pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    """The data as a stream."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_a_file_is_stored_and_fetched(client: Client, tmp_path: Path) -> None:
    """A file goes up under its own name, and its bytes come back by its address."""
    path = tmp_path / "rocket one.jpg"
    path.write_bytes(photo(1))
    sent: list[int] = []
    stored = await client.put(path, progress=sent.append)
    assert stored.created is True
    assert (stored.filename, stored.size, stored.media_type) == (path.name, len(photo(1)), "image/jpeg")
    assert stored.address == str(Address.of(photo(1)))
    assert sum(sent) == stored.size
    fetched = await client.get(stored.address)
    assert fetched.data == photo(1)
    assert (await client.put(path)).created is False


async def test_bytes_and_streams_are_stored(client: Client) -> None:
    """Bytes and streams, with and without an announced length, are stored like files."""
    sources: list[bytes | AsyncIterator[bytes]] = [photo(2), in_pieces(photo(3)), in_pieces(photo(4))]
    for number, source in enumerate(sources, start=2):
        stored = await client.put(source, filename=f"{number}.jpg", size=len(photo(4)) if number == 4 else None)
        assert stored.address == str(Address.of(photo(number)))
        assert stored.filename == f"{number}.jpg"


@pytest.mark.parametrize("name", ["bücher “x”.jpg", "50% off;=.jpg", 'quo"ted\\.jpg', "日本語.jpg", "a'b.jpg"])
async def test_names_arrive_as_they_are(client: Client, name: str) -> None:
    """File names of all scripts, with quotes and percent signs, arrive as they were given."""
    address = (await client.put(photo(5), filename=name)).address
    kept = name.rpartition("\\")[2]  # the server keeps the last component of a path of any system
    await client.delete(address)
    stored = await client.put(photo(5), filename=name)
    assert stored.filename == kept
    await client.delete(address)


async def test_a_wrong_address_keeps_nothing(client: Client) -> None:
    """Bytes that do not hash to the address they are put under are refused, and nothing is kept."""
    wrong = Address.of(b"something else")
    with pytest.raises(DigestMismatch) as refused:
        await client.put(photo(6), address=wrong)
    assert refused.value.facts == {"expected": str(wrong), "actual": str(Address.of(photo(6)))}
    assert (await client.exists([wrong, Address.of(photo(6))])).present == []
    assert (await client.put(photo(6), address=Address.of(photo(6)).uri)).created is True


async def test_what_is_no_medium_is_refused(client: Client) -> None:
    """A refusal that comes before all is sent arrives as the project's error, with its facts."""
    with pytest.raises(NotAccepted) as refused:
        await client.put(b"plain text " * 1_000_000)
    assert refused.value.facts["found"] == "text/plain"
    with pytest.raises(Malformed, match="empty"):
        await client.put(b"")


async def test_a_source_that_fails_says_so(client: Client, tmp_path: Path) -> None:
    """The error of a source that cannot be read reaches the caller, and nothing is kept."""
    with pytest.raises(FileNotFoundError):
        await client.put(tmp_path / "missing.jpg")
    with pytest.raises(IsADirectoryError):
        await client.put(tmp_path)
    head = photo(7)[:5000]  # is taken for a photograph
    with pytest.raises(Malformed, match="announced"):
        await client.put(in_pieces(head), size=len(head) + 1)

    async def failing() -> AsyncIterator[bytes]:
        yield head
        raise OSError(5, "the disk is broken")

    with pytest.raises(OSError, match="disk is broken"):
        await client.put(failing())
    assert (await client.exists([Address.of(head)])).present == []


async def test_each_retrieval_is_measured(server: RunningServer) -> None:
    """A retrieval tells how long connection, first byte and all took, and leads to the server's record."""
    async with Client(server.url) as fresh:
        address = (await fresh.put(movie(1))).address
    async with Client(server.url) as fresh:
        first, second = [(await fresh.get(address)).retrieval for _ in range(2)]
        for retrieval in (first, second):
            assert 0 <= retrieval.connect_ms <= retrieval.first_byte_ms <= retrieval.total_ms
            assert (retrieval.address, retrieval.span) == (Address.parse(address), (0, len(movie(1))))
            assert retrieval.breaks == 0
            timing = await recorded(fresh, retrieval.request_id)
            assert (timing.address, timing.bytes) == (address, len(movie(1)))
            # the server may record its last step after the client has read the last byte, but what it did before
            # the first byte the client cannot have waited for less long
            before = timing.queue_ms + timing.index_ms + timing.metadata_ms + timing.disk_first_ms
            assert 0 < before <= retrieval.first_byte_ms
            assert before + timing.network_ms <= timing.total_ms
        assert first.connect_ms > 0
        assert second.connect_ms == 0  # the connection was kept
        assert first.request_id in [timing.request_id for timing in await fresh.timings(10)]
        with pytest.raises(NotFound):
            await fresh.timing("no-such-retrieval")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (ByteRange(0, 99), slice(0, 100)),
        (ByteRange(1000, 70_000), slice(1000, 70_001)),
        (ByteRange(100_000), slice(100_000, None)),
        (ByteRange(last=500), slice(-500, None)),
        (ByteRange(112_000, 10**9), slice(112_000, None)),
    ],
)
async def test_ranges_are_the_bytes_asked_for(client: Client, tmp_path: Path, asked: ByteRange, kept: slice) -> None:
    """A range, closed, open or from the end, gives exactly those bytes, in memory and in a file."""
    address = (await client.put(photo(8))).address
    fetched = await client.get(address, asked)
    assert fetched.data == photo(8)[kept]
    assert fetched.retrieval.span.start == kept.indices(len(photo(8)))[0]
    await client.download(address, tmp_path / "part", asked)
    assert (tmp_path / "part").read_bytes() == photo(8)[kept]


async def test_a_range_beyond_the_file_is_refused(client: Client) -> None:
    """A range of which the file has no byte is refused with the size of the file."""
    address = (await client.put(photo(8))).address
    with pytest.raises(Malformed) as refused:
        await client.get(address, ByteRange(10**6, None))
    assert refused.value.facts["size"] == len(photo(8))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("0-99", ByteRange(0, 99)), ("100-", ByteRange(100)), ("-500", ByteRange(last=500)), ("7-7", ByteRange(7, 7))],
)
def test_ranges_are_read(text: str, parsed: ByteRange) -> None:
    """The three forms of a range are read, and written as HTTP has them."""
    assert ByteRange.parse(text) == parsed
    assert parsed.header == f"bytes={text}"


@pytest.mark.parametrize("text", ["", "-", "5", "a-b", "9-1", "1-2,4-5", " 1-2", "-1-2", "bytes=0-1", "1" * 30 + "-"])
def test_other_ranges_are_refused(text: str) -> None:
    """What is no single range is refused with the accepted forms."""
    with pytest.raises(Malformed) as refused:
        ByteRange.parse(text)
    assert refused.value.facts["expected"]


async def test_a_download_replaces_nothing_unasked(client: Client, tmp_path: Path) -> None:
    """A file that is there stays as it is, unless it may be overwritten."""
    address = (await client.put(photo(9))).address
    target = tmp_path / "photo.jpg"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        await client.download(address, target)
    assert target.read_bytes() == b"mine"
    await client.download(address, target, overwrite=True)
    assert target.read_bytes() == photo(9)
    assert os.listdir(tmp_path) == ["photo.jpg"]


async def test_a_download_appears_when_it_is_whole(client: Client, tmp_path: Path) -> None:
    """While the bytes come, the target is not there; a file that took its name meanwhile stays."""
    address = (await client.put(movie(2))).address
    target = tmp_path / "clip.mp4"

    def look(size: int) -> None:
        assert not target.exists()

    await client.download(address, target, progress=look)
    assert target.read_bytes() == movie(2)

    late = tmp_path / "late.mp4"

    def take_its_name(size: int) -> None:
        late.write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        await client.download(address, late, progress=take_its_name)
    assert late.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "late.mp4"]


@pytest.mark.parametrize("cuts", [[200_000], [300_000, 0, 1000], [500_000, 1000, 2000, 3000, 1]])
async def test_a_broken_body_is_resumed(server: RunningServer, tmp_path: Path, cuts: list[int]) -> None:
    """A body that breaks off is resumed where it broke, and what comes together is the file."""
    async with Client(server.url) as direct:
        address = (await direct.put(movie(3))).address
    network = Network(cuts)
    async with faulty(server.url, network) as url, Client(url) as client:
        retrieval = await client.download(address, tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == movie(3)
    assert 1 <= retrieval.breaks <= len(cuts)  # a break before the head is retried below HTTP
    assert network.connections == len(cuts) + 1


async def test_breaks_are_counted(server: RunningServer) -> None:
    """The retrieval tells how often its body broke off, and a range is resumed like a whole body."""
    async with Client(server.url) as direct:
        address = (await direct.put(movie(4))).address
    async with faulty(server.url, Network([100_000, 50_000])) as url, Client(url) as client:
        fetched = await client.get(address, ByteRange(1000, 900_000))
    assert fetched.data == movie(4)[1000:900_001]
    assert fetched.retrieval.breaks == 2


async def test_a_body_that_keeps_breaking_leaves_nothing(server: RunningServer, tmp_path: Path) -> None:
    """After a bounded number of breaks the retrieval fails, and nothing is left of it."""
    async with Client(server.url) as direct:
        address = (await direct.put(movie(5))).address
    network = Network([10_000] * 50)
    async with faulty(server.url, network) as url, Client(url) as client:
        with pytest.raises(Unavailable, match="broke"):
            await client.download(address, tmp_path / "clip.mp4")
    assert network.connections == body.MOST_BREAKS + 1
    assert os.listdir(tmp_path) == []


async def test_altered_bytes_never_reach_the_target(server: RunningServer, tmp_path: Path) -> None:
    """A byte that was altered on the way is found by the hash, and the target does not appear."""
    async with Client(server.url) as direct:
        address = (await direct.put(photo(10))).address
    async with faulty(server.url, Network(flip=50_000)) as url:
        async with Client(url) as client:
            with pytest.raises(DigestMismatch) as found:
                await client.download(address, tmp_path / "photo.jpg")
        async with Client(url) as client:
            with pytest.raises(DigestMismatch):
                await client.get(address)
    assert found.value.facts["expected"] == address
    assert os.listdir(tmp_path) == []


async def test_a_cancelled_download_leaves_nothing(server: RunningServer, tmp_path: Path) -> None:
    """A download that is given up takes its temporary file with it."""
    async with Client(server.url) as direct:
        address = (await direct.put(movie(6))).address
    network = Network(stall=300_000)
    async with faulty(server.url, network) as url, Client(url) as client:
        download = asyncio.create_task(client.download(address, tmp_path / "clip.mp4"))
        await network.stalled.wait()
        assert len(os.listdir(tmp_path)) == 1
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
    assert os.listdir(tmp_path) == []


async def test_a_body_can_be_left_early(client: Client) -> None:
    """Whoever has seen enough leaves the context; the client goes on to work."""
    address = (await client.put(movie(7))).address
    async with client.open(address) as opened:
        assert (opened.size, opened.media_type) == (len(movie(7)), "video/mp4")
        async for data in opened:
            assert movie(7).startswith(data)
            break
    assert opened.retrieval is None
    assert (await client.get(address)).data == movie(7)


async def test_a_record_is_changed(client: Client) -> None:
    """A person's fields can be changed and reset; a change to an old revision is refused."""
    address = (await client.put(photo(11), filename="a.jpg")).address
    other = (await client.put(photo(12))).address
    changed = await client.update(
        address, revision=1, filename="b.jpg", tags=["x", "a"], horizon="peak", resonance=0.5, adjacency=[other]
    )
    assert (changed.filename, changed.tags, changed.revision) == ("b.jpg", ["a", "x"], 2)
    assert (changed.coordinates.horizon, changed.coordinates.resonance) == ("peak", 0.5)
    assert changed.coordinates.adjacency == (other,)
    assert await client.metadata(address) == changed
    assert changed.created is UNSET
    with pytest.raises(Conflict) as refused:
        await client.update(address, revision=1, tags=[])
    assert refused.value.facts["actual"] == 2
    reset = await client.update(address, tags=None, resonance=None)
    assert (reset.tags, reset.coordinates.resonance, reset.filename) == ([], 0.0, "b.jpg")
    with pytest.raises(Malformed):
        await client.update(address, resonance=2.0)


async def test_a_deleted_file_is_gone(client: Client) -> None:
    """After a delete every call says that nothing is there."""
    address = Address.parse((await client.put(photo(13))).address)
    await client.delete(address)
    for call in (client.get(address), client.metadata(address), client.delete(address), client.update(address)):
        with pytest.raises(NotFound):
            await call


async def test_existence_of_many(client: Client) -> None:
    """More addresses than one request takes are asked about in parts, and answered in order."""
    address = (await client.put(photo(14))).address
    absent = [str(Address.of(b"%d" % number)) for number in range(2500)]
    found = await client.exists([*absent[:2000], address, *absent[2000:]])
    assert found.present == [address]
    assert found.missing == absent


async def test_lists_go_from_page_to_page(client: Client) -> None:
    """A list goes on over all pages, or stops at its limit; filters reach the server."""
    addresses = []
    for number in range(20, 27):
        stored = await client.put(photo(number), filename=f"listed {number}.jpg")
        await client.update(stored.address, tags=["listed"], resonance=number / 100)
        addresses.append(stored.address)
    page = await client.page(limit=3, tag="listed", sort="resonance")
    assert [file.address for file in page.files] == addresses[:3]
    rest = await client.page(limit=10, cursor=page.cursor, tag="listed", sort="resonance")
    assert [file.address for file in rest.files] == addresses[3:]
    found = [file.address async for file in client.files(tag="listed", resonance_min=0.22, sort="-resonance")]
    assert found == addresses[:1:-1]
    assert len([file async for file in client.files(limit=4, tag="listed")]) == 4
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    among = client.files(tag="listed", stored_after=now - hour, stored_before=now + hour, media_type="image/*")
    assert len([file async for file in among]) == 7
    assert [file async for file in client.files(tag="listed", stored_after=now + hour)] == []
    with pytest.raises(Malformed):
        await client.page(limit=5000)


async def test_statistics_and_health(client: Client, server: RunningServer) -> None:
    """Statistics hold totals and all stages; a server that answers is alive and ready."""
    address = (await client.put(photo(15))).address
    await client.get(address)
    stats = await client.stats()
    assert stats.files >= 1
    assert stats.by_realm["image"].bytes >= len(photo(15))
    assert set(stats.stages["since_start"]) == {"queue", "index", "metadata", "disk", "network", "total"}
    assert stats.stages["since_start"]["total"].count >= 1
    health = await client.health()
    assert (health.alive, health.ready) == (True, True)


async def test_a_server_that_is_not_there() -> None:
    """Without a server every call says that it cannot be reached, and what would start one."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"cannot reach .* refused.*stat7store serve"):
            await client.stats()
        health = await client.health()
        assert (health.alive, health.ready) == (False, False)


@pytest.mark.parametrize("url", ["", "127.0.0.1:7377", "ftp://127.0.0.1", "http://", "/v1"])
async def test_a_url_must_be_that_of_a_server(url: str) -> None:
    """What is no HTTP URL is refused before anything is asked."""
    with pytest.raises(Malformed, match="URL"):
        async with Client(url):
            pass


async def test_a_client_is_used_within_its_context() -> None:
    """A client that was not entered says so."""
    with pytest.raises(RuntimeError, match="async with"):
        await Client().stats()


async def test_a_malformed_address_is_refused_here(client: Client) -> None:
    """What is no address is refused without asking the server."""
    with pytest.raises(Malformed):
        await client.get("../secrets")


@pytest.mark.parametrize("kind", KINDS)
def test_every_problem_becomes_its_error(kind: type[Stat7Error]) -> None:
    """The problem document of each kind of error is raised as that very class, with its facts."""
    document = {"type": f"/problems/{kind.slug}", "title": kind.title, "status": 499, "detail": "so", "expected": 7}
    error = error_of(499, msgspec.json.encode(document))
    assert type(error) is kind
    assert (str(error), error.facts) == ("so", {"expected": 7})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.NotAllowed),
        (404, NotFound),
        (400, Malformed),
        (413, TooLarge),
        (502, Unavailable),
        (500, Stat7Error),
    ],
)
def test_other_answers_are_told_by_their_status(status: int, kind: type) -> None:
    """An answer that is no problem document, from a proxy say, is told by its status."""
    for answer in (b"<html>Bad Gateway</html>", b"", b"[]", b'{"type": "about:blank"}', b"\xff"):
        error = error_of(status, answer)
        assert type(error) is kind
        assert str(status) in str(error)


def test_an_answer_of_something_else_is_told() -> None:
    """A server that answers something else than a STAT7 store does is told apart."""
    with pytest.raises(Unavailable, match="STAT7"):
        decoded(b"<html>Welcome to nginx</html>", dict)
