"""Many clients that mean no good, in a process of their own: ``python -m tests.faults.hostile HOST PORT NUMBER``.

It prints a line once all have connected, and goes on until its standard input ends.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import resource
import sys
from collections.abc import Awaitable, Callable
from itertools import count

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_BODY = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(200 * 1024)
_BOMB = gzip.compress(bytes(10_000_000))
_POST = b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n%b\r\n"
_MALFORMED = (
    b"\0\xff\xfe\r\n\r\n",
    b"GET /v1/files HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(2000)) + b"\r\n",
    b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
    b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
)
_MALICE = random.Random(1)


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect, and say nothing."""
    await reader.read(1)


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a head that never ends, a byte at a time."""
    writer.write(b"GET /v1/files HTTP/1.1\r\nX-Slow: ")
    await _trickle(writer)


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce a large body, send the beginning of it, then a byte at a time."""
    writer.write(_POST % (10_000_000, b"") + _BODY)
    await _trickle(writer)


async def lying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce much and send little, or the other way round, and leave."""
    announced = _MALICE.choice((10, 1_000_000, 60 << 30, 1 << 62))
    writer.write(_POST % (announced, b"") + _BODY[:1000])
    await asyncio.sleep(0.2)


async def malformed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what is no HTTP."""
    writer.write(_MALICE.choice(_MALFORMED))
    await reader.read(1000)


async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send 10 KB that would unpack to 10 MB."""
    writer.write(_POST % (len(_BOMB), b"Content-Encoding: gzip\r\n") + _BOMB)
    await reader.read(1000)


ATTACKS: tuple[Attack, ...] = (*[idle] * 9, *[slow_head] * 4, *[slow_body] * 4, lying, malformed, bomb)


async def attack(host: str, port: int, number: int) -> None:
    """Run so many clients until standard input ends."""
    connected = asyncio.Event()
    left = count(number - 1, -1)

    async def once_more(kind: Attack) -> None:
        first = True
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                if first and next(left) == 0:
                    connected.set()
                first = False
                try:
                    await kind(reader, writer)
                finally:
                    writer.transport.abort()
            except OSError:
                pass
            await asyncio.sleep(0.5 + _MALICE.random())

    tasks = [asyncio.create_task(once_more(ATTACKS[each % len(ATTACKS)])) for each in range(number)]
    await connected.wait()
    print("all have connected", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _trickle(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        await asyncio.sleep(2 + _MALICE.random())
        writer.write(b"a")
        await writer.drain()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
