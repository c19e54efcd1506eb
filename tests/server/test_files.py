"""Records, changes, lists, existence, timings, statistics and health over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stat7store.client import Client
from stat7store.timing import STAGES
from tests.media import distinct_jpeg
from tests.running import RunningServer, recorded

BACKENDS = ("filesystem", "s3")

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "no_time_for_that_tiny.gif")
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4")


@pytest.fixture(scope="module")
def stored(server: RunningServer, samples: Path) -> dict[str, str]:
    """Real photographs and clips, stored; their addresses by name."""

    async def store() -> dict[str, str]:
        addresses = {}
        async with aiohttp.ClientSession(server.url) as client:
            for name in (*PHOTOS, *CLIPS):
                data = io.BytesIO((samples / name).read_bytes())
                async with client.post("/v1/files", data=data, headers={"X-Filename": name}) as response:
                    addresses[name] = (await response.json())["address"]
        return addresses

    return asyncio.run(store())


@pytest.fixture
async def client(server: RunningServer, stored: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the module's server, after everything was stored."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def get(client: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    """GET a path; return its JSON."""
    async with client.get(path) as response:
        document = json.loads(await response.read())
        assert response.status == status, document
        return document


async def patch(
    client: aiohttp.ClientSession, address: str, change: object, status: int = 200, if_match: str = "*"
) -> dict[str, Any]:
    """PATCH a record; return the answer."""
    async with client.patch(f"/v1/files/{address}/metadata", json=change, headers={"If-Match": if_match}) as response:
        document = dict(json.loads(await response.read()))
        assert response.status == status, document
        return document


async def test_a_record_can_be_read_and_changed(client: aiohttp.ClientSession, stored: dict[str, str]) -> None:
    """A merge patch changes what a person may change, under the next revision; null puts the default back."""
    address = stored["astronaut.png"]
    before = await get(client, f"/v1/files/{address}/metadata")
    assert "created" not in before
    change = {"filename": "Eileen.png", "tags": ["nasa", "portrait", "nasa"], "horizon": "peak", "resonance": 0.75}
    after = await patch(client, address, change)
    assert after["revision"] == before["revision"] + 1
    assert (after["filename"], after["tags"]) == ("Eileen.png", ["nasa", "portrait"])
    assert (after["coordinates"]["horizon"], after["coordinates"]["resonance"]) == ("peak", 0.75)
    assert after["uri"].startswith("stat7://image/1/") and "/peak?r=0.75&" in after["uri"]
    assert after["address"] == before["address"]
    assert await get(client, f"/v1/files/{address}/metadata") == after
    reset = await patch(client, address, {"tags": None, "horizon": None, "resonance": None})
    assert (reset["tags"], reset["coordinates"]["horizon"], reset["coordinates"]["resonance"]) == ([], "genesis", 0.0)


async def test_a_lost_race_is_a_conflict(client: aiohttp.ClientSession, stored: dict[str, str]) -> None:
    """If-Match with the record's ETag lets the first change in and refuses the second with 409."""
    address = stored["coffee.png"]
    async with client.get(f"/v1/files/{address}/metadata") as response:
        tag = response.headers["ETag"]
    await patch(client, address, {"resonance": 0.1}, if_match=tag)
    refusal = await patch(client, address, {"resonance": 0.2}, 409, if_match=tag)
    assert refusal["type"] == "/problems/conflict"
    assert (await get(client, f"/v1/files/{address}/metadata"))["coordinates"]["resonance"] == 0.1
    await patch(client, address, {"resonance": 0.2}, 400, if_match="seven")


@pytest.mark.parametrize(
    "change",
    [
        {"resonance": 1.5},
        {"resonance": "high"},
        {"horizon": "dawn"},
        {"tags": ["", "x"]},
        {"tags": ["line\nbreak"]},
        {"tags": ["t"] * 65},
        {"filename": "n" * 256},
        {"filename": "a\u0007b"},
        {"adjacency": ["not an address"]},
        {"adjacency": ["0" * 64]},
        {"size": 1},
        {"coordinates": {"realm": "movie"}},
        [],
        "text",
    ],
)
async def test_a_bad_change_is_refused(client: aiohttp.ClientSession, stored: dict[str, str], change: object) -> None:
    """What cannot be a record's value, or may not be changed, gives 400 and changes nothing."""
    address = stored["chelsea.png"]
    before = await get(client, f"/v1/files/{address}/metadata")
    assert (await patch(client, address, change, 400))["type"] == "/problems/malformed"
    assert await get(client, f"/v1/files/{address}/metadata") == before


async def test_neighbours_are_linked_and_leave(client: aiohttp.ClientSession, samples: Path) -> None:
    """Adjacency names stored files, is kept sorted, can be searched, and a deleted neighbour leaves it."""
    addresses = []
    for number in range(3):
        data = distinct_jpeg((samples / "rocket.jpg").read_bytes(), number)
        async with client.post("/v1/files", data=data) as response:
            addresses.append((await response.json())["address"])
    first, *others = addresses
    record = await patch(client, first, {"adjacency": sorted(others, reverse=True)})
    assert record["coordinates"]["adjacency"] == sorted(others)
    found = await get(client, f"/v1/files?adjacency={others[0]}")
    assert [file["address"] for file in found["files"]] == [first]
    await patch(client, first, {"adjacency": [first]}, 400)
    async with client.delete(f"/v1/files/{others[0]}") as response:
        assert response.status == 204
    after = await get(client, f"/v1/files/{first}/metadata")
    assert after["coordinates"]["adjacency"] == [others[1]]
    assert after["revision"] == record["revision"] + 1
    for address in (first, others[1]):
        async with client.delete(f"/v1/files/{address}") as response:
            assert response.status == 204


async def test_what_is_deleted_is_gone(client: aiohttp.ClientSession, samples: Path) -> None:
    """After a DELETE, which is answered 204 once and 404 then, no call knows the file any more."""
    data = distinct_jpeg((samples / "rocket.jpg").read_bytes(), 50)
    address = hashlib.sha256(data).hexdigest()
    async with client.put(f"/v1/files/{address}", data=data) as response:
        assert response.status == 201
    for status in (204, 404):
        async with client.delete(f"/v1/files/{address}") as response:
            assert response.status == status
    for path in ("", "/metadata"):
        assert (await get(client, f"/v1/files/{address}{path}", 404))["type"] == "/problems/not-found"
    async with client.post("/v1/exists", json={"addresses": [address]}) as response:
        assert await response.json() == {"present": [], "missing": [address]}


async def test_exists_tells_present_from_missing(client: aiohttp.ClientSession, stored: dict[str, str]) -> None:
    """Up to 1,000 addresses are sorted into present and missing, in the order given; more are refused."""
    missing = [hashlib.sha256(bytes([number])).hexdigest() for number in range(100)]
    asked = [*missing[:50], *stored.values(), *missing[50:]]
    async with client.post("/v1/exists", json={"addresses": asked}) as response:
        assert await response.json() == {"present": list(stored.values()), "missing": missing}
    for wrong in ({"addresses": missing[:1] * 1001}, {"addresses": ["x"]}, {}, {"addresses": 7}):
        async with client.post("/v1/exists", json=wrong) as response:
            assert response.status == 400


async def test_lists_filter_sort_and_page(client: aiohttp.ClientSession, stored: dict[str, str]) -> None:
    """Filters narrow, sorts order, and pages of any size put together give the same list."""
    everything = (await get(client, "/v1/files?limit=1000"))["files"]
    assert {file["address"] for file in everything} >= set(stored.values())
    movies = await get(client, "/v1/files?realm=movie&sort=size")
    assert [file["filename"] for file in movies["files"]] == ["bikes.mp4", "bigbuckbunny.mp4"]
    assert movies["scanned"] >= 2
    assert movies["elapsed_ms"] > 0
    gifs = await get(client, "/v1/files?media_type=image/gif")
    assert [file["address"] for file in gifs["files"]] == [stored["no_time_for_that_tiny.gif"]]
    named = await get(client, "/v1/files?name=BUNNY")
    assert [file["address"] for file in named["files"]] == [stored["bigbuckbunny.mp4"]]
    paged = []
    path = "/v1/files?limit=2&sort=-size"
    page = await get(client, path)
    while True:
        assert len(page["files"]) <= 2
        paged += page["files"]
        if page["cursor"] is None:
            break
        page = await get(client, f"{path}&cursor={page['cursor']}")
    assert [file["size"] for file in paged] == sorted((file["size"] for file in everything), reverse=True)


BAD_QUERIES = (
    "limit=0 limit=1001 limit=x sort=name colour=red lineage=-1 density_min=nan realm= realm=a&realm=b adjacency=zz "
    "stored_after=yesterday stored_after=2026-01-01T00:00:00 cursor=zz horizon=dawn"
)


@pytest.mark.parametrize("query", BAD_QUERIES.split())
async def test_a_bad_query_is_refused(client: aiohttp.ClientSession, query: str) -> None:
    """A parameter that is unknown, doubled or not of its form gives 400 and a document that says so."""
    document = await get(client, f"/v1/files?{query}", 400)
    assert document["type"] == "/problems/malformed"


async def test_timings_are_seen_from_any_worker(
    client: aiohttp.ClientSession, stored: dict[str, str], server: RunningServer
) -> None:
    """Whichever worker served a retrieval, every worker tells of it, by id and among the recent."""
    served: set[int] = set()
    for number in range(40):
        name = {"X-Request-ID": f"seen.{number}"}
        async with (
            aiohttp.ClientSession(server.url) as one,  # a connection of its own may get another worker
            one.get(f"/v1/files/{stored['rocket.jpg']}", headers=name) as got,
        ):
            await got.read()
            assert got.headers["X-Request-ID"] == f"seen.{number}"
        async with Client(server.url) as another:
            timing = await recorded(another, f"seen.{number}")
        served.add(timing.worker)
        stages = [getattr(timing, f"{stage}_ms") for stage in STAGES]
        assert all(value >= 0 for value in stages)
        assert sum(stages) <= timing.total_ms
        assert timing.address == stored["rocket.jpg"]
    assert served == {1, 2}
    recent = (await get(client, "/v1/timings?limit=10"))["timings"]
    assert [timing["request_id"] for timing in recent[:3]] == ["seen.39", "seen.38", "seen.37"]
    slowest = (await get(client, "/v1/timings?limit=5&slowest=true"))["timings"]
    totals = [timing["total_ms"] for timing in slowest]
    assert totals == sorted(totals, reverse=True)
    await get(client, "/v1/timings/never", 404)
    await get(client, "/v1/timings?limit=20000", 400)


async def test_statistics_cover_all_workers(
    client: aiohttp.ClientSession, stored: dict[str, str], server: RunningServer
) -> None:
    """Totals match what is stored, and each stage has percentiles since start and over the last minute."""
    name = {"X-Request-ID": "for.the.statistics"}
    async with client.get(f"/v1/files/{stored['rocket.jpg']}", headers=name) as response:
        await response.read()
    async with Client(server.url) as other:
        await recorded(other, "for.the.statistics")
    stats = await get(client, "/v1/stats")
    files = (await get(client, "/v1/files?limit=1000"))["files"]
    assert (stats["files"], stats["bytes"]) == (len(files), sum(file["size"] for file in files))
    assert stats["by_realm"]["movie"]["files"] == 2
    assert {worker["worker"] for worker in stats["workers"]} == {1, 2}
    for period in ("since_start", "last_minute"):
        for stage in (*STAGES, "total"):
            summary = stats["stages"][period][stage]
            assert summary["count"] > 0
            assert (
                summary["p50_ms"] <= summary["p90_ms"] <= summary["p99_ms"] <= summary["p999_ms"] <= summary["max_ms"]
            )


async def test_health(client: aiohttp.ClientSession) -> None:
    """A server that can serve is alive and ready."""
    assert await get(client, "/healthz") == {"status": "alive"}
    assert await get(client, "/readyz") == {"status": "ready"}


async def test_what_is_not_there_is_a_problem_document(client: aiohttp.ClientSession) -> None:
    """An unknown path and a method that a path does not take are answered by problem documents too."""
    assert (await get(client, "/v2/files", 404))["type"] == "/problems/not-found"
    async with client.put("/v1/stats") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
        assert (await response.json(content_type=None))["type"] == "/problems/method-not-allowed"
    async with client.get("/healthz", headers={"X-Request-ID": "bad id"}) as response:
        assert response.headers["X-Request-ID"] not in ("", "bad id")
