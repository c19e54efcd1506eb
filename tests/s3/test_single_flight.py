"""Many workers, one cache, one bucket: what several miss at once is asked of S3 once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from storage.s3_options import S3Options
from tests.media import large_mp4
from tests.running import RunningServer
from tests.s3_proxy import S3Proxy, s3_proxy
from tests.s3_servers import S3Server

SIZE = 100_000_000
READERS = 8


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[S3Proxy]:
    """A proxy before moto."""
    with s3_proxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(moto_server: S3Server, proxy: S3Proxy) -> Iterator[S3Options]:
    """An empty bucket, as it is seen through the proxy."""
    with moto_server.bucket() as options:
        yield replace(options, endpoint_url=proxy.endpoint)


@pytest.mark.slow
async def test_a_miss_of_many_is_one_download(bucket: S3Options, proxy: S3Proxy, tmp_path: Path) -> None:
    """8 workers miss the same 100 MB at once: each byte of it is asked of S3 once, all get it, and then none is."""
    large_mp4(tmp_path / "clip.mp4", SIZE)
    with (tmp_path / "clip.mp4").open("rb") as file:
        address = hashlib.file_digest(file, "sha256").hexdigest()

    async def download(url: str) -> str:
        digest = hashlib.sha256()
        # a connection of its own, which any of the workers may take
        async with aiohttp.ClientSession() as client, client.get(f"{url}/v1/files/{address}") as response:
            async for data in response.content.iter_chunked(1 << 20):
                digest.update(data)
        return digest.hexdigest()

    server = RunningServer(
        tmp_path / "data", f"--cache-dir={tmp_path / 'cache'}", "--cache-size=1GiB", workers=READERS, bucket=bucket
    )
    with server:
        async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(240)) as client:
            with (tmp_path / "clip.mp4").open("rb") as file:
                async with client.put(f"/v1/files/{address}", data=file) as response:
                    assert response.status == 201, await response.text()
        proxy.asked.clear()
        for _ in range(2):
            assert await asyncio.gather(*(download(server.url) for _ in range(READERS))) == [address] * READERS
            gets = [asked.range for asked in proxy.asked if asked.is_get and address in asked.key]
            assert len(gets) == len(set(gets))
            assert covered(gets) == SIZE
    assert len(set(re.findall(r'"process":"(worker \d+)","method":"GET"', server.log))) > 1


def covered(ranges: list[str]) -> int:
    """Return how many bytes some ``Range`` headers ask for; fail if one asks for what another did."""
    ends = sorted(tuple(map(int, asked.removeprefix("bytes=").split("-"))) for asked in ranges)
    for (_, end), (start, _) in itertools.pairwise(ends):
        assert end < start, ends
    return sum(min(end, SIZE - 1) + 1 - start for start, end in ends)
