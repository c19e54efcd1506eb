"""What reaches no handler, or reaches it in unusual ways: pipelining, half-closed and malformed requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import aiohttp

from stat7store.client import Client
from tests.running import RunningServer, recorded


async def talk(server: RunningServer, *pieces: bytes, end: bool = True) -> bytes:
    """Send pieces one after the other, end our side if asked to, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        if end:
            writer.write_eof()
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def upload(server: RunningServer, path: Path) -> str:
    """Store a file; return its address."""
    async with aiohttp.ClientSession(server.url) as client, client.post("/v1/files", data=path.read_bytes()):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def request(address: str, name: str, *headers: str) -> bytes:
    """Put a GET together by hand."""
    lines = [f"GET /v1/files/{address} HTTP/1.1", "Host: localhost", f"X-Request-ID: {name}", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def test_malformed_requests_get_a_problem_document(server: RunningServer) -> None:
    """What is no HTTP is answered 400 by a problem document, and the connection closes."""
    for garbage in (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ):
        answer = await talk(server, garbage, end=False)
        assert b" 400 " in answer.splitlines()[0], garbage
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/malformed"


async def test_pipelined_requests_are_answered_in_order(server: RunningServer, samples: Path) -> None:
    """Several requests in one piece are answered in order, each with a queue time that waits for the ones before."""
    address = await upload(server, samples / "hubble_deep_field.jpg")
    last = request(address, "pipe.2", "Range: bytes=-5", "Connection: close")
    answer = await talk(server, request(address, "pipe.0") + request(address, "pipe.1", "Range: bytes=0-9") + last)
    assert answer.count(b"HTTP/1.1 20") == 3
    assert answer.index(b"pipe.0") < answer.index(b"pipe.1") < answer.index(b"pipe.2")
    assert answer.endswith((samples / "hubble_deep_field.jpg").read_bytes()[-5:])
    async with Client(server.url) as client:
        queues = [(await recorded(client, f"pipe.{number}")).queue_ms for number in range(3)]
    assert queues[0] < queues[1] < queues[2]


async def test_a_request_in_many_pieces_is_one_request(server: RunningServer, samples: Path) -> None:
    """A request that arrives byte by byte is answered once, its queue time counted from its last byte."""
    address = await upload(server, samples / "rocket.jpg")
    whole = request(address, "pieces", "Range: bytes=0-9", "Connection: close")
    answer = await talk(server, whole[:10], whole[10:60], whole[60:-1], whole[-1:], end=False)
    assert answer.count(b"HTTP/1.1 206") == 1
    async with Client(server.url) as client:
        assert (await recorded(client, "pieces")).total_ms < 1000 * 60


async def test_a_client_that_ended_its_side_is_answered(server: RunningServer, samples: Path) -> None:
    """Ending one's side right after the request is no reason to be left without the answer."""
    address = await upload(server, samples / "astronaut.png")
    answer = await talk(server, request(address, "half"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert body == (samples / "astronaut.png").read_bytes()
