"""A network that breaks: a proxy before a real server that cuts, alters or stalls its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Network:
    """What becomes of the answers. ``cuts`` holds, connection by connection, after how many bytes it breaks.

    Connections beyond the list stay whole. ``flip`` is the offset of a byte that is altered on each
    connection; after ``stall`` bytes nothing more comes, but the connection stays open.
    """

    def __init__(self, cuts: Sequence[int | None] = (), flip: int | None = None, stall: int | None = None) -> None:
        self.cuts = list(cuts)
        self.flip = flip
        self.stall = stall
        self.connections = 0
        self.stalled = asyncio.Event()


@asynccontextmanager
async def faulty(url: str, network: Network) -> AsyncIterator[str]:
    """Yield the URL of a proxy before the server at ``url``."""
    target = urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        network.connections += 1
        cut = network.cuts.pop(0) if network.cuts else None
        up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        asking = asyncio.create_task(_copy(reader, up_writer))
        try:
            await _answer(up_reader, writer, network, cut)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            up_writer.close()
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, network: Network, cut: int | None
) -> None:
    sent = 0
    while data := await reader.read(65536):
        if network.flip is not None and sent <= network.flip < sent + len(data):
            altered = bytearray(data)
            altered[network.flip - sent] ^= 1
            data = bytes(altered)
        if network.stall is not None and sent + len(data) > network.stall:
            network.stalled.set()
            await asyncio.Event().wait()
        kept = data if cut is None else data[: max(cut - sent, 0)]
        sent += len(data)
        with suppress(ConnectionError):
            writer.write(kept)
            await writer.drain()
        if len(kept) < len(data):
            return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
