"""Giving files to a peer, and checking once, byte for byte, that it answers with them, before anything is measured."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from scripts.peers.files import File
from scripts.peers.peer import ADDRESS, Peer
from stat7store.errors import Stat7Error

_TIMEOUT_S = 120.0
_AT_A_TIME = 8


class WrongAnswer(Stat7Error):
    """A peer answered with other bytes, or not as it must."""


def load(peer: Peer, port: int, files: Sequence[File]) -> None:
    """Send every file to a peer, some at a time. Raises ``WrongAnswer`` if it refuses one."""
    stopped = Event()
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        parts = [files[n::_AT_A_TIME] for n in range(_AT_A_TIME)]
        try:
            for sent in [threads.submit(_load, peer, port, part, stopped) for part in parts]:
                sent.result()
        finally:
            stopped.set()  # the others' rest is not waited for


def _load(peer: Peer, port: int, files: Sequence[File], stopped: Event) -> None:
    assert peer.writing is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        for file in files:
            if stopped.is_set():
                return
            data, method = file.data, peer.writing.method
            where = peer.writing.path.replace("{label}", file.address)
            if peer.writing.in_two_steps:
                connection.request(method, where)
                begun = connection.getresponse()
                begun.read()
                where = re.sub(r"^http://[^/]*", "", begun.getheader("Location", ""))
                method, where = "PUT", f"{where}&digest=sha256:{hashlib.sha256(data).hexdigest()}"
            connection.request(method, where, body=data)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status not in (200, 201, 204):
                raise WrongAnswer(f"{peer.name} does not take a file: {answer.status} {told[:200]!r}")
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswer(f"{peer.name} does not take a file: {error!r}") from error
    finally:
        connection.close()


def verify(peer: Peer, port: int, files: Sequence[File]) -> dict[str, str]:
    """Compare every file as the peer answers it with its bytes; return their entity tags ("" if it gives none).

    Raises ``WrongAnswer`` naming the first that differs.
    """
    tags = {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        for file in files:
            connection.request("GET", peer.path.replace(ADDRESS, file.address))
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200 or data != file.data:
                raise WrongAnswer(f"{peer.name} answers {answer.status} with other bytes than {file.address}'s")
            tags[file.address] = answer.getheader("ETag", "")
        if files:
            _verify_range(peer, connection, files[-1])
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswer(f"{peer.name} does not answer: {error!r}") from error
    finally:
        connection.close()
    return tags


def status_of(port: int, request: bytes) -> int:
    """Return the status of the answer to a request without a body, 0 if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.sendall(request)
        answer = http.client.HTTPResponse(connection.sock, method=request.partition(b" ")[0].decode())
        answer.begin()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _verify_range(peer: Peer, connection: http.client.HTTPConnection, file: File) -> None:
    start, end = 1, min(file.shape.size, 70_000) - 1
    connection.request("GET", peer.path.replace(ADDRESS, file.address), headers={"Range": f"bytes={start}-{end - 1}"})
    answer = connection.getresponse()
    data = answer.read()
    # a peer that knows no ranges answers with the whole file, and is left out of that case
    if data != (file.data[start:end] if answer.status == 206 else file.data):
        raise WrongAnswer(f"{peer.name} answers a range of {file.address} with other bytes")
