"""kill -9 at every system call of an upload, a heal, a delete and the sweeps, done by strace.

That the store opens and is whole afterwards holds the order of the writes: the bytes, then the name, then the
catalog, then the answer; and on the way out the catalog, then the blob, then the queue.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.breaking import Checked, Template, look_at, shuffled
from tests.faults.reliability import Reliability, Row

CALLS = (
    *("openat", "flock", "write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "mmap", "msync"),
    *("fsync", "fdatasync", "syncfs", "sync_file_range", "linkat", "unlink", "unlinkat", "rename", "renameat2"),
)
SOME = 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_any_system_call(tmp_path: Path, soak: bool, reliability: Reliability, samples: Path) -> None:
    """Wherever the process is killed, what it acknowledged is there and right, the rest is there whole or not at
    all, a sweep leaves exactly the blobs that are referenced, and the next upload succeeds."""
    template = Template(tmp_path / "data")
    points = template.points(CALLS)
    assert {point.call for point in points} >= {"fsync", "linkat", "pwrite64", "fdatasync", "unlinkat"}
    if not soak:
        points = shuffled(points)
    enough = 0.9 * len(points) if soak else SOME  # not every run of the program comes to each point
    lost = wrong = met = acknowledged = 0
    for point in points:
        broken = template.broken(point, "signal=KILL")
        checked = asyncio.run(look_at(template.data, broken))
        assert checked == Checked([], []), (point, broken, checked)
        assert broken.code == (-9 if broken.met else 0), (point, broken)
        met += broken.met
        acknowledged += sum(not said.failure for said in broken.said)
        lost += len(checked.lost)
        wrong += len(checked.wrong)
        if not soak and met == SOME:
            break
    assert met >= enough
    reliability.add(
        Row(
            fault="kill -9 at every system call",
            store="filesystem",
            how="strace kills the process at one call of one thread: small, large and healing uploads, "
            "a delete, garbage and orphan sweeps; of the 4096 folders that are listed, the first 40",
            times=met,
            checked=f"{acknowledged:,} acknowledged steps, by name, bytes, verify and a sweep",
            lost=lost,
            wrong=wrong,
        )
    )
