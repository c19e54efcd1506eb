"""Many clients, and large files."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.media import distinct_jpeg, large_mp4
from tests.running import RunningServer, wait_until

CLIENTS = 64
GIB = 1024**3
MIB = 1024**2


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_many_clients_store_everything_once(tmp_path: Path, samples: Path) -> None:
    """64 clients upload 1,000 distinct and 1,000 equal files at once: 1,001 are stored, each verified by its hash."""
    base = (samples / "rocket.jpg").read_bytes()
    distinct = [distinct_jpeg(base, number) for number in range(1000)]
    waiting = [data for pair in zip(distinct, [base] * 1000, strict=True) for data in pair]
    created: list[bool] = []
    with RunningServer(tmp_path / "data") as server:

        async def client() -> None:
            async with aiohttp.ClientSession(server.url) as session:
                while waiting:
                    async with session.post("/v1/files", data=waiting.pop()) as response:
                        assert response.status in (200, 201), await response.text()
                        created.append((await response.json())["created"])

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        assert len(created) == 2000
        assert sum(created) == 1001
        async with aiohttp.ClientSession(server.url) as session:
            async with session.get("/v1/stats") as response:
                stats = await response.json()
            assert stats["files"] == 1001
            assert stats["bytes"] == sum(map(len, distinct)) + len(base)
            for data in (base, *distinct):
                address = hashlib.sha256(data).hexdigest()
                async with session.get(f"/v1/files/{address}") as response:
                    assert response.status == 200
                    assert hashlib.sha256(await response.read()).hexdigest() == address
        wait_until(lambda: sum(1 for folder in (server.data / "blobs").glob("???") for _ in folder.iterdir()) == 1001)


def memory_of(processes: list[psutil.Process]) -> int:
    """Return the private memory of some processes, in bytes: page cache and shared maps do not count."""
    return sum(process.memory_full_info().uss for process in processes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_large_file_needs_no_memory(tmp_path: Path, soak: bool) -> None:
    """A file of half a GiB (--soak: 2 GiB) goes up and comes down whole; the server grows by less than 64 MiB."""
    large_mp4(tmp_path / "clip.mp4", 2 * GIB if soak else GIB // 2)
    with (tmp_path / "clip.mp4").open("rb") as file:
        address = hashlib.file_digest(file, "sha256").hexdigest()
    with RunningServer(tmp_path / "data", workers=1) as server:
        async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(1700)) as session:
            async with session.get("/healthz"):
                pass
            before = memory_of(server.processes)
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, memory_of(server.processes))
                    await asyncio.sleep(0.1)

            watching = asyncio.create_task(watch())
            with (tmp_path / "clip.mp4").open("rb") as file:
                async with session.put(f"/v1/files/{address}", data=file) as response:
                    assert response.status == 201, await response.text()
            digest = hashlib.sha256()
            async with session.get(f"/v1/files/{address}") as response:
                async for data in response.content.iter_chunked(MIB):
                    digest.update(data)
            watching.cancel()
        assert digest.hexdigest() == address
        assert most > 0
        assert most - before < 64 * MIB
