"""The requests of a case, as they go over the wire to one peer."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence

from scripts.peers.cases import HUGE, Case, Kind
from scripts.peers.files import File, Shape
from scripts.peers.peer import ADDRESS, Peer
from scripts.peers.verify import status_of
from scripts.peers.work import Ask, Writes, head

_RANGES = 2000
_RUNS = 8 * 10**8
_WRITES_A_RUN = 10**7


class CannotAsk(Exception):
    """The peer does not do what a case asks for; the message says what."""


def asks_of(case: Case, peer: Peer, port: int, files: Sequence[File], tags: Mapping[str, str]) -> list[Ask]:
    """Return what a case asks a peer; one answer is tried. Raises ``CannotAsk``."""
    if case.kind is Kind.PUT:
        return []

    def path(file: File) -> str:
        return peer.path.replace(ADDRESS, file.address)

    if case.kind is Kind.RANGE:
        chance = random.Random(0)  # noqa: S311 - the same ranges for every peer
        last = HUGE // case.size - 1
        chosen = [(chance.choice(files), chance.randint(0, last) * case.size) for _ in range(_RANGES)]
        lines = [(path(file), f"Range: bytes={start}-{start + case.size - 1}") for file, start in chosen]
        asks = [Ask(head("GET", where, port, line), 206, case.size) for where, line in lines]
    elif case.kind is Kind.HEAD:
        asks = [Ask(head("HEAD", path(file), port), 200, 0) for file in files]
    elif case.kind is Kind.NOT_MODIFIED:
        if not all(tags.values()):
            raise CannotAsk("it gives no entity tags")
        lines = [(path(file), f"If-None-Match: {tags[file.address]}") for file in files]
        asks = [Ask(head("GET", where, port, line), 304, 0) for where, line in lines]
    else:
        asks = [Ask(head("GET", path(file), port), 200, file.shape.size) for file in files]
    answered = status_of(port, asks[0].request)
    if answered != asks[0].status:
        raise CannotAsk(f"it answers {answered} instead of {asks[0].status}")
    return asks


def writes_of(case: Case, peer: Peer, shape: Shape) -> Writes | None:
    """Return what a case writes to a peer, nothing that was ever written before. Raises ``CannotAsk``."""
    if not case.writes:
        return None
    if peer.writing is None:
        raise CannotAsk("it takes no writes")
    first = 10**15 + (secrets.randbelow(_RUNS) + 1) * _WRITES_A_RUN
    return Writes(peer.writing, shape.before, shape.after, first)
