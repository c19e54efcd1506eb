"""Data sets of real, distinct, decodable files, made in the store's folder at the speed of its disk."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from stat7store.address import Address, Hasher
from stat7store.bulk import Bulk, Incoming
from stat7store.client import Client
from stat7store.errors import Unavailable
from stat7store.latency.choosing import Target
from stat7store.media.copies import distinct_jpeg, distinct_mp4, padded_mp4
from stat7store.media.sniff import HEAD_BYTES, sniff
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings
from storage.base import Buffer, Spool

Maker = Callable[[int], Iterable[Buffer]]
"""Makes the nth file, in pieces; the same one each time."""
Advance = Callable[[int], None]

DEFAULT_SAMPLES = Path(".cache/samples")
_WIDTHS = (160, 256, 384, 512, 768)
_BATCH = 256  # what one sync of the filesystem serves


def image_maker(samples: Path) -> Maker:
    """Return a maker of small JPEGs: every photograph in the folder, in several widths of up to 768 pixels.

    The nth differs from all others in a comment. Raises ``Unavailable`` if there is no photograph.
    """
    photographs = sorted(path for path in samples.glob("*") if path.suffix in (".jpg", ".png"))
    bases = [_scaled(path, width) for width in _WIDTHS for path in photographs]
    if not bases:
        raise Unavailable(f"there are no photographs in {samples}; `make samples` fetches some")
    return lambda n: (distinct_jpeg(bases[n % len(bases)], n),)


def movie_maker(samples: Path, size: int = 0) -> Maker:
    """Return a maker of MP4s: the clips in the folder, padded to ``size`` bytes where they are smaller.

    The nth differs from all others in a ``free`` box. Raises ``Unavailable`` if there is no clip.
    """
    bases = [path.read_bytes() for path in sorted(samples.glob("*.mp4"))]
    if not bases:
        raise Unavailable(f"there are no clips in {samples}; `make samples` fetches some")

    def make(n: int) -> Iterable[Buffer]:
        base = distinct_mp4(bases[n % len(bases)], n)
        return padded_mp4(base, size, n) if size >= len(base) + 16 else (base,)

    return make


async def build_in_folder(data: Path, make: Maker, count: int, name: str, advance: Advance) -> list[Target]:
    """Make the store in this folder hold the first ``count`` files of a maker; return them all.

    What is there already is not written again. Durable on return; a server may run on the folder
    meanwhile. ``advance`` is called with the number of files done.
    """
    settings = Settings(data=data, blobs="")
    prepare(settings)
    targets: list[Target] = []
    async with open_store(settings) as store:
        bulk = store.bulk()
        for start in range(0, count, _BATCH):
            numbers = range(start, min(start + _BATCH, count))
            batch = await asyncio.to_thread(_identify, make, numbers)
            present = await store.present([target.address for target in batch])
            missing = [n for n, target in zip(numbers, batch, strict=True) if target.address not in present]
            if missing:
                new = [(make(n), batch[n - start], f"{name}-{n}") for n in missing]
                await asyncio.to_thread(_store, bulk, new)
            targets += batch
            advance(len(batch))
    return targets


async def build_over_http(url: str, make: Maker, count: int, name: str, advance: Advance) -> list[Target]:
    """Do the same as ``build_in_folder`` to a server whose folder is not at hand, by uploads."""
    targets: list[Target] = []

    async def put(client: Client, n: int) -> Target:
        data = b"".join(make(n))
        stored = await client.put(data, filename=f"{name}-{n}")
        advance(1)
        return Target(Address.parse(stored.address), stored.size)

    async with Client(url) as client:
        numbers = iter(range(count))
        while batch := list(islice(numbers, 16)):
            targets += await asyncio.gather(*(put(client, n) for n in batch))
    return targets


async def sample_of_store(url: str, most: int) -> list[Target]:
    """Return up to ``most`` files of the store, evenly taken from the list of all of them."""
    async with Client(url) as client:
        found = [Target(Address.parse(file.address), file.size) async for file in client.files()]
    step = max(len(found) / most, 1.0)
    return [found[int(place * step)] for place in range(min(most, len(found)))]


def rate_text(targets: Sequence[Target], seconds: float) -> str:
    """Say how much was made, and how fast."""
    size = sum(target.size for target in targets)
    return f"{len(targets)} files, {size / 1e6:.1f} MB in {seconds:.1f} s ({size * 60 / seconds / 1e9:.2f} GB a minute)"


def _store(bulk: Bulk, files: list[tuple[Iterable[Buffer], Target, str]]) -> None:
    """Put a batch: one sync, one transaction."""
    spools: list[Spool] = []
    new: list[Incoming] = []
    try:
        for pieces, target, filename in files:
            spools.append(bulk.spool())
            head = _fill(spools[-1], pieces)
            new.append(Incoming(spools[-1], target.address, sniff(head), filename))
        # while the spools are open no sweep takes these files for orphans
        bulk.keep(new)
    finally:
        for spool in spools:
            spool.close()


def _fill(spool: Spool, pieces: Iterable[Buffer]) -> bytes:
    for piece in pieces:
        spool.append(piece)
    return spool.read(0, HEAD_BYTES)


def _identify(make: Maker, numbers: Iterable[int]) -> list[Target]:
    return [_identified(make(n)) for n in numbers]


def _identified(pieces: Iterable[Buffer]) -> Target:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    return Target(hasher.address(), hasher.size)


def _scaled(path: Path, width: int) -> bytes:
    written = io.BytesIO()
    with Image.open(path, formats=("JPEG", "PNG")) as photograph:
        picture = photograph.convert("RGB")
    picture.thumbnail((width, width))
    picture.save(written, "JPEG", quality=85)
    return written.getvalue()
