"""What is answered fastest is measured as well: bytes may be used again, times never."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.opening import open_store, prepare
from stat7store.server import fastlane
from stat7store.settings import Settings
from tests.running import RunningServer, serving_here
from tests.server.test_request_log import PATH, PICTURE, Client

DELAY_MS = 20.0
STAGES = ("index", "metadata", "disk")


def check_delay(stage: str, records: dict[str, dict[str, float]], server_timing: dict[str, str]) -> None:
    """The stage was slow in the answer named ``slow``, and nowhere else."""
    for name, record in records.items():
        told = {one: float(ms) for one, ms in re.findall(r"(\w+);dur=([\d.]+)", server_timing[name])}
        for one in STAGES:
            assert (record[f"{one}_ms"] >= DELAY_MS) == (name == "slow" and one == stage), (name, one, record)
            assert told[one] == pytest.approx(record[f"{one}_ms"], abs=0.0001)


@pytest.mark.parametrize("way", ["compiled", "pure"])
@pytest.mark.parametrize("stage", ["index", "metadata"])
async def test_a_slow_catalog_shows_on_the_hottest_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, stage: str
) -> None:
    """20 ms in the look-up of a file that is known well show in that record and header, and in that stage alone."""
    delays: Counter[str] = Counter()
    found = LmdbCatalog.find_now

    def find_now(self: LmdbCatalog, address: bytes) -> Any:
        answer = found(self, address)
        time.sleep(delays["metadata"] / 1000)
        return answer

    monkeypatch.setattr(LmdbCatalog, "find_now", find_now)
    if way == "pure":
        monkeypatch.setattr(fastlane, "Lane", None)
    settings = Settings(data=tmp_path / "data", access_log=False)
    prepare(settings)
    async with open_store(settings) as store:
        async with store.upload("a.png") as upload:
            await upload.write(PICTURE)
            await upload.commit()
        assert store.immediate is not None
        catalog: Any = store.immediate[0]
        begun: Callable[..., Any] = catalog._begin

        def begin(*arguments: Any) -> Any:
            time.sleep(delays["index"] / 1000)
            return begun(*arguments)

        catalog._begin = begin
        timings: dict[str, str] = {}
        async with serving_here(store, settings) as (url, board), aiohttp.ClientSession(url) as client:
            for name in ("warm-1", "warm-2", "warm-3", "before", "slow", "after"):
                delays[stage] = int(DELAY_MS) if name == "slow" else 0
                taken = board.summary()["counters"]["fast_lane"]
                async with client.get(PATH, headers={"X-Request-ID": name}) as response:
                    assert await response.read() == PICTURE
                    timings[name] = response.headers["Server-Timing"]
                assert name == "warm-1" or board.summary()["counters"]["fast_lane"] == taken + 1
            check_delay(stage, {name: vars_of(board.find(name)) for name in ("before", "slow", "after")}, timings)


def vars_of(timing: Any) -> dict[str, float]:
    """Return a record's durations."""
    return {f"{stage}_ms": getattr(timing, f"{stage}_ms") for stage in STAGES}


@pytest.mark.real
def test_a_slow_disk_shows_on_the_hottest_path(tmp_path: Path) -> None:
    """20 ms that the kernel takes to read from the page cache show in that record and header as disk."""
    strace = shutil.which("strace")
    assert strace is not None, "strace is missing; on Debian: apt-get install strace"
    with (
        RunningServer(tmp_path / "data", "--no-access-log", workers=1) as server,
        closing(Client(server.url)) as client,
    ):
        timings = {}
        for name in ("warm-1", "warm-2", "warm-3", "before"):
            timings[name] = client.timing(PATH, name)
        worker = server.process.children()[-1].pid
        delay = f"-einject=preadv,preadv2:delay_enter={int(DELAY_MS * 1000)}"
        with subprocess.Popen(
            [strace, f"-p{worker}", "-etrace=preadv,preadv2", delay], stderr=subprocess.PIPE
        ) as tracer:
            assert tracer.stderr is not None
            assert b"attached" in tracer.stderr.readline()
            timings["slow"] = client.timing(PATH, "slow")
            tracer.terminate()
            tracer.stderr.read()
        timings["after"] = client.timing(PATH, "after")
        records = {name: client.told(f"/v1/timings/{name}") for name in ("before", "slow", "after")}
        assert client.told("/v1/stats")["counters"]["fast_lane"] >= 4
    check_delay("disk", records, timings)
