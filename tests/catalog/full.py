"""A process whose files may not grow any more: ``python -m tests.catalog.full FOLDER``."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

from stat7store.catalog.lmdb import LmdbCatalog
from stat7store.errors import Unavailable
from tests.catalog.making import address_of, new_file


async def main(folder: Path) -> None:
    """Write until refused; check what is there; write again once there is room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    catalog = LmdbCatalog(folder)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
    stored: list[int] = []
    refused: list[int] = []
    for number in range(5000):
        try:
            await catalog.add(new_file(number))
            stored.append(number)
        except Unavailable:
            refused.append(number)
            if len(refused) == 3:
                break
    assert stored
    assert refused
    present = await catalog.present([address_of(number) for number in range(5000)])
    assert present == {address_of(number) for number in stored}
    for number in stored:
        await catalog.record(address_of(number), await catalog.lookup(address_of(number)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for number in refused:
        assert (await catalog.add(new_file(number))).created
    assert (await catalog.counters()).files == len(stored) + len(refused)
    await catalog.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
