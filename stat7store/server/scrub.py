"""The scheduled scrub: now and then the janitor reads everything again, slowly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from stat7store.errors import Unavailable
from stat7store.server.log import Log
from stat7store.store import Store
from stat7store.verifying import Finding, Tally, load_tally, save_tally

STATE_FILE = "scrub.json"
LOOK_EVERY_S = 60.0
_JOBS = 1  # it is not to be in anyone's way


def scrubbing(
    store: Store, data: Path, every_s: float, bytes_per_s: float, log: Log, counts: Counter[str]
) -> Callable[[], Awaitable[None]]:
    """Return the chore: if the last scrub ended longer ago than ``every_s``, begin one, or go on with it.

    How far it came stands in the store's folder, so that a restart costs nothing but the last few files.
    What it reads and finds is added to ``counts``.
    """
    state = data / STATE_FILE

    async def scrub() -> None:
        try:
            tally = load_tally(state)
        except Unavailable as error:  # cut short by a power cut, perhaps
            log.warning("how far the last scrub came is not known: all is read again", reason=str(error))
            tally = None
        if tally is not None and tally.finished_at is not None:
            ago_s = time.time() - tally.finished_at / 1000
            if 0 <= ago_s < every_s:  # below 0 the clock was ahead, by who knows how much
                return
            tally = None
        log.info("a scrub begins" if tally is None else "a scrub goes on")
        tally = tally or Tally()
        counted = _counted(tally)

        def tell(finding: Finding) -> None:
            if finding.kind == "sound":
                log.info("a scrub found a damaged file whole again", name=finding.name)
            else:
                log.error("a scrub found damage", kind=finding.kind, name=finding.name, reason=finding.reason)

        def save() -> None:
            nonlocal counted
            now = _counted(tally)
            counts.update(now - counted)
            counted = now
            save_tally(state, tally)

        await store.verifier(tally, tell, bytes_per_s=bytes_per_s, jobs=_JOBS).run(checkpoint=save)
        save()
        log.info(
            "a scrub ended",
            files=tally.files,
            bytes=tally.bytes,
            seconds=round(tally.seconds),
            damaged=tally.damaged,
            unreadable=tally.unreadable,
            orphans=tally.orphans,
        )

    return scrub


def _counted(tally: Tally) -> Counter[str]:
    return Counter(scrubbed_files=tally.files, scrubbed_bytes=tally.bytes, scrub_damages=tally.damaged)
