"""Power cuts: the filesystems of blobs and catalog stop at any moment, and lose what was not synced.

They are two, since on one the catalog's own commit would sync the names of the blobs as well. Taking out the sync
of the file, of its folder or of the whole filesystem (``storage/file_commit.py``) makes this test fail.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from stat7store.address import Address
from stat7store.errors import Damaged, NotFound
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.verifying import Finding, Tally
from tests.faults import writer
from tests.faults.clients import Files, State
from tests.faults.images import Image, Kind, images
from tests.faults.mounting import missing_programs, refusal, require_mounts
from tests.faults.reliability import Reliability, Row, recovery
from tests.faults.writer import Order, Said

_CYCLES_OF_AN_IMAGE = 100
_MOST = 60  # files left of earlier cycles; the images are small
_WIDTHS = (1, 8, 2)  # above 3 the whole filesystem is synced, and not each file and folder
_TIMEOUT_S = 60.0
_STILL = {psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP, psutil.STATUS_ZOMBIE}


class Ledger:
    """What the writer was told of each file, and what was found to be otherwise after a cut."""

    def __init__(self) -> None:
        self.known: dict[int, State] = {}
        self.next = 0
        self.acknowledged = 0
        self.looks = 0
        self.lost: list[str] = []
        self.wrong: list[int] = []
        self.returned: list[int] = []

    @property
    def is_kept(self) -> bool:
        """Whether all was found as it should be."""
        return not (self.lost or self.wrong or self.returned)

    def __str__(self) -> str:
        return f"of {self.acknowledged} acknowledged: lost {self.lost}, wrong {self.wrong}, returned {self.returned}"

    def take(self, said: Said) -> None:
        """Note what the writer said."""
        self.next = max(self.next, said.number + 1)
        states = {"stored": State.STORED, "gone": State.GONE}
        self.known[said.number] = states.get(said.verb, State.UNKNOWN)
        self.acknowledged += said.verb in states

    def forget_all(self) -> None:
        """Begin with an empty store."""
        self.known.clear()

    def doomed(self, chance: random.Random) -> list[int]:
        """Return some of the stored files, to be deleted: at least so many as are too many."""
        stored = [number for number, state in self.known.items() if state is State.STORED]
        return chance.sample(stored, min(len(stored), max(10, len(stored) - _MOST)))

    def judge(self, number: int, found: bytes | Damaged | None, right: bytes) -> None:
        """Compare what is there; of a file of which nothing was known it decides what is."""
        state = self.known[number]
        self.looks += 1
        if isinstance(found, bytes) and found != right:
            self.wrong.append(number)
        elif isinstance(found, Damaged) or (found is None and state is State.STORED):
            self.lost.append(f"{number} ({found or 'no entry'})")
        elif found is not None and state is State.GONE:
            self.returned.append(number)
        self.known[number] = State.GONE if found is None else State.STORED


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    kind: Kind, tmp_path: Path, samples: Path, soak: bool, reliability: Reliability
) -> None:
    """However the power goes while files are uploaded, deleted and swept: what was acknowledged is there, whole,
    what was deleted stays so, and after one sweep the store holds exactly its files, all of them good."""
    _skip_where_impossible(kind, reliability)
    chance, files, ledger = random.Random(), Files(), Ledger()
    seconds: list[float] = []
    data = tmp_path / "data"
    try:
        with images(kind, tmp_path, data / "blobs", data / "catalog") as both:
            for cycle in range(1000 if soak else 6):
                if cycle % _CYCLES_OF_AN_IMAGE == 0:
                    _begin_anew(both, data)
                    ledger.forget_all()
                _write_until_the_cut(cycle, both, data, ledger, chance)
                begun = time.monotonic()
                for image in both:
                    image.mount()
                asyncio.run(_look(data, files, ledger, begun, seconds))
    finally:
        reliability.add(_row(kind, ledger, seconds))


def _row(kind: Kind, ledger: Ledger, seconds: Sequence[float], left_out: str = "") -> Row:
    return Row(
        fault="power cut",
        store=f"filesystem on {kind}",
        how="the loop devices of blobs and catalog shut down without a flush of their journals, while 1 to 8 uploads "
        "at a time, deletes and sweeps go on; then mounted again",
        times=len(seconds),
        checked=f"{ledger.acknowledged:,} acknowledged uploads and deletes, in {ledger.looks:,} retrievals; "
        "a sweep and a verify after each cut",
        lost=len(ledger.lost),
        wrong=len(ledger.wrong) + len(ledger.returned),
        left_out=left_out,
        **recovery(seconds),
    )


def _skip_where_impossible(kind: Kind, reliability: Reliability) -> None:
    if reason := missing_programs(kind) or refusal(kind):
        reliability.add(_row(kind, Ledger(), [], left_out=reason))
    require_mounts(kind)


def _begin_anew(both: Sequence[Image], data: Path) -> None:
    for image in both:
        image.unmount()
        image.make()
        image.mount()
    prepare(Settings(data=data))


def _write_until_the_cut(cycle: int, both: Sequence[Image], data: Path, ledger: Ledger, chance: random.Random) -> None:
    """Cut the power soon after something was acknowledged. Two times in three that is at once, when nothing that came
    later can have synced it as well.

    The writer stands still before that: a filesystem that is being shut down may let a sync that is under way succeed
    (XFS takes an inode whose log items were dropped for one that is on disk), and a dead machine takes no next step.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([writer.__name__])
    ours, its = context.Pipe()
    process = context.Process(target=writer.run, args=(its, data), daemon=True)
    process.start()
    its.close()
    try:
        assert ours.poll(_TIMEOUT_S)
        ours.recv()
        ours.send(Order(_WIDTHS[cycle % len(_WIDTHS)], ledger.next, ledger.doomed(chance)))
        enough = ledger.acknowledged + chance.randint(1, 40)
        while ledger.acknowledged < enough:
            assert ours.poll(_TIMEOUT_S)
            ledger.take(ours.recv())
        if cycle % 6 >= 4:
            time.sleep(chance.uniform(0.0, 0.03))
        _stand_still(process)
        for image in chance.sample(both, len(both)):
            image.cut()
    finally:
        process.kill()
        process.join()
    try:
        while True:
            ledger.take(ours.recv())
    except (EOFError, ConnectionResetError):
        ours.close()
    for image in both:
        image.unmount()


def _stand_still(process: BaseProcess) -> None:
    """Stop it, and return when none of its threads runs: each is stopped, or will be when its system call returns."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    while any(psutil.Process(thread.id).status() not in _STILL for thread in psutil.Process(process.pid).threads()):
        pass


async def _look(data: Path, files: Files, ledger: Ledger, begun: float, seconds: list[float]) -> None:
    """Compare all files with what is known of them; then sweep, and verify that all is well."""
    async with open_store(Settings(data=data)) as store:
        for place, number in enumerate(sorted(ledger.known, reverse=True)):
            right = files.data(number)
            ledger.judge(number, await _fetched(store, Address.of(right)), right)
            if not place:
                seconds.append(time.monotonic() - begun)
        assert ledger.is_kept, str(ledger)
        await store.sweep_orphans()
        await store.sweep_garbage()
        tally, findings = Tally(), list[Finding]()
        await store.verifier(tally, findings.append, bytes_per_s=1e12, jobs=2).run()
        assert findings == []
        there = [number for number, state in ledger.known.items() if state is State.STORED]
        counters = await store.counters()
        assert (counters.files, counters.garbage, tally.files) == (len(there), 0, len(there))
    blobs = [path.name[:64] for path in (data / "blobs").glob("???/*")]
    assert sorted(blobs) == sorted(files.address(number) for number in there)


async def _fetched(store: Store, address: Address) -> bytes | Damaged | None:
    clock = StageClock()
    try:
        entry = await store.find(address, clock)
        reader = await store.open(address, entry.locator, None, clock)
    except NotFound:
        return None
    except Damaged as error:
        return error
    try:
        pieces = []
        while piece := await reader.read(1 << 20):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        reader.close()
