"""The supervisor: starts the workers and the janitor, replaces those that die, and stops them all.

It holds no catalog, no event loop and no thread, so that it can fork at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import selectors
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass

from stat7store.catalog.write_lock import WriteLock
from stat7store.errors import Malformed, Unavailable
from stat7store.folder import CATALOG, make_folder
from stat7store.opening import own, prepare
from stat7store.room import Pledges
from stat7store.server.board import Board, BoardMemory
from stat7store.server.janitor import tidy
from stat7store.server.limits import raise_open_files
from stat7store.server.log import Log, make_log
from stat7store.server.log_writer import LogWriter
from stat7store.server.probing import probe
from stat7store.server.tallies import Tallies, TalliesMemory
from stat7store.server.watchdog import LOOK_EVERY_S, Watchdog
from stat7store.server.worker import work
from stat7store.settings import MOST_WORKERS, Settings
from storage import compiled
from storage.linux import die_with

JANITOR = 0  # the workers are numbered from 1
_KILL_AFTER_S = 5.0  # beyond the drain timeout
_LAST_LINES_S = 2.0  # for a log that takes nothing; shorter than the above
_STEADY_S = 2.0  # a process that lived this long was not broken from the start
_MOST_FAILED_STARTS = 5
_NUMBER = struct.Struct("<H")  # of a process that is ready; a pipe keeps such few bytes together
_LONGEST_PAUSE_S = 1.0
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises ``Malformed`` or ``Unavailable`` saying what to do if it cannot start.
    """
    workers = settings.workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    host = _checked_host(settings)
    make_folder(settings.data, network_filesystem=settings.network_filesystem)
    held = own(settings.data)
    try:
        warning = probe(settings)
        prepare(settings)
        with _reserve(host, settings.port) as reserved:
            raise_open_files()
            supervisor = _Supervisor(settings, workers, reserved)
            if warning:
                supervisor.warn(warning)
            return supervisor.run()
    finally:
        os.close(held)


@dataclass(slots=True)
class _Child:
    number: int
    started: float
    ready: bool = False


class _Supervisor:
    def __init__(self, settings: Settings, workers: int, reserved: socket.socket) -> None:
        self._settings = settings
        self._workers = workers
        self._reserved = reserved
        self._memory = BoardMemory(workers)
        self._tallies = TalliesMemory([*map(_name, range(workers + 1)), "supervisor"])
        self._pledges = Pledges.allocate(workers + 1)
        self._own_tallies = Tallies(self._tallies, workers + 1)
        self._counts = {"processes_replaced": 0, "writers_killed": 0, "write_lock_stalls": 0}
        self._log = make_log(settings, process="supervisor")
        self._watchdog = self._watching()
        self._children: dict[int, _Child] = {}
        self._failed_starts = 0
        self._stopping = False
        self._deadline: float | None = None
        self._exit_code = 0
        self._announced = False

    def warn(self, what: str) -> None:
        """Say in the log what is amiss but no reason not to serve."""
        self._log.warning(what)

    def run(self) -> int:
        signals, self._waker = socket.socketpair()
        self._ready, self._ready_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)
        self._selector.register(self._ready, selectors.EVENT_READ)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        for awaited in _SIGNALS:
            signal.signal(awaited, lambda *_: None)  # the wakeup descriptor tells of them
        for number in range(self._workers + 1):
            self._start(number)
        while self._children:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is signals:
                    self._on_signals(signals.recv(4096))
                else:
                    self._on_ready(os.read(self._ready, 4096))
            self._watch()
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._log.warning("requests were cut off: they did not end within the drain timeout")
                self._deadline = None
                self._signal_all(signal.SIGKILL)
        return self._exit_code

    def _patience(self) -> float | None:
        waits = [] if self._deadline is None else [max(self._deadline - time.monotonic(), 0.01)]
        return min(waits + ([] if self._watchdog is None else [LOOK_EVERY_S]), default=None)

    def _watching(self) -> Watchdog | None:
        limit = self._settings.writer_timeout
        if not limit:
            return None
        try:
            return Watchdog(WriteLock(self._settings.data / CATALOG), limit, self._log)
        except Unavailable as error:
            self._log.warning("no process that blocks the catalog will be noticed", reason=str(error))
            return None

    def _watch(self) -> None:
        if self._watchdog is None:
            return
        doomed = self._watchdog.look({pid: _name(child.number) for pid, child in self._children.items()})
        if doomed is not None:
            os.kill(doomed, signal.SIGKILL)
            self._count("writers_killed")
        if self._watchdog.stalls > self._counts["write_lock_stalls"]:
            self._count("write_lock_stalls")

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._own_tallies.tell(self._counts)

    def _on_signals(self, numbers: bytes) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(numbers):
            if self._stopping:  # asked twice: at once
                self._signal_all(signal.SIGKILL)
            self._stop()
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self._on_end(*ended)

    def _on_ready(self, told: bytes) -> None:
        numbers = {number for (number,) in _NUMBER.iter_unpack(told)}
        for child in self._children.values():
            if child.number in numbers:
                child.ready = True
        if not self._announced and all(child.ready for child in self._children.values()):
            self._announced = True
            self._announce()

    def _on_end(self, pid: int, status: int) -> None:
        child = self._children.pop(pid)
        if self._stopping:
            return
        self._log.error("process ended unexpectedly", name=_name(child.number), pid=pid, status=_reason(status))
        steady = child.ready and time.monotonic() - child.started > _STEADY_S
        self._failed_starts = 0 if steady else self._failed_starts + 1
        needed = child.number != JANITOR or not self._announced  # a server without a janitor still serves
        if needed and self._failed_starts >= _MOST_FAILED_STARTS:
            self._log.error("giving up: processes keep ending right after their start")
            self._exit_code = 1
            self._stop()
            return
        time.sleep(min(0.1 * self._failed_starts, _LONGEST_PAUSE_S))
        self._count("processes_replaced")
        self._start(child.number)

    def _stop(self) -> None:
        self._stopping = True
        self._deadline = time.monotonic() + self._settings.drain_timeout + _KILL_AFTER_S
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)

    def _announce(self) -> None:
        host, port = self._reserved.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        many = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        print(f"STAT7 Store serves {self._settings.data} on http://{shown}:{port}/ with {many}; Ctrl-C stops it")
        if self._settings.open:
            print("It is open: everyone who can connect may read, upload and delete.")
        if missing := compiled.missing():
            print(f"Plain Python runs instead of compiled C, which is slower: {', '.join(missing)} (see README.md)")
        sys.stdout.flush()

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # or the child's first would go to the supervisor's handlers
        pid = os.fork()
        if pid:
            self._children[pid] = _Child(number, time.monotonic())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the supervisor says when
            die_with(parent, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._selector.close()
            writer = LogWriter()
            log = make_log(self._settings, writer.write_text, process=_name(number))
            try:
                asyncio.run(self._main(number, log, writer))
                code = 0
            except Unavailable as error:
                log.error(str(error))
            except BaseException as error:
                log.exception("the process failed", exc_info=error)
            writer.close(_LAST_LINES_S)
        finally:
            os._exit(code)  # never back into the supervisor's code

    async def _main(self, number: int, log: Log, writer: LogWriter) -> None:
        def ready() -> None:
            os.write(self._ready_write, _NUMBER.pack(number))

        tallies = Tallies(self._tallies, number)
        if number == JANITOR:
            await tidy(self._settings, tallies, log, ready)
        else:
            with _listener(self._reserved) as listener:
                board, pledges = Board(self._memory, number), Pledges(self._pledges, number)
                await work(self._settings, board, tallies, listener, number, log, writer, ready, pledges)


def _name(number: int) -> str:
    return "janitor" if number == JANITOR else f"worker {number}"


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _checked_host(settings: Settings) -> tuple[socket.AddressFamily, str]:
    """Return the interface to listen on. Raises ``Malformed``."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise Malformed(f"--host {settings.host}: no such host name or address ({error.strerror})") from error
    host = str(found[4][0])
    if not settings.open and not ipaddress.ip_address(host).is_loopback:
        raise Malformed(
            f"--host {settings.host} can be reached from other machines, and there is no access control yet: "
            "listen on 127.0.0.1, or say --open to serve everyone who can connect"
        )
    return found[0], host


def _reserve(host: tuple[socket.AddressFamily, str], port: int) -> socket.socket:
    """Bind the port without listening: it stays the node's own while workers come and go."""
    try:
        with socket.socket(host[0], socket.SOCK_STREAM) as probe:
            # SO_REUSEPORT would let two servers share a port, each with a part of the requests
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host[1], port))
            port = probe.getsockname()[1]
        reserved = _bindable(host[0])
        reserved.bind((host[1], port))
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {host[1]} port {port}: {error.strerror}; name another port with --port"
        ) from error
    return reserved


def _listener(reserved: socket.socket) -> socket.socket:
    listener = _bindable(reserved.family)
    listener.bind(reserved.getsockname())
    return listener


def _bindable(family: int) -> socket.socket:
    bindable = socket.socket(family, socket.SOCK_STREAM)
    bindable.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bindable.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return bindable
