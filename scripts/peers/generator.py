"""The client: one process, one core, raw sockets. Takes a ``Work`` as JSON on standard input, prints what was ``Done``.

A closed loop for what wrk cannot do: HEAD, each file once, uploads in two steps, new bytes for each.
"""

from __future__ import annotations

import gc
import hashlib
import random
import re
import select
import sys
import time
from collections import deque

import msgspec

from scripts.peers.wire import Answer, Connection
from scripts.peers.work import Ask, Done, Work, Writes, head

_WRITTEN = (200, 201, 204)
_ACCEPTED = 202
_LOOK_S = 1.0
_DRAIN_S = 30.0
_LOCATION = re.compile(rb"\r\nlocation: *(\S+)\r\n", re.IGNORECASE)


class Load:
    """Carries out one ``Work``."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._chance = random.Random()  # noqa: S311 - a choice of files, not a secret
        self._once = iter(self._chance.sample(work.asks, len(work.asks)))
        self._label = work.writes.first if work.writes else 0
        self._poll = select.epoll()
        buffer = bytearray(1024**2)
        self._connections: dict[int, Connection] = {}
        for _ in range(work.connections):
            connection = Connection(work.port, self._poll, buffer)
            self._connections[connection.socket.fileno()] = connection
        self._idle = deque(self._connections.values())
        self._latencies: list[float] = []
        self._last = self._ends = 0.0
        self._sent = 0
        self._most = len(work.asks) if work.once else work.most or sys.maxsize
        self._errors = 0
        self._error = ""

    def run(self) -> Done:
        """Do it all, and close the connections."""
        work = self._work
        gc.freeze()
        gc.disable()
        cpu, begun = time.process_time(), time.perf_counter()
        self._ends = begun + (_DRAIN_S if work.once else work.seconds)
        self._turn(begun)
        spent = time.process_time() - cpu
        for connection in self._connections.values():
            connection.close()
        self._latencies.sort()
        return Done(
            requests=len(self._latencies),
            seconds=max(self._last - begun, 1e-9),  # to the last answer: a slow peer gives none before the end
            p50_ms=self._percentile(0.5),
            p99_ms=self._percentile(0.99),
            client_cpu_s=spent,
            errors=self._errors,
            error=self._error,
        )

    def _turn(self, begun: float) -> None:
        now, clock, poll, connections = begun, time.perf_counter, self._poll, self._connections
        while True:
            while self._idle and not self._is_over(now):
                self._sent += 1
                self._begin(self._idle.popleft(), now)
            if len(self._idle) == len(connections) and self._is_over(now):
                return
            if now > self._ends + _DRAIN_S or not connections:
                self._fail("some answers did not come")
                return
            for number, event in poll.poll(_LOOK_S):
                connection = connections[number]
                try:
                    connection.ready(event)
                except (OSError, ValueError) as error:
                    self._fail(str(error))
                    connection.close()
                    del connections[number]
            now = clock()

    def _is_over(self, now: float) -> bool:
        return now >= self._ends or self._sent >= self._most

    def _begin(self, connection: Connection, asked_at: float) -> None:
        work = self._work
        if work.writes is not None and (not work.asks or self._chance.random() < work.write_share):
            self._write(connection, work.writes, asked_at)
            return
        ask = next(self._once) if work.once else work.asks[int(self._chance.random() * len(work.asks))]
        self._read(connection, ask, asked_at)

    def _read(self, connection: Connection, ask: Ask, asked_at: float) -> None:
        def answered(answer: Answer) -> None:
            right = answer.status == ask.status and answer.size == ask.size
            self._end(connection, asked_at, "" if right else f"{answer.status} with {answer.size} bytes")

        connection.answered = answered
        connection.send([ask.request], bodiless=ask.request.startswith(b"HEAD "))

    def _write(self, connection: Connection, writes: Writes, asked_at: float) -> None:
        label, self._label = b"%d" % self._label, self._label + 1
        body = (writes.before, label, writes.after)
        size, port, writing = sum(map(len, body)), self._work.port, writes.writing

        def answered(answer: Answer) -> None:
            if writing.in_two_steps and answer.status == _ACCEPTED:
                digest = hashlib.sha256(b"".join(body)).hexdigest()
                where = f"{_location(answer.head)}&digest=sha256:{digest}"
                connection.send([head("PUT", where, port, f"Content-Length: {size}"), *body])
                return
            self._end(connection, asked_at, "" if answer.status in _WRITTEN else f"{answer.status} to a write")

        connection.answered = answered
        path = writing.path.replace("{label}", label.decode())
        if writing.in_two_steps:
            connection.send([head(writing.method, path, port, "Content-Length: 0")])
        else:
            connection.send([head(writing.method, path, port, f"Content-Length: {size}"), *body])

    def _end(self, connection: Connection, asked_at: float, wrong: str) -> None:
        now = time.perf_counter()
        self._idle.append(connection)
        self._last = now
        if wrong:
            self._fail(wrong)
            return
        self._latencies.append(now - asked_at)

    def _fail(self, error: str) -> None:
        self._errors += 1
        self._error = self._error or error

    def _percentile(self, part: float) -> float:
        found = self._latencies
        return found[min(int(len(found) * part), len(found) - 1)] * 1000 if found else 0.0


def _location(head_of_answer: bytes) -> str:
    found = _LOCATION.search(head_of_answer)
    if found is None:
        raise ValueError("no Location to upload to")
    return re.sub(r"^http://[^/]*", "", found[1].decode())


def main() -> None:
    """Read a ``Work``, carry it out, print what was done."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    sys.stdout.buffer.write(msgspec.json.encode(Load(work).run()))


if __name__ == "__main__":
    main()
