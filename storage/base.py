"""What a blob backend is: the protocol, the values it trades in, and how it can fail."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

Buffer = bytes | bytearray | memoryview

_LOCATION = re.compile(r"[0-9a-f]{3}/([0-9a-f]{64})\.([0-9a-f]{2,32})")


class Location(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a backend keeps one blob. A location is never used twice.

    ``name`` is the 64 lowercase hex digits the blob was put under; ``token`` (1 to 16 bytes) is
    the backend's own and opaque to everyone else. The same name put twice gets two locations.
    """

    name: str
    token: bytes

    def __str__(self) -> str:
        return f"{self.name[:3]}/{self.name}.{self.token.hex()}"

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read the form that ``str`` writes; raise ``ValueError`` for anything else."""
        match = _LOCATION.fullmatch(text)
        if match is None or text[:3] != match[1][:3] or len(match[2]) % 2:
            raise ValueError(f"not a blob location: {text!r}")
        return cls(match[1], bytes.fromhex(match[2]))


class Span(NamedTuple):
    """A run of bytes within a blob: ``start`` ≥ 0 and ``length`` ≥ 0, in bytes."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class BlobError(Exception):
    """Root of everything a blob backend raises."""


class BlobMissing(BlobError):
    """There is no blob at this location."""

    def __init__(self, location: Location) -> None:
        super().__init__(f"no blob at {location}")
        self.location = location


class BlobDamaged(BlobError):
    """The blob at this location is not what was put there (it ends early, or it was altered)."""

    def __init__(self, location: Location, reason: str) -> None:
        super().__init__(f"blob at {location} is damaged: {reason}")
        self.location = location


class BlobUnavailable(BlobError):
    """The backend cannot do this now; nothing was acknowledged, and a later try may succeed."""


class BlobUnreadable(BlobUnavailable):
    """The disk itself says that it cannot read this blob: the bytes are lost, unless it fails as a whole."""


class BlobNoSpace(BlobUnavailable):
    """The backend has no room left."""


class Spool(Protocol):
    """Bytes on their way in: private to one upload, gone when closed unless put.

    ``append`` and ``read`` block and may be called from any one thread at a time. While a spool is
    open, nothing that was put from it is taken for an orphan (see ``Claimable``).
    """

    @property
    def size(self) -> int:
        """Bytes appended so far."""

    def append(self, data: Buffer) -> None:
        """Add bytes at the end. Raises ``BlobNoSpace`` or ``BlobUnavailable``."""

    def read(self, start: int, length: int) -> bytes:
        """Bytes already appended; fewer than ``length`` only at the end."""

    def close(self) -> None:
        """Let go of it; repeats are harmless. What was put stays, what was not is gone."""


class PassedOn(NamedTuple):
    """A spool on its way to another process: its open file, which goes by itself, its name if it has one, its size."""

    file: int
    name: str
    size: int


class Reader(Protocol):
    """Bytes on their way out: one span of one blob, in order."""

    @property
    def size(self) -> int:
        """Bytes in the whole blob, known before the first is read."""

    @property
    def source(self) -> str:
        """Slowest place read from so far: ``memory``, ``page cache``, ``cache``, ``disk``, ``s3``."""

    async def read(self, limit: int) -> bytes:
        """Return the next bytes of the span, 1 to ``limit`` of them; ``b""`` at its end only.

        Raises ``BlobDamaged`` if the blob ends before the span does, ``BlobUnreadable`` if its disk
        cannot read it.
        """

    def close(self) -> None:
        """Let go of it; repeats are harmless."""


@runtime_checkable
class LocalFile(Protocol):
    """A reader whose bytes lie in a local file, and so can be sent without copying them."""

    @property
    def source(self) -> str:
        """See ``Reader``."""

    def fileno(self) -> int:
        """Return the file descriptor; it belongs to the reader. Offsets in it are those of the blob."""

    async def warm(self, start: int, length: int) -> None:
        """Bring these bytes of the blob into memory, so that sending them does not wait for disk.

        Raises ``BlobDamaged`` if the blob ends before they do.
        """


class BlobStore(Protocol):
    """A place for blobs. Every method may raise ``BlobUnavailable``."""

    @property
    def kind(self) -> str:
        """Name of the backend in timings and statistics: ``filesystem``, ``memory``, ``s3``."""

    async def spool(self) -> Spool:
        """Return a new, empty spool, on the same storage that ``put`` will keep it on."""

    async def put(self, spool: Spool, name: str) -> Location:
        """Keep what was spooled under a new location. Durable on return.

        ``name`` is 64 lowercase hex digits. The spool stays open, and so claims the location until
        it is closed. Raises ``BlobNoSpace`` or ``BlobUnavailable``; nothing is kept then, and the
        spool must not be put again.
        """

    async def open(self, location: Location, span: Span | None = None) -> Reader:
        """Return a reader of a span, or of the whole blob. Raises ``BlobMissing``.

        Raises ``BlobDamaged`` if the span does not lie within the blob.
        """

    async def stat(self, location: Location) -> int:
        """Return the size in bytes. Raises ``BlobMissing``."""

    async def delete(self, location: Location) -> None:
        """Remove the blob for good. Durable on return; a missing one is no error."""

    def list(self, after: Location | None = None) -> AsyncIterator[Location]:
        """Yield all locations in the order of their text form, those up to ``after`` left out."""

    async def check(self) -> None:
        """Return if the backend can serve; raise ``BlobUnavailable`` if not."""

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""


@runtime_checkable
class Claimable(Protocol):
    """A backend that can tell a blob of a living upload from one left behind by a dead one."""

    def claim(self, location: Location) -> AbstractContextManager[bool]:
        """Hold the blob for the length of the context.

        The value is False if a spool that was put there is still open (in any process), or if the
        blob is missing; then nothing may be concluded about it.
        """


@runtime_checkable
class BulkBlobs(Protocol):
    """A backend that takes many blobs in one go. Every method blocks, and may be called from any thread."""

    def spool_now(self) -> Spool:
        """See ``BlobStore.spool``."""

    def pass_on(self, spool: Spool) -> PassedOn:
        """Let go of a spool without closing it, for ``take_over`` in any process that uses these blobs.

        Its file is the caller's to close.
        """

    def take_over(self, spool: PassedOn) -> Spool:
        """Return a spool that was passed on; its file, which may be a duplicate, is the spool's from then on."""

    def put_all(self, blobs: Sequence[tuple[Spool, str]]) -> list[Location]:
        """Keep every spool under its name, or none of them; otherwise as ``BlobStore.put`` says."""

    def holds(self, location: Location, size: int) -> bool:
        """Tell whether there is a blob of that size in bytes. Raises ``BlobUnavailable``."""


@runtime_checkable
class Planned(Protocol):
    """A backend whose locations are known before the bytes are there, so that an intent can be kept first.

    It is for backends without ``Claimable``: a living upload is then told from a dead one by its intent.
    """

    def plan(self, name: str) -> Location:
        """Return a new location for a blob of this name; nothing is there yet."""

    async def put_at(self, spool: Spool, location: Location) -> None:
        """Keep what was spooled at a location that ``plan`` gave; otherwise as ``BlobStore.put`` says."""


@runtime_checkable
class Presigned(Protocol):
    """A backend that clients may be sent to."""

    async def url(self, location: Location, *, seconds: int, media_type: str, disposition: str) -> str:
        """Return a URL that gives the blob for so long, with that Content-Type and Content-Disposition."""


@runtime_checkable
class Ownable(Protocol):
    """A backend that several stores could be told to use, and that must not be shared: each sweeps all it finds."""

    async def own(self, owner: str) -> None:
        """Take it for an owner (1 to 64 ASCII characters), for good; again for the same one is no error.

        Raises ``BlobUnavailable`` if it is another's.
        """


@runtime_checkable
class Noted(Protocol):
    """A backend that keeps small notes beside its blobs; a name is a plain file name that no blob could have."""

    async def note(self, name: str) -> bytes | None:
        """Return a note, of 1 to 1024 bytes; None if there is none."""

    async def write_note(self, name: str, data: bytes) -> None:
        """Write a note, or put it in the place of the old one in one step. Durable on return."""


@runtime_checkable
class Unfinished(Protocol):
    """A backend on which a crash can leave uploads that never finished."""

    async def abort_unfinished(self, older_than_s: float) -> int:
        """Drop uploads that are known to be dead, or were begun longer ago than that; return how many."""


@runtime_checkable
class Counted(Protocol):
    """A backend that counts what it does, for statistics."""

    def counts(self) -> dict[str, int]:
        """Return what was counted since it was opened, by name, such as ``cache_hits`` or ``s3_retries``."""


@runtime_checkable
class Forgetful(Protocol):
    """A backend on a medium that memory stands in front of, and that can be read past it."""

    async def forget(self, location: Location) -> None:
        """Drop what memory holds of a blob, so that the next read comes from the medium.

        Raises ``BlobMissing``. What other readers hold, or what is not yet written, may stay.
        """


@runtime_checkable
class Fronting(Protocol):
    """A backend that stands in front of another one, such as a cache."""

    @property
    def behind(self) -> BlobStore:
        """The backend that really holds the blobs; whoever scrubs reads from there."""


@runtime_checkable
class ImmediateFile(Protocol):
    """An open blob whose bytes are had at once if they are in memory; it is closed when nobody holds it."""

    @property
    def size(self) -> int:
        """Bytes in the blob when it was opened."""

    @property
    def source(self) -> str:
        """Where its bytes come from: see ``Reader``."""

    def fileno(self) -> int:
        """Return the file descriptor; it belongs to this object. Offsets in it are those of the blob."""

    def fill(self, buffer: memoryview, start: int) -> bool:
        """Fill the buffer with the bytes from ``start``; False if that would mean to wait, or they are not there."""

    def is_resident(self, start: int, length: int) -> bool:
        """Tell whether all these bytes are in memory; False also where that cannot be known."""


@runtime_checkable
class Immediate(Protocol):
    """A backend that has some blobs at hand, and so can open them without leaving the event loop."""

    def open_now(self, location: Location) -> ImmediateFile | None:
        """Open a blob if that takes no waiting. None means: ask ``BlobStore.open``, which also tells what is amiss."""
