"""Sending what the fast lane answers, and recording what came of it."""

from __future__ import annotations

import os
from binascii import unhexlify
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from stat7store.server.node import Node
from stat7store.server.outgoing import CLIENT_GONE, stage_times, unsent
from stat7store.server.paths import FILES
from stat7store.server.request_log import RequestLog
from stat7store.timing import StageClock, now_ns
from storage.base import ImmediateFile, Span

if TYPE_CHECKING:
    from stat7store.server.connection import Connection


class Answer(NamedTuple):
    """An answer on its way out."""

    clock: StageClock
    request_id: str
    address: bytes
    method: str
    status: int
    range: str | None
    source: str | None


class Delivery:
    """Sends the answers of one worker's fast lane."""

    def __init__(self, node: Node, log: RequestLog) -> None:
        self._board = node.board
        self._backend = node.store.backend
        self._log = log

    def send(self, connection: Connection, head: bytes, body: memoryview, answer: Answer) -> None:
        """Send a head and bytes, all of which are ready; the buffer is free again on return."""
        begun = now_ns()
        try:
            taken = os.writev(connection.socket_number, (head, body))
        except BlockingIOError:
            taken = 0
        except OSError:
            connection.abort()
            self._end(connection, answer, begun, CLIENT_GONE, 0)
            return
        if taken == len(head) + len(body):
            self._end(connection, answer, begun, answer.status, len(body))
        else:
            rest = b"".join((head, body))[taken:]  # the buffer will be the next answer's
            self._send_rest(connection, rest, len(body), answer, begun)

    def send_file(self, connection: Connection, head: bytes, opened: ImmediateFile, span: Span, answer: Answer) -> None:
        """Send a head, then a span of an open file that is in memory."""
        connection.send_file(head, opened, span, self._written(connection, answer, now_ns(), span.length))

    def go_on(
        self,
        connection: Connection,
        method: str,
        digits: str,
        status: int,
        given: str,
        asked_range: str | None,
        source: str | None,
        rest: bytes,
        opened: ImmediateFile | None,
        start: int,
        length: int,
        sent: int,
        times: tuple[int, int, int, int, int, int, int],
    ) -> None:
        """Go on with an answer that ``_lane.c`` began: send ``rest``, then ``length`` bytes of a file, if any.

        ``sent`` of its bytes are sent, or will be with the rest.
        """
        clock = StageClock()
        clock.started, clock.queue, clock.index, clock.metadata, clock.disk_first, clock.disk, begun = times
        answer = Answer(clock, given, unhexlify(digits), method, status, asked_range, source)
        if opened is None:
            self._send_rest(connection, rest, sent, answer, begun)
        else:
            written = self._written(connection, answer, begun, sent + length)
            connection.send_rest_of_file(rest, opened, Span(start, length), lambda more: written(sent + more))

    def _send_rest(self, connection: Connection, rest: bytes, sent: int, answer: Answer, begun: int) -> None:
        def written(complete: bool) -> None:
            self._end(connection, answer, begun, answer.status if complete else CLIENT_GONE, sent if complete else 0)

        connection.write_rest(rest, written)

    def _written(self, connection: Connection, answer: Answer, begun: int, length: int) -> Callable[[int], None]:
        def written(sent: int) -> None:
            if sent < length:
                connection.abort()
            self._end(connection, answer, begun, answer.status if sent == length else CLIENT_GONE, sent)

        return written

    def _end(self, connection: Connection, answer: Answer, begun: int, status: int, sent: int) -> None:
        """Record what came of an answer whose sending began at ``begun``. Charges network."""
        clock, given, address, method, _, asked_range, source = answer
        clock.ended = now_ns()
        clock.network = clock.ended - begun
        self._board.record(
            clock=clock,
            request_id=given,
            address=address,
            method=method,
            status=status,
            bytes=sent,
            range=asked_range,
            source=source,
            backend=self._backend,
            unsent=unsent(connection.socket_number),
            fast=True,
        )
        if self._log.enabled:
            self._log_answer(connection, method, address.hex(), status, given, clock)

    def log_times(
        self, connection: Connection, method: str, digits: str, status: int, given: str, times: tuple[int, ...]
    ) -> None:
        """Log an answer that ``_lane.c`` has sent and recorded."""
        clock = StageClock()
        clock.queue, clock.index, clock.metadata, clock.disk, clock.network, clock.started, clock.ended = times
        self._log_answer(connection, method, digits, status, given, clock)

    def _log_answer(
        self, connection: Connection, method: str, digits: str, status: int, given: str, clock: StageClock
    ) -> None:
        self._log.add(
            method=method,
            path=FILES + digits,
            status=status,
            ms=clock.total / 1e6,
            request_id=given,
            client=connection.client,
            stages=stage_times(clock),
        )
