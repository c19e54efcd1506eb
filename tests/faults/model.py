"""A model of the protocol by which files come, go and are swept, small enough to try every order of its steps.

Two uploads of the same bytes, a delete, a reader, the collector of garbage, the sweeper of orphans and of intents,
and crashes take their steps in any order. What one call or one transaction of the real thing does is one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

CRASHES = 2
_ENDED = ("new", "acknowledged", "refused", "dead")
Places = frozenset[int]
_NONE: Places = frozenset()


class Protocol(NamedTuple):
    """The protections. On a filesystem ``locks`` is on, on S3 ``intents`` is."""

    new_names: bool = True  # no location is ever used twice
    locks: bool = True  # the sweeper leaves alone what an open spool holds
    intents: bool = False  # an upload says to the catalog where it will put its blob, before it does
    fences: bool = True  # the transaction that adds a file refuses a place that was swept
    looks_again: bool = True  # the transaction that makes an orphan garbage looks whether it still is one
    syncs: bool = True  # the name of a blob is synced before the catalog tells it
    reads_again: bool = True  # a reader that finds no blob looks whether the entry is still there


class Upload(NamedTuple):
    """One upload; ``at`` is its location, and ``holds`` tells whether it holds its blob's lock."""

    step: str
    at: int
    holds: bool = False


class State(NamedTuple):
    """All there is. Locations are numbers; 0 is none."""

    uploads: tuple[Upload, ...]
    row: int = 0  # where the entry in the catalog points
    garbage: Places = _NONE
    intents: Places = _NONE
    blobs: Places = _NONE
    unsynced: Places = _NONE  # names that came or went, and may do so again in a power cut
    flying: Places = _NONE  # requests to S3 on their way, which land even if their sender is dead
    kept: bool = False  # a file was stored and not deleted since
    deleted: bool = False
    unlinked: bool = False  # whether the collector has removed the blob it collects
    collects: int = 0
    sweeps: int = 0
    reader: tuple[str, int] = ("new", 0)
    crashes: int = 0


Step = tuple[str, State]


def first(protocol: Protocol) -> State:
    """Return the state in which nothing has happened yet."""
    return State((Upload("new", 1), Upload("new", 2 if protocol.new_names else 1)))


def steps(protocol: Protocol, now: State) -> Iterator[Step]:
    """Yield all that can happen next."""
    for number, upload in enumerate(now.uploads):
        for told, state, after in _upload(protocol, now, upload):
            uploads = (*now.uploads[:number], after, *now.uploads[number + 1 :])
            yield f"upload {number + 1} {told}", state._replace(uploads=uploads)
    if not now.deleted:
        garbage = now.garbage | {now.row} if now.row else now.garbage
        yield "delete", now._replace(deleted=True, kept=False, row=0, garbage=garbage)
    yield from _sweeps(protocol, now)
    yield from _reads(protocol, now)
    for place in now.flying:
        yield f"S3 applies the put of {place}", now._replace(flying=now.flying - {place}, blobs=now.blobs | {place})
    if now.crashes < CRASHES:
        yield from _crashes(now)


def _upload(protocol: Protocol, now: State, upload: Upload) -> Iterator[tuple[str, State, Upload]]:
    at = upload.at
    match upload.step:
        case "new" if now.row and now.row in now.blobs:
            yield "finds the file there", now, upload._replace(step="acknowledged")
        case "new":
            yield "looks", now, upload._replace(step="looked")
        case "looked" if protocol.intents:
            yield "intends", now._replace(intents=now.intents | {at}), upload._replace(step="intended")
        case "intended":
            yield "sends", now._replace(flying=now.flying | {at}), upload._replace(step="sent")
        case "sent" if at not in now.flying:
            yield "was answered", now, upload._replace(step="synced")
        case "looked" if at in now.blobs:  # only where names are used twice
            yield "finds the name taken", now, upload._replace(step="linked")
        case "looked":
            linked = now._replace(blobs=now.blobs | {at}, unsynced=now.unsynced | {at})
            yield "links", linked, upload._replace(step="linked", holds=protocol.locks)
        case "linked":
            synced = now._replace(unsynced=now.unsynced - {at}) if protocol.syncs else now
            yield "syncs", synced, upload._replace(step="synced")
        case "synced":
            yield _added(protocol, now, upload)
        case "committed":
            yield "is acknowledged", now, upload._replace(step="acknowledged", holds=False)


def _added(protocol: Protocol, now: State, upload: Upload) -> tuple[str, State, Upload]:
    """The transaction that adds the file, unless its address has an entry by now."""
    at, row, garbage = upload.at, now.row or upload.at, now.garbage
    swept = protocol.intents and at not in now.intents
    if not now.row:
        swept |= at in now.garbage
    elif now.row != at:
        garbage |= {at}
    if protocol.fences and swept:
        return "is refused", now, upload._replace(step="refused", holds=False)
    after = now._replace(row=row, garbage=garbage, intents=now.intents - {at}, kept=True)
    return "commits", after, upload._replace(step="committed")


def _sweeps(protocol: Protocol, now: State) -> Iterator[Step]:
    for place in now.intents:  # at any time: no clock is trusted
        yield f"sweeper withdraws the intent of {place}", withdrawn(now, place)
    if not now.collects:
        for place in now.garbage:
            yield f"collector takes {place}", now._replace(collects=place)
    elif not now.unlinked:
        unsynced = now.unsynced if protocol.intents else now.unsynced | {now.collects}
        yield "collector deletes", now._replace(unlinked=True, blobs=now.blobs - {now.collects}, unsynced=unsynced)
    else:
        yield (
            "collector syncs and forgets",
            now._replace(
                collects=0,
                unlinked=False,
                garbage=now.garbage - {now.collects},
                unsynced=now.unsynced - {now.collects},
            ),
        )
    if not now.sweeps:
        for place in now.blobs - {now.row}:
            yield f"sweeper finds no entry for {place}", now._replace(sweeps=place)
    else:
        yield "sweeper queues it, if it may", discarded(protocol, now, now.sweeps)._replace(sweeps=0)


def withdrawn(now: State, place: int) -> State:
    """The transaction that withdraws an intent."""
    return now._replace(intents=now.intents - {place}, garbage=now.garbage | {place})


def discarded(protocol: Protocol, now: State, place: int) -> State:
    """The transaction that makes garbage of an orphan, unless its lock is held or it is none after all."""
    if any(upload.holds and upload.at == place for upload in now.uploads):
        return now
    if protocol.looks_again and (place == now.row or place in now.intents):
        return now
    return now._replace(garbage=now.garbage | {place})


def _reads(protocol: Protocol, now: State) -> Iterator[Step]:
    step, place = now.reader
    if step == "new" and now.row:
        yield f"reader finds {now.row}", now._replace(reader=("found", now.row))
    elif step == "found" and place in now.blobs:
        yield "reader reads", now._replace(reader=("done", 0))
    elif step == "found":
        again = "missing" if protocol.reads_again else "alarm"
        yield "reader finds no blob", now._replace(reader=(again, place))
    elif step == "missing":
        yield "reader looks again", now._replace(reader=("alarm", place) if now.row == place else ("new", 0))


def _crashes(now: State) -> Iterator[Step]:
    after = now._replace(crashes=now.crashes + 1)
    dead = [_killed(upload) for upload in now.uploads]
    for number, upload in enumerate(dead):
        if upload != now.uploads[number]:
            uploads = (*now.uploads[:number], upload, *now.uploads[number + 1 :])
            yield f"kill -9 of upload {number + 1}", after._replace(uploads=uploads)
    after = after._replace(uploads=tuple(dead), collects=0, unlinked=False, sweeps=0, reader=("new", 0), unsynced=_NONE)
    for count in range(len(now.unsynced) + 1):
        for there in combinations(sorted(now.unsynced), count):
            blobs = (now.blobs - now.unsynced) | {*there}
            yield f"power cut; of the unsynced {list(there)} are there", after._replace(blobs=blobs)


def _killed(upload: Upload) -> Upload:
    return upload if upload.step in _ENDED else upload._replace(step="dead", holds=False)


def problem(protocol: Protocol, now: State) -> str:
    """Return what is wrong with a state; empty if it is safe."""
    if now.row and now.row not in now.blobs:
        return "the entry has no blob"
    if now.row in now.garbage:
        return "the entry's blob is to be deleted"
    if now.kept and not now.row:
        return "an acknowledged file has no entry"
    if now.reader[0] == "alarm":
        return "a reader raised an alarm over a file that was deleted"
    if all(upload.step in _ENDED for upload in now.uploads) and not now.flying and leaks(protocol, now):
        return "something is left over after the sweeps"
    return ""


def leaks(protocol: Protocol, now: State) -> bool:
    """Tell whether sweeps of intents, orphans and garbage leave more than the entry's blob."""
    for place in now.intents:
        now = withdrawn(now, place)
    for place in now.blobs - {now.row}:
        now = discarded(protocol, now, place)
    return now.blobs - now.garbage != {now.row} - {0}


class Found(NamedTuple):
    """What came of a search: how many states there are, or the steps to one that is wrong."""

    states: int
    problem: str = ""
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((self.problem or f"{self.states:,} states, all safe", *self.story))


def search(protocol: Protocol) -> Found:
    """Visit every state that can be reached; stop at the first that is wrong, by the shortest way."""
    begin = first(protocol)
    came: dict[State, tuple[State, str] | None] = {begin: None}
    waiting = deque([begin])
    while waiting:
        now = waiting.popleft()
        if wrong := problem(protocol, now):
            return Found(len(came), wrong, _story(came, now))
        for told, after in steps(protocol, now):
            if after not in came:
                came[after] = (now, told)
                waiting.append(after)
    return Found(len(came))


def _story(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    told: list[str] = []
    while (before := came[state]) is not None:
        state = before[0]
        told.append(before[1])
    return tuple(reversed(told))
