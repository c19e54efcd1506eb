"""The fast lane: one request in its commonest shape is answered at once; everything else falls through to aiohttp.

The commonest shape is ``GET`` or ``HEAD /v1/files/<64 hex digits> HTTP/1.1``, whole in one read, on a
connection that has nothing else to do, with plain headers: at most one range, at most this file's own
entity tag in ``If-None-Match``, no other condition, no body, no wish about the connection. The file
must be in the catalog, of moderate size, and in memory. What is answered here is answered byte for byte
as ``retrieval.py`` would, and asks, times, counts and logs the same. Nothing is refused here: whatever is
amiss is left to the path that can tell the client so.

Where it is compiled, ``_lane.c`` answers again what was answered here before, ahead of all of this, and
listens by itself for connections that have nothing else to do.
"""

from __future__ import annotations

import os
import re
import time
from binascii import unhexlify
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from multidict import CIMultiDict

from stat7store.catalog.base import ImmediateCatalog
from stat7store.errors import Stat7Error
from stat7store.record import Entry
from stat7store.server.conditions import entity_tag
from stat7store.server.delivery import Answer, Delivery
from stat7store.server.head import file_headers
from stat7store.server.headers import REQUEST_ID_BYTES, format_date, request_id, server_timing
from stat7store.server.node import Node
from stat7store.server.outgoing import INLINE_BYTES, WINDOW_BYTES
from stat7store.server.parking import Parking
from stat7store.server.paths import FILES
from stat7store.server.ranges import Unsatisfiable, content_range, parse_range
from stat7store.server.request_log import RequestLog
from stat7store.timing import StageClock, now_ns
from storage import compiled
from storage.base import Immediate, ImmediateFile, Span
from storage.open_file import OpenFile
from storage.recent import Recent

try:
    compiled.wanted()
    from stat7store.server import _lane

    Lane: type[_lane.Lane] | None = _lane.Lane
except ImportError:
    Lane = None

if TYPE_CHECKING:
    from stat7store.server.connection import Connection

_GET = f"GET {FILES}".encode()
_HEAD = f"HEAD {FILES}".encode()
_VERSION = b" HTTP/1.1\r\n"
_NOTHING = memoryview(b"")
_DIGITS = re.compile(rb"[0-9a-f]{64}")
_MOST_BYTES = 4096  # of a request
COPIED_BYTES = 32 * 1024  # more is cheaper to send out of the page cache than to copy
_LINE = re.compile(rb"([A-Za-z0-9_-]++):[ ]?+([!-~](?:[ -~]*+(?<=[!-~]))?+)?+\r\n")
# these change what a request means, or how it is framed: aiohttp's to understand
_MEANINGFUL = frozenset(
    {
        *("connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer"),
        *("keep-alive", "proxy-connection", "http2-settings", "content-encoding"),
        *("if-match", "if-modified-since", "if-unmodified-since", "if-range"),
    }
)
# what differs from one request to the next, and is read apart from the rest in _lane_request.h
_DIFFERING = frozenset({"range", "if-none-match", "x-request-id"})
_KNOWN_BLOCKS = 256
_KNOWN_FILES = 4096


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the headers of a request ask for."""

    headers: Mapping[str, str]
    same: bytes  # the block without the lines that differ from request to request
    same_headers: Mapping[str, str]
    none_match: str | None
    range: str | None
    request_id: str | None


class _Plan(NamedTuple):
    """What to answer: the status, the head up to the times, and which bytes."""

    status: int
    front: bytes
    span: Span


class _File(NamedTuple):
    """What was put together for an entry; good for as long as the catalog returns that very entry."""

    digits: bytes
    entry: Entry
    tag: str
    shared: bytes  # the headers that all its answers begin with
    plan: _Plan  # for the whole file


class FastLane:
    """One worker's fast lane."""

    def __init__(self, node: Node, log: RequestLog, catalog: ImmediateCatalog, blobs: Immediate, backend: int) -> None:
        """``backend`` is the number of ``blobs``: files on another backend are none of the lane's."""
        self._admit = node.access.admit
        self._board = node.board
        self._find = catalog.find_now
        self._open = blobs.open_now
        self._number = backend
        self._blocks: Recent[bytes, _Asked] = Recent(_KNOWN_BLOCKS)
        self._files: Recent[bytes, _File] = Recent(_KNOWN_FILES)
        self._buffer = memoryview(bytearray(INLINE_BYTES))
        self._second = 0
        self._date = ""
        self._random = ""
        self._random_at = 0
        self._delivery = Delivery(node, log)
        self._again = self._again_of(node, log)
        self.parking = None if self._again is None else Parking(self._again)

    def _again_of(self, node: Node, log: RequestLog) -> _lane.Lane | None:
        if Lane is None:
            return None
        lane = Lane(
            admit=self._admit,
            refusal=Stat7Error,
            find=self._find,
            open_now=self._open,
            file_type=OpenFile,
            go_on=self._delivery.go_on,
            log=self._delivery.log_times if log.enabled else None,
            log_facts=log.facts,
            lines_wait=log.lines_wait,
            board=node.board.own(),
            source=OpenFile.source,
            backend=node.store.backend,
            largest=WINDOW_BYTES,
            most_blocks=_KNOWN_BLOCKS,
            most_files=_KNOWN_FILES,
        )
        log.fetch_from(lane.take_lines)
        return lane

    def answer(self, connection: Connection, data: bytes, arrived: int) -> bool:
        """Answer the request that ``data`` is; False, with nothing done, if it is not one for this lane."""
        if self._again is not None and self._again.answer(connection, connection.socket_number, data, arrived):
            return True
        return self.answer_first(connection, data, arrived)

    def close(self) -> None:
        """Answer nobody any more."""
        if self.parking is not None:
            self.parking.close()

    def answer_first(self, connection: Connection, data: bytes, arrived: int) -> bool:
        """Answer a request that may be the first of its kind. See ``answer``."""
        at = 14 if data.startswith(_GET) else 15 if data.startswith(_HEAD) else 0
        if not at or data[at + 64 : at + 75] != _VERSION or len(data) > _MOST_BYTES:
            return False
        block = data[at + 75 :]
        asked = self._blocks.get(block) or self._read(block)
        method = "GET" if at == 14 else "HEAD"
        if asked is None or not self._is_admitted(method, asked):
            return False
        clock = StageClock(arrived)
        file = self._look_up(data[at : at + 64], clock)
        plan = None if file is None else _plan(asked, file)
        if file is None or plan is None:
            return False
        body: memoryview | ImmediateFile | None = _NOTHING
        source = None
        if plan.status != 304:
            begun = now_ns()
            opened = self._open(file.entry.locator.location)
            if opened is None or opened.size != file.entry.locator.size:
                return False
            if method == "GET":
                body = self._bytes(opened, plan.span)
                source = opened.source
            clock.disk = clock.disk_first = now_ns() - begun
        if body is None or not (isinstance(body, memoryview) or connection.can_send_files()):
            return False
        given = asked.request_id or self._new_request_id()
        head = self._head(plan, clock, source, given)
        if self._again is not None:
            locator = file.entry.locator
            self._again.keep_block(asked.same, asked.same_headers)
            self._again.keep_file(file.entry.record.address, file.entry, locator.location, locator.size, file.shared)
        answer = Answer(clock, given, file.entry.record.address, method, plan.status, asked.range, source)
        if isinstance(body, memoryview):
            self._delivery.send(connection, head, body, answer)
        else:
            self._delivery.send_file(connection, head, body, plan.span, answer)
        return True

    def _is_admitted(self, method: str, asked: _Asked) -> bool:
        try:
            self._admit(method, asked.headers)
        except Stat7Error:  # to be told why by the other path
            return False
        return True

    def _bytes(self, opened: ImmediateFile, span: Span) -> memoryview | ImmediateFile | None:
        """Return the bytes, or of a larger span the file that has them in memory; None if neither is to be had."""
        if span.length > WINDOW_BYTES:
            return None
        if span.length > COPIED_BYTES and opened.is_resident(span.start, span.length):
            return opened
        if span.length <= INLINE_BYTES:  # also where the kernel does not tell what it has in memory
            body = self._buffer[: span.length]
            if opened.fill(body, span.start):
                return body
        self._board.count("fast_lane_waits")
        return None

    def _look_up(self, digits: bytes, clock: StageClock) -> _File | None:
        """Find a file in the catalog, and what was put together for it. Charges index and metadata."""
        known = self._files.get(digits)
        if known is not None:
            address = known.entry.record.address
        elif _DIGITS.fullmatch(digits):
            address = unhexlify(digits)
        else:
            return None
        begun = now_ns()
        found = self._find(address)
        ended = now_ns()
        if found is None:
            return None
        entry, looked_up = found
        if entry.locator.damaged or entry.locator.backend != self._number:
            return None
        clock.index = looked_up - begun
        clock.metadata = ended - looked_up
        if known is not None and known.entry is entry:
            return known
        shared = "".join(f"{name}: {value}\r\n" for name, value in file_headers(entry).items())
        whole = f"HTTP/1.1 200 OK\r\n{shared}Content-Length: {entry.locator.size}\r\n".encode()
        plan = _Plan(200, whole, Span(0, entry.locator.size))
        file = _File(digits, entry, entity_tag(digits.decode()), shared.encode(), plan)
        self._files.put(digits, file)
        return file

    def _read(self, block: bytes) -> _Asked | None:
        """Read a block of headers with its empty line; None if it is not in the commonest shape."""
        headers: CIMultiDict[str] = CIMultiDict()
        same = []
        at, end = 0, len(block) - 2
        if block[end:] != b"\r\n":
            return None
        while at < end:
            line = _LINE.match(block, at, end)
            if line is None:
                return None
            name = line[1].decode()
            if name in headers or name.lower() in _MEANINGFUL:
                return None
            headers[name] = (line[2] or b"").decode()
            if name.lower() not in _DIFFERING:
                same.append(line[0])
            at = line.end()
        if "Host" not in headers:
            return None
        given = headers.get("X-Request-ID")
        asked = _Asked(
            headers,
            b"".join((*same, b"\r\n")),
            CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _DIFFERING),
            headers.get("If-None-Match"),
            headers.get("Range"),
            None if given is None else request_id(given, lambda: "") or None,
        )
        if given is None:  # or every block would be a new one
            self._blocks.put(block, asked)
        return asked

    def _head(self, plan: _Plan, clock: StageClock, source: str | None, given: str) -> bytes:
        """Return the whole head: what is different each time comes last."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"\r\nDate: {format_date(second)}\r\nServer: STAT7 Store\r\nX-Request-ID: "
        times = server_timing(clock, source)
        return b"%bServer-Timing: %b\r\n\r\n" % (plan.front, f"{times}{self._date}{given}".encode())

    def _new_request_id(self) -> str:
        at = self._random_at
        if at == len(self._random):
            self._random = os.urandom(256 * REQUEST_ID_BYTES).hex()
            at = 0
        self._random_at = at + 2 * REQUEST_ID_BYTES
        return self._random[at : self._random_at]


def _plan(asked: _Asked, file: _File) -> _Plan | None:
    """Weigh condition and range; None if the answer is none of the lane's."""
    size = file.entry.locator.size
    if asked.none_match is not None:
        is_held = asked.none_match == file.tag
        return _Plan(304, b"HTTP/1.1 304 Not Modified\r\n" + file.shared, Span(0, 0)) if is_held else None
    if asked.range is None:
        return file.plan
    try:
        spans = parse_range(asked.range, size)
    except Unsatisfiable:
        return None
    if spans is None:
        return file.plan
    if len(spans) > 1:
        return None
    lines = f"Content-Range: {content_range(spans[0], size)}\r\nContent-Length: {spans[0].length}\r\n"
    return _Plan(206, b"HTTP/1.1 206 Partial Content\r\n" + file.shared + lines.encode(), spans[0])
