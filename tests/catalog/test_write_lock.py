"""Who holds the write lock is told from outside, whoever it is and however it ends."""

from __future__ import annotations

import threading
from pathlib import Path

from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.catalog.write_lock import WriteLock
from tests.holder import commit_and_hold, holder


async def test_nobody_holds_it(tmp_path: Path) -> None:
    """Without a catalog, and with one in which nobody writes, nobody holds it."""
    lock = WriteLock(tmp_path)
    assert lock.holding() is None
    catalog = LmdbCatalog(tmp_path)
    assert lock.holding() is None
    await catalog.close()


async def test_the_writing_thread_is_named(tmp_path: Path) -> None:
    """During a transaction the thread that writes holds it, not the one that merely asked for it."""
    catalog = LmdbCatalog(tmp_path)
    lock = WriteLock(tmp_path)
    seen = []

    def look() -> None:
        seen.append((lock.holding(), threading.get_native_id()))

    await catalog._change(lambda _: look())
    ((holding, writer),) = seen
    assert holding is not None
    assert holding.thread == writer != threading.get_native_id()
    assert lock.holding() is None
    await catalog.close()


def test_another_process_is_seen(tmp_path: Path) -> None:
    """A holder in another process is told, a commit of its shows, and its death frees the lock."""
    lock = WriteLock(tmp_path)
    with holder(tmp_path) as program:
        first = lock.holding()
        assert first is not None
        assert first.thread == program.pid
        assert lock.holding() == first
        commit_and_hold(program)
        second = lock.holding()
        assert second is not None
        assert second.thread == first.thread
        assert second.commits != first.commits
        program.kill()
        program.wait()
        assert lock.holding() is None
