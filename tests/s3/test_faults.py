"""The server on an S3 that fails all the time: what was acknowledged stays, what is read is right, nothing hangs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stat7store.address import Address
from stat7store.errors import NotFound
from stat7store.opening import opened
from stat7store.record import Place
from stat7store.settings import Settings
from stat7store.store import Store
from storage.s3_options import S3Options
from tests.faults.reliability import Reliability, Row
from tests.running import RunningServer
from tests.s3.mixed import Run
from tests.s3_proxy import Asked, Deck, Fault, S3Proxy, calm, s3_proxy
from tests.s3_servers import OWNER, S3Server, unfinished_in

# Of all requests to S3; the rest goes well.
RATES = {
    Fault.INTERNAL_ERROR: 0.02,
    Fault.SLOW_DOWN: 0.02,
    Fault.SLOW: 0.03,
    Fault.RESET_BEFORE: 0.03,
    Fault.RESET_AFTER: 0.03,
    Fault.TRUNCATED: 0.03,
    Fault.ALTERED_ANSWER: 0.02,
    Fault.ALTERED_REQUEST: 0.03,
    Fault.STALLED: 0.01,
}
# At the end: too much to be mended by trying again, so that uploads fail which S3 has kept.
STORM = {Fault.RESET_AFTER: 0.6, Fault.INTERNAL_ERROR: 0.2}
DEADLINE_S = 300.0
"""Of one operation: an upload in parts has several deadlines of S3 requests one after the other."""
SETTINGS = ("--s3-deadline=60", "--s3-read-timeout=10", "--s3-attempts=5", "--no-access-log")


def may_range(address: str) -> bool:
    """Tell whether parts of a file are read. Nobody can check these bytes, so that they are never altered."""
    return int(address[0], 16) % 2 == 0


def provable(asked: Asked, fault: Fault) -> bool:
    """Tell whether S3's clients can notice a fault."""
    return fault is not Fault.ALTERED_ANSWER or (asked.is_get and not may_range(asked.key.rpartition("/")[2]))


@pytest.fixture
def bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """An empty bucket."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with moto_server.bucket() as options:
        yield options


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[S3Proxy]:
    """A proxy before moto."""
    with s3_proxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.mark.timeout(3600)
async def test_nothing_is_lost_wrong_or_late(
    moto_server: S3Server, bucket: S3Options, proxy: S3Proxy, tmp_path: Path, soak: bool, reliability: Reliability
) -> None:
    """Of mixed operations on an S3 that fails in every way no acknowledged upload is lost, no wrong answer is
    complete, and none comes after its deadline; after a sweep the bucket holds what is stored and nothing else.
    """
    data = tmp_path / "data"
    server = RunningServer(data, *SETTINGS, bucket=replace(bucket, endpoint_url=proxy.endpoint))
    with server:
        run = Run(server.url, seed=7, deadline_s=DEADLINE_S, may_range=may_range)
        proxy.faults = Deck(7, RATES, provable)
        await run.run(5000 if soak else 200)
        failed = run.outcome.failed
        proxy.faults = Deck(8, STORM, provable)
        await run.run(250 if soak else 40)
        proxy.faults = calm
        lost = await run.verify()
        assert server.stop() == 0
    outcome = run.outcome
    print(outcome, proxy.given, proxy.refused, len(proxy.asked), sep="\n")
    reliability.add(
        Row(
            fault="S3 trouble",
            store="S3",
            how="moto behind a proxy: 500, 503, slow and stalled answers, resets before and after applying, "
            "bodies cut and altered both ways; at the end most requests fail",
            times=sum(outcome.done.values()),
            checked=f"{outcome.acknowledged:,} acknowledged uploads; {sum(proxy.given.values()):,} faults; "
            f"{outcome.failed:,} failed openly, {len(outcome.hung)} hung; the slowest {outcome.slowest_s:.0f} s",
            lost=len(lost),
            wrong=len(outcome.wrong),
        )
    )
    assert lost == []
    assert outcome.wrong == []
    assert outcome.hung == []
    assert failed < sum(outcome.done.values()) / 10
    assert outcome.failed > failed
    assert set(proxy.given) == set(RATES)
    assert proxy.refused["XAmzContentSHA256Mismatch"] > 0
    locations = await swept(data, [file.address for file in run.files])
    assert server.stored() == sorted(f"{bucket.folder}{location}" for location in locations)
    client = moto_server.client()
    assert unfinished_in(client, bucket.bucket) == []
    client.close()


async def swept(data: Path, addresses: list[str]) -> list[str]:
    """Sweep a store whose server has stopped; return the locations of what is stored of these addresses."""
    places: list[Place] = []
    async with opened(Settings(data=data)) as (catalog, backends):
        store = Store(catalog, backends, intent_timeout_s=0)
        await store.sweep_orphans()
        await store.sweep_garbage()
        for address in addresses:
            try:
                places.append((await store.entry(Address.parse(address))).locator.place)
            except NotFound:
                continue
    return [str(place.location) for place in places]
