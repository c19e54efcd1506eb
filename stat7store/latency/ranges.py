"""Whether the bytes of ranges were those of the file: compared with the whole file, which its address verifies."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from stat7store.address import Address
from stat7store.errors import Stat7Error
from stat7store.latency.wire import Exchange

FILES_CHECKED = 64  # of one slice of the load: fetching them all would take longer than the test
LARGEST_CHECKED = 64 * 1024**2  # bytes; a file is held in memory


async def check_ranges(fetch: Callable[[Address], Awaitable[bytes]], exchanges: Sequence[Exchange]) -> None:
    """Mark the ranges of some files as verified, or as errors, by one whole fetch of each file.

    ``fetch`` must return verified bytes. Taken are the first files that were asked for by range.
    """
    by_file: dict[bytes, list[Exchange]] = {}
    for exchange in exchanges:
        if exchange.span is None or exchange.error or exchange.file_bytes > LARGEST_CHECKED:
            continue
        if exchange.address in by_file or len(by_file) < FILES_CHECKED:
            by_file.setdefault(exchange.address, []).append(exchange)
    for address, asked in by_file.items():
        try:
            whole = memoryview(await fetch(Address(address)))
        except Stat7Error:
            for exchange in asked:
                exchange.error = "the whole file is not right"
            continue
        for exchange in asked:
            assert exchange.span is not None
            right = hashlib.sha256(whole[exchange.span.start : exchange.span.end]).digest()
            exchange.verified = exchange.digest == right
            exchange.error = "" if exchange.verified else "wrong bytes"
