"""Load on a server: as many requests at a time as asked for, or as many a second."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from stat7store.latency.wire import Exchange, Wire
from stat7store.timing import now_ns


class Load:
    """A number of connections to one server, kept open from one call to the next.

    Both ways of loading return when every exchange has ended; failures are told in ``Exchange.error``.
    """

    def __init__(self, host: str, port: int, connections: int) -> None:
        self._host = host
        self._port = port
        self._wires = [Wire(self._ended) for _ in range(connections)]
        self._idle: deque[Wire] = deque()
        self._waiting: deque[Exchange] = deque()
        self._source: Iterator[Exchange] = iter(())
        self._under_way = 0
        self._exhausted = True
        self._then = self._send_next
        self._all_ended: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(wire.connect(self._host, self._port) for wire in self._wires))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for wire in self._wires:
            wire.close()

    async def closed(self, exchanges: Sequence[Exchange]) -> None:
        """Closed loop: on every connection, the next request leaves as soon as the last has ended."""
        self._source = iter(exchanges)
        self._then = self._send_next
        self._exhausted = False
        self._all_ended = asyncio.get_running_loop().create_future()
        for wire in self._wires:
            self._send_next(wire)
        await self._all_ended

    async def open(self, exchanges: Sequence[Exchange], rate: float) -> None:
        """Open loop: ``rate`` requests a second leave at even times, whatever became of those before.

        ``Exchange.intended`` is the time a request was due, so its latency tells also how long it
        waited for a connection: no omission is coordinated with the server's slowness.
        """
        loop = asyncio.get_running_loop()
        self._then = self._rest
        self._exhausted = False
        self._all_ended = loop.create_future()
        self._idle = deque(self._wires)
        begun = now_ns()
        for number, exchange in enumerate(exchanges):
            exchange.intended = begun + int(number / rate * 1e9)
        due = iter(exchanges)

        def release(count: int) -> None:
            for _ in range(count):
                exchange = next(due, None)
                if exchange is None:
                    return
                self._under_way += 1
                self._waiting.append(exchange)
            self._send_waiting()

        def pace() -> None:
            # the event loop's own timer is coarser than a retrieval is long
            released = 0
            while released < len(exchanges):
                wait = (exchanges[released].intended - now_ns()) / 1e9
                if wait > 0:
                    time.sleep(wait)
                now, first = now_ns(), released
                while released < len(exchanges) and exchanges[released].intended <= now:
                    released += 1
                loop.call_soon_threadsafe(release, released - first)
            loop.call_soon_threadsafe(self._no_more)

        pacer = threading.Thread(target=pace, name="pacer", daemon=True)
        pacer.start()
        await self._all_ended
        pacer.join()

    def _no_more(self) -> None:
        self._exhausted = True
        self._settle()

    def _settle(self) -> None:
        if self._exhausted and not self._under_way and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    def _send_next(self, wire: Wire) -> None:
        exchange = next(self._source, None)
        if exchange is None:
            self._no_more()
            return
        self._under_way += 1
        exchange.intended = now_ns()
        self._send(wire, exchange)

    def _send_waiting(self) -> None:
        while self._waiting and self._idle:
            self._send(self._idle.popleft(), self._waiting.popleft())

    def _send(self, wire: Wire, exchange: Exchange) -> None:
        if wire.is_open:
            wire.send(exchange)
            return
        task = asyncio.ensure_future(self._connect_and_send(wire, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, wire: Wire, exchange: Exchange) -> None:
        try:
            await wire.connect(self._host, self._port)
        except OSError:
            exchange.error, exchange.last = "cannot connect", now_ns()
            exchange.sent = exchange.last
            self._ended(wire, exchange)
        else:
            wire.send(exchange)

    def _ended(self, wire: Wire, _: Exchange) -> None:
        self._under_way -= 1
        self._then(wire)

    def _rest(self, wire: Wire) -> None:
        self._idle.append(wire)
        self._send_waiting()
        self._settle()
