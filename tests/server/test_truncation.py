"""Bodies that end early while a handler waits for the rest of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.client import Client
from tests.media import distinct_jpeg
from tests.running import RunningServer

BACKENDS = ("filesystem", "s3")


@pytest.mark.parametrize("framing", ["length", "chunked", "form"])
async def test_a_body_that_stops_is_not_kept(server: RunningServer, samples: Path, framing: str) -> None:
    """When a client goes away after a pause in its body, what came until then is no file."""
    data = distinct_jpeg((samples / "rocket.jpg").read_bytes(), len(framing))
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + data
    body = {
        "length": b"Content-Length: %d\r\n\r\n" % (len(data) + 1) + data,
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(data) + data + b"\r\n",
        "form": b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n" % (len(part) + 9) + part,
    }[framing]
    for pause_s in (0.02, 0.2):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        try:
            writer.write(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n" + body)
            await writer.drain()
            await asyncio.sleep(pause_s)  # the handler has read all that came, and waits
            writer.write_eof()
            assert b" 400 " in (await reader.read()).splitlines()[0]
        finally:
            writer.close()
        async with Client(server.url) as client:
            assert (await client.exists([Address.of(data)])).present == []
