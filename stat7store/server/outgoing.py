"""What both ways of answering with a file's bytes share."""

from __future__ import annotations

import fcntl
import sys

from stat7store.timing import STAGES, StageClock

INLINE_BYTES = 256 * 1024  # up to here head and body leave in one write
WINDOW_BYTES = 2 * 1024 * 1024  # beyond, this much is made ready (disk) and then sent (network) at a time
COPY_BYTES = 1024 * 1024  # beyond, where there is no file to send from: each piece waits for a client that reads
CLIENT_GONE = 499  # nginx's status for a client that went away before its answer was complete
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes in the send queue that were not yet sent


def unsent(socket_number: int) -> int:
    """Return the bytes that the kernel has accepted but not yet sent; 0 if that is no TCP connection (any more)."""
    count = bytearray(4)  # with what may not be written to, ioctl takes twice as long
    try:
        fcntl.ioctl(socket_number, _SIOCOUTQNSD, count)
    except OSError:
        return 0
    return int.from_bytes(count, sys.byteorder)


def stage_times(clock: StageClock) -> dict[str, float]:
    """Return the stages in milliseconds, under the names that log lines give them."""
    return {f"{stage}_ms": round(getattr(clock, stage) / 1e6, 4) for stage in STAGES}
