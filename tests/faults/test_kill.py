"""kill -9 at random under load, again and again.

That nothing is lost holds the whole way of an upload: spool, sync, name, catalog, answer. That the server comes
back by itself holds that nothing needs repair: locks end with their processes, and a transaction is whole or not.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest

from storage.s3_options import S3Options
from tests.faults.clients import Client, Files, Journal
from tests.faults.reliability import Reliability, Row, recovery
from tests.running import RunningServer, wait_until

BACKENDS = ("filesystem", "s3")

CLIENTS = 4
MOST = 2000  # files that are left of earlier cycles; from there on each upload goes with a delete
OLDER = 50  # files of earlier cycles that are looked at in each


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kill_loses_nothing_that_was_acknowledged(
    tmp_path: Path, samples: Path, soak: bool, bucket: S3Options | None, reliability: Reliability
) -> None:
    """kill -9 of all processes during uploads and deletes, again and again: every acknowledged file is there,
    whole, every file whose delete was acknowledged is gone, and what was cut off is swept."""
    chance, files, numbers = random.Random(7), Files(), itertools.count()  # next() of a count is atomic
    journal = Journal(files)
    fresh: list[int] = []
    seconds: list[float] = []
    # on S3 an upload that died is told from a living one by its age
    flags = ["--intent-timeout=3", "--sweep-every=1", "--no-access-log"]
    server = RunningServer(tmp_path / "data", *flags, workers=4, bucket=bucket)
    cycles, few = (1000, 5) if bucket is None else (100, 2)
    acknowledged = 0
    for _ in range(cycles if soak else few):
        begun = time.monotonic()
        server.start()
        journal.look(server.url, fresh[:1])
        seconds.append(time.monotonic() - begun)
        journal.look(server.url, fresh[1:] + journal.some(chance, OLDER))
        doomed = _doomed(journal, chance)
        clients = [Client(server.url, files, numbers, doomed[n::CLIENTS]) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            wait_until(lambda clients=clients: sum(client.acknowledged for client in clients))
            time.sleep(chance.uniform(0.0, 0.4))
            if chance.random() < 0.3:  # one by itself, while the others go on
                chance.choice(server.processes[1:]).kill()
                time.sleep(chance.uniform(0.0, 0.1))
        finally:
            server.kill()
        for client in clients:
            client.join()
        fresh = journal.take(clients)
        acknowledged += sum(client.acknowledged for client in clients)
    with server:
        journal.look(server.url, fresh)
        journal.look(server.url, journal.stored() + journal.some(chance, 20_000))
        wait_until(lambda: len(server.stored()) == len(journal.stored()))
    reliability.add(
        Row(
            fault="kill -9 at random under load",
            store="filesystem" if bucket is None else "S3",
            how="4 workers and the janitor killed while 4 clients upload and delete; their journal is outside",
            times=len(seconds),
            checked=f"{acknowledged:,} acknowledged uploads and deletes, in {journal.looks:,} retrievals",
            lost=len(journal.lost),
            wrong=len(journal.wrong) + len(journal.returned),
            **recovery(seconds[1:]),
        )
    )
    assert (journal.lost, journal.wrong, journal.returned) == ([], [], [])
    assert acknowledged


def _doomed(journal: Journal, chance: random.Random) -> list[int]:
    """Return the numbers of files to delete: some, and so many that the store does not grow without end."""
    stored = journal.stored()
    return chance.sample(stored, min(len(stored), max(100, len(stored) - MOST)))
