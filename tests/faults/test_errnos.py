"""A failing disk: an error at every system call of an upload, a heal, a delete, a read and the sweeps, by strace.

What holds here: no sync is tried a second time, a commit that raised is looked up and never guessed, and what
was only half written is given up as a whole.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.breaking import Checked, Point, Template, look_at, shuffled
from tests.faults.reliability import Reliability, Row

_WRITE = ("error=EIO", "error=ENOSPC", "error=EDQUOT", "retval=0")  # that of 0 bytes is the shortest write
FAILURES = {
    "openat": ("error=EIO", "error=EMFILE", "error=ENOSPC"),
    "openat2": ("error=EIO",),
    "flock": ("error=ENOLCK",),
    "fcntl": ("error=EMFILE",),
    "write": _WRITE,
    "writev": _WRITE,
    "pwrite64": _WRITE,
    "pwritev": _WRITE,
    "fsync": ("error=EIO", "error=ENOSPC", "error=EDQUOT"),
    "fdatasync": ("error=EIO", "error=ENOSPC"),
    "syncfs": ("error=EIO",),
    "sync_file_range": ("error=EIO",),
    "linkat": ("error=EIO", "error=ENOSPC", "error=EDQUOT"),
    "unlinkat": ("error=EIO",),
    "preadv2": ("error=EIO",),
    "pread64": ("error=EIO",),
}
SOME = 8
_SPEAKS = ("MainThread", "write")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_failure_is_acknowledged(tmp_path: Path, soak: bool, reliability: Reliability, samples: Path) -> None:
    """Whichever call fails, and however: what was said to be done is done, what was not is refused as unavailable
    or for want of space, the steps after it succeed, and the store is whole when it is opened again."""
    template = Template(tmp_path / "data")
    # the main thread's writes are those by which the program speaks
    points = [point for point in template.points(tuple(FAILURES)) if (point.thread, point.call) != _SPEAKS]
    cases = [(point, failure) for point in points for failure in FAILURES[point.call]]
    if not soak:
        cases = shuffled(cases)
    enough = 0.9 * len(cases) if soak else SOME  # not every run of the program comes to each point
    met = refused = lost = wrong = acknowledged = 0
    for point, failure in cases:
        broken = template.broken(point, failure)
        checked = asyncio.run(look_at(template.data, broken))
        assert broken.code == 0, (point, failure, broken)
        assert checked == Checked([], []), (point, failure, broken, checked)
        assert set(broken.failures) <= {"Unavailable", "NoSpace"}, (point, failure, broken)
        assert len(broken.failures) <= 1, (point, failure, broken)  # there was one failure, and it is over
        met += broken.met
        refused += len(broken.failures)
        acknowledged += len(broken.said) - len(broken.failures)
        lost += len(checked.lost)
        wrong += len(checked.wrong)
        if not soak and met == SOME:
            break
    assert met >= enough
    reliability.add(
        Row(
            fault="failing disk",
            store="filesystem",
            how="strace makes one call of one thread fail: EIO, ENOSPC, EDQUOT, EMFILE, ENOLCK, "
            "or a write of 0 bytes; of the 4096 folders that are listed, the first 40",
            times=met,
            checked=f"{acknowledged:,} acknowledged steps, and {refused:,} that were refused",
            lost=lost,
            wrong=wrong,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("thread", ["small files", "catalog"])
def test_the_catalog_goes_on_after_a_commit_that_failed(tmp_path: Path, samples: Path, thread: str, call: str) -> None:
    """A commit that fails refuses its own step, and all later ones succeed: LMDB by itself would refuse them too.

    It holds that the catalog is opened anew, and so looks at what there is.
    """
    template = Template(tmp_path / "data")
    broken = template.broken(Point(thread, call, 1), "error=EIO")
    assert broken.met
    assert broken.failures == ["Unavailable"]
    assert len(broken.said) == 9
    assert asyncio.run(look_at(template.data, broken)) == Checked([], [])
