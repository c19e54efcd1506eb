"""Repair: the bytes of a damaged file, fetched from a second store."""

from __future__ import annotations

from stat7store.address import Address
from stat7store.errors import Damaged
from stat7store.store import Store
from stat7store.timing import StageClock
from stat7store.translate import blob_errors

_BLOCK_BYTES = 1024**2


async def repair(store: Store, donor: Store, address: Address) -> None:
    """Store the donor's bytes of a file anew, which heals an entry that is marked as damaged.

    They are compared with the address on their way. Raises ``NotFound`` if the donor has no such
    file, ``DigestMismatch`` or ``Damaged`` if its bytes are damaged too, and what an upload does.
    """
    clock = StageClock()
    entry = await donor.find(address, clock)
    reader = await donor.open(address, entry.locator, None, clock)
    try:
        async with store.upload(entry.record.filename, expected=address) as upload:
            with blob_errors():
                while data := await reader.read(_BLOCK_BYTES):
                    await upload.write(data)
            await upload.commit()
    finally:
        reader.close()
    if (await store.entry(address)).locator.damaged:
        raise Damaged("it is still marked as damaged")
