"""What every blob backend must hold to. A backend's test class inherits ``BlobContract``.

The hooks at the top change blobs behind the store's back, as rot, mishap and other programs do.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from abc import ABC, abstractmethod
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.base import (
    BlobDamaged,
    BlobMissing,
    BlobStore,
    BlobUnavailable,
    BulkBlobs,
    Claimable,
    LocalFile,
    Location,
    Noted,
    Reader,
    Span,
    Spool,
)

# The examples of one test may well share a store; and an example that fails one backend is worth trying on the next.
_PROPERTY = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)

_HALVES = st.tuples(st.integers(0, 1000), st.integers(0, 1000))


def name_of(data: bytes) -> str:
    """Return the name that these bytes are put under."""
    return hashlib.sha256(data).hexdigest()


async def keep(blobs: BlobStore, data: bytes, name: str | None = None) -> Location:
    """Upload these bytes from beginning to end."""
    spool = await blobs.spool()
    try:
        spool.append(data)
        return await blobs.put(spool, name or name_of(data))
    finally:
        spool.close()


async def read_all(reader: Reader, limit: int = 65536) -> bytes:
    """Read a reader to its end and close it, checking each piece against the promise."""
    pieces = []
    try:
        while piece := await reader.read(limit):
            assert len(piece) <= limit
            pieces.append(piece)
        assert await reader.read(limit) == b""
    finally:
        reader.close()
    return b"".join(pieces)


async def fetch(blobs: BlobStore, location: Location, span: Span | None = None) -> bytes:
    """Return the bytes of a blob or of a span of it."""
    return await read_all(await blobs.open(location, span))


async def listed(blobs: BlobStore, after: Location | None = None) -> list[Location]:
    """Return all locations."""
    return [location async for location in blobs.list(after)]


class BlobContract(ABC):
    """The contract. A subclass provides a fixture ``blobs``, an empty store, and the hooks."""

    kind: str

    @abstractmethod
    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        """Cut a blob off after ``size`` bytes, behind the store's back."""

    @abstractmethod
    def remove(self, blobs: BlobStore, location: Location) -> None:
        """Take a blob away, behind the store's back."""

    @abstractmethod
    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        """Exchange what is at two locations, behind the store's back."""

    @abstractmethod
    def add_foreign(self, blobs: BlobStore) -> None:
        """Put down things that are not blobs of this store, as near to its blobs as possible."""

    async def test_returns_what_was_put(self, blobs: BlobStore) -> None:
        """The bytes that were appended come back, in order, and their number is known from the start."""
        pieces = [os.urandom(1), os.urandom(70_000), b"", os.urandom(4096)]
        spool = await blobs.spool()
        for piece in (pieces[0], bytearray(pieces[1]), pieces[2], memoryview(pieces[3])):
            spool.append(piece)
        data = b"".join(pieces)
        assert spool.size == len(data)
        location = await blobs.put(spool, name_of(data))
        spool.close()
        assert location.name == name_of(data)
        reader = await blobs.open(location)
        assert reader.size == len(data)
        assert await blobs.stat(location) == len(data)
        assert await read_all(reader) == data

    async def test_says_its_kind(self, blobs: BlobStore) -> None:
        """A backend goes by one name in timings and statistics."""
        assert blobs.kind == self.kind

    async def test_keeps_the_empty_blob(self, blobs: BlobStore) -> None:
        """No bytes are bytes too."""
        location = await keep(blobs, b"")
        assert await blobs.stat(location) == 0
        assert await fetch(blobs, location) == b""
        assert await fetch(blobs, location, Span(0, 0)) == b""

    @_PROPERTY
    @given(data=st.binary(max_size=300), halves=_HALVES, limit=st.integers(1, 400))
    async def test_reads_any_span_in_pieces_of_any_size(
        self, blobs: BlobStore, data: bytes, halves: tuple[int, int], limit: int
    ) -> None:
        """A span holds exactly the bytes that a slice of the whole does, however it is read."""
        start, end = sorted(half % (len(data) + 1) for half in halves)
        location = await keep(blobs, data)
        reader = await blobs.open(location, Span(start, end - start))
        assert reader.size == len(data)
        assert await read_all(reader, limit) == data[start:end]
        await blobs.delete(location)

    async def test_reads_a_large_blob_in_odd_pieces(self, blobs: BlobStore) -> None:
        """Pieces that fit neither pages nor windows lose and repeat nothing."""
        data = os.urandom((3 << 20) + 12345)
        location = await keep(blobs, data)
        for limit in (4097, 65535, 1 << 20, 1 << 30):
            assert await read_all(await blobs.open(location), limit) == data
        assert await fetch(blobs, location, Span(1_048_575, 1_048_578)) == data[1_048_575:2_097_153]

    @pytest.mark.parametrize(
        "span", [Span(0, 101), Span(100, 1), Span(101, 0), Span(-1, 10), Span(10, -1), Span(1 << 62, 1)]
    )
    async def test_refuses_a_span_outside_the_blob(self, blobs: BlobStore, span: Span) -> None:
        """A span that is not within the blob is found out at open, before a byte is sent."""
        location = await keep(blobs, bytes(100))
        with pytest.raises(BlobDamaged):
            await blobs.open(location, span)

    async def test_missing_shows_at_open(self, blobs: BlobStore) -> None:
        """A location that was never given out, or is deleted, raises at open and at stat; delete takes it calmly."""
        gone = await keep(blobs, b"gone")
        await blobs.delete(gone)
        never = Location(name_of(b"never"), bytes(8))
        other = Location(gone.name, bytes(8))
        for location in (gone, never, other):
            with pytest.raises(BlobMissing) as caught:
                await blobs.open(location)
            assert caught.value.location == location
            with pytest.raises(BlobMissing):
                await blobs.open(location, Span(0, 1))
            with pytest.raises(BlobMissing):
                await blobs.stat(location)
            await blobs.delete(location)
            await blobs.delete(location)

    async def test_one_name_twice_is_two_blobs(self, blobs: BlobStore) -> None:
        """The same name put twice gets two locations, and each lives and dies alone."""
        one, other = await asyncio.gather(keep(blobs, b"same"), keep(blobs, b"same"))
        assert one != other
        assert one.name == other.name
        await blobs.delete(one)
        assert await fetch(blobs, other) == b"same"
        assert await listed(blobs) == [other]

    async def test_a_location_is_never_used_again(self, blobs: BlobStore) -> None:
        """However often a name is put and deleted, no location comes back."""
        seen = set()
        for _ in range(20):
            location = await keep(blobs, b"again")
            await blobs.delete(location)
            seen.add(location)
        last = await keep(blobs, b"again")
        assert len(seen | {last}) == 21
        for location in seen:
            with pytest.raises(BlobMissing):
                await blobs.open(location)

    async def test_a_location_survives_its_text_form(self, blobs: BlobStore) -> None:
        """A location read back from its text finds the same blob."""
        location = await keep(blobs, b"text")
        assert await fetch(blobs, Location.parse(str(location))) == b"text"

    async def test_a_spool_reads_back(self, blobs: BlobStore) -> None:
        """What was appended can be read before it is put, and nothing beyond it."""
        spool = await blobs.spool()
        spool.append(b"0123456789")
        assert spool.read(2, 3) == b"234"
        assert spool.read(8, 100) == b"89"
        assert spool.read(10, 1) == b""
        assert spool.read(100, 1) == b""
        spool.append(b"ab")
        assert spool.read(0, 100) == b"0123456789ab"
        spool.close()

    async def test_a_spool_not_put_is_gone(self, blobs: BlobStore) -> None:
        """Closing a spool that was not put leaves no trace; closing again does no harm."""
        spool = await blobs.spool()
        spool.append(b"nothing")
        assert await listed(blobs) == []
        spool.close()
        spool.close()
        assert await listed(blobs) == []

    async def test_a_spool_is_put_once(self, blobs: BlobStore) -> None:
        """Once put or closed, a spool takes no bytes and cannot be put: a stored blob never changes."""
        spool = await blobs.spool()
        spool.append(b"once")
        location = await blobs.put(spool, name_of(b"once"))
        with pytest.raises(RuntimeError):
            spool.append(b" more")
        with pytest.raises(RuntimeError):
            await blobs.put(spool, name_of(b"once"))
        spool.close()
        with pytest.raises(RuntimeError):
            spool.append(b" more")
        with pytest.raises(RuntimeError):
            await blobs.put(spool, name_of(b"once"))
        assert await listed(blobs) == [location]
        assert await fetch(blobs, location) == b"once"

    @pytest.mark.parametrize("name", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
    async def test_refuses_a_malformed_name(self, blobs: BlobStore, name: str) -> None:
        """A name is 64 lowercase hex digits; anything else is refused and the spool can still be put."""
        spool = await blobs.spool()
        with pytest.raises(ValueError, match="64"):
            await blobs.put(spool, name)
        await blobs.put(spool, name_of(b""))
        spool.close()

    async def test_hundreds_of_puts_at_once(self, blobs: BlobStore) -> None:
        """Concurrent puts are each kept, whole, under a location of their own; so are concurrent deletes."""
        contents = [b"%d " % number * (number % 7 * 1000 + 1) for number in range(300)]
        locations = await asyncio.gather(*(keep(blobs, data) for data in contents))
        assert len(set(locations)) == len(contents)
        assert await asyncio.gather(*(fetch(blobs, location) for location in locations)) == contents
        assert await listed(blobs) == sorted(locations)
        doomed, kept = locations[:200], locations[200:]
        await asyncio.gather(*(blobs.delete(location) for location in [*doomed, *doomed]))
        assert await listed(blobs) == sorted(kept)
        for location in doomed:
            with pytest.raises(BlobMissing):
                await blobs.stat(location)
        assert await asyncio.gather(*(fetch(blobs, location) for location in kept)) == contents[200:]

    async def test_lists_in_the_order_of_the_text_form(self, blobs: BlobStore) -> None:
        """Listing is ordered by text, and goes on after any location, present or not."""
        names = [f"{folder}{digit * 61}" for folder in ("000", "00f", "010", "abc", "fff") for digit in "0a"]
        locations = [await keep(blobs, b"x", name) for name in names for _ in range(3)]
        ordered = sorted(locations, key=str)
        assert await listed(blobs) == ordered
        for number in (0, 4, 13, len(ordered) - 1):
            assert await listed(blobs, after=ordered[number]) == ordered[number + 1 :]
        await blobs.delete(ordered[4])
        assert await listed(blobs, after=ordered[4]) == ordered[5:]
        assert await listed(blobs, after=Location("0" * 64, b"\0")) == [x for x in ordered if x != ordered[4]]

    async def test_lists_while_blobs_come_and_go(self, blobs: BlobStore) -> None:
        """Whatever is put or deleted during a listing, each blob that stays throughout is listed once."""
        stay = [await keep(blobs, b"stay %d" % number) for number in range(30)]
        go = [await keep(blobs, b"go %d" % number) for number in range(30)]
        seen = []
        async for location in blobs.list():
            seen.append(location)
            if go:
                await blobs.delete(go.pop())
                await keep(blobs, b"come %d" % len(go))
        assert [location for location in seen if location in stay] == sorted(stay)
        assert len(seen) == len(set(seen))

    async def test_a_reader_survives_the_delete(self, blobs: BlobStore) -> None:
        """A download that has begun ends whole, though the blob is deleted meanwhile."""
        data = os.urandom(200_000)
        location = await keep(blobs, data)
        reader = await blobs.open(location)
        begun = await reader.read(1000)
        await blobs.delete(location)
        assert begun + await read_all(reader) == data

    async def test_readers_do_not_disturb_each_other(self, blobs: BlobStore) -> None:
        """Many readers of one blob at once each get all of it."""
        data = os.urandom(100_000)
        location = await keep(blobs, data)
        readers = [await blobs.open(location) for _ in range(20)]
        got = await asyncio.gather(*(read_all(reader, 999 + number) for number, reader in enumerate(readers)))
        assert got == [data] * 20

    async def test_closing_a_reader_twice(self, blobs: BlobStore) -> None:
        """A reader may be closed again, and before its end."""
        location = await keep(blobs, bytes(1000))
        reader = await blobs.open(location)
        await reader.read(10)
        reader.close()
        reader.close()

    async def test_a_local_file_is_the_blob(self, blobs: BlobStore) -> None:
        """The descriptor of a reader's file, where there is one, shows the blob at the blob's own offsets."""
        data = os.urandom(50_000)
        location = await keep(blobs, data)
        reader = await blobs.open(location, Span(1000, 2000))
        if isinstance(reader, LocalFile):
            await reader.warm(1000, 2000)
            assert os.pread(reader.fileno(), 2000, 1000) == data[1000:3000]
            await reader.warm(0, len(data))
            await reader.warm(len(data), 0)
            with pytest.raises(BlobDamaged):
                await reader.warm(len(data) - 1, 2)
        reader.close()

    async def test_a_note_is_replaced(self, blobs: BlobStore) -> None:
        """A note that was never written is None, the last one written is what is read, and it is no blob."""
        if isinstance(blobs, Noted):
            assert await blobs.note("note.json") is None
            for text in (b"first", b"second, and longer", b"3rd"):
                await blobs.write_note("note.json", text)
                assert await blobs.note("note.json") == text
            assert [location async for location in blobs.list()] == []

    async def test_a_cancelled_put_leaves_nothing_half_done(self, blobs: BlobStore) -> None:
        """An upload given up at any moment leaves either nothing or a whole blob."""
        data = os.urandom(10_000)
        for patience in (0, 0.0001, 0.0005, 0.002) * 5:
            task = asyncio.create_task(keep(blobs, data))
            await asyncio.sleep(patience)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await keep(blobs, b"the last in the queue")
        for location in await listed(blobs):
            assert name_of(await fetch(blobs, location)) == location.name

    async def test_checks_and_closes(self, blobs: BlobStore) -> None:
        """An open store can serve; a closed one says that it cannot, and may be closed again."""
        location = await keep(blobs, b"x")
        await blobs.check()
        await blobs.close()
        await blobs.close()
        with pytest.raises(BlobUnavailable):
            await blobs.check()
        with pytest.raises(BlobUnavailable):
            await blobs.spool()
        with pytest.raises(BlobUnavailable):
            await blobs.open(location)
        with pytest.raises(BlobUnavailable):
            await blobs.delete(location)
        with pytest.raises(BlobUnavailable):
            await listed(blobs)

    async def test_a_put_after_close_is_refused(self, blobs: BlobStore) -> None:
        """A spool that outlives its store cannot be put any more."""
        spool = await blobs.spool()
        await blobs.close()
        with pytest.raises(BlobUnavailable):
            await blobs.put(spool, name_of(b""))
        spool.close()

    async def test_a_removed_blob_is_missing(self, blobs: BlobStore) -> None:
        """A blob taken away behind the store's back is missing like any other, and its delete is no error."""
        location = await keep(blobs, b"removed")
        self.remove(blobs, location)
        with pytest.raises(BlobMissing):
            await blobs.open(location)
        with pytest.raises(BlobMissing):
            await blobs.stat(location)
        assert await listed(blobs) == []
        await blobs.delete(location)

    @pytest.mark.parametrize("left", [0, 1, 4095, 4096, 99_999])
    async def test_a_truncated_blob_shows_its_real_size(self, blobs: BlobStore, left: int) -> None:
        """A blob cut off behind the store's back says so by its size, and a span beyond the cut is refused."""
        data = os.urandom(100_000)
        location = await keep(blobs, data)
        self.truncate(blobs, location, left)
        assert await blobs.stat(location) == left
        reader = await blobs.open(location)
        assert reader.size == left
        assert await read_all(reader) == data[:left]
        with pytest.raises(BlobDamaged):
            await blobs.open(location, Span(0, len(data)))

    async def test_swapped_blobs_are_read_as_they_are(self, blobs: BlobStore) -> None:
        """Of a blob exchanged for another, size and bytes agree with each other: never a silent short read."""
        short, long = b"short", os.urandom(100_000)
        one, other = await keep(blobs, short), await keep(blobs, long)
        self.swap(blobs, one, other)
        for location, data in ((one, long), (other, short)):
            reader = await blobs.open(location)
            assert reader.size == len(data)
            assert await read_all(reader) == data
        with pytest.raises(BlobDamaged):
            await blobs.open(other, Span(0, len(long)))

    async def test_foreign_things_are_passed_over(self, blobs: BlobStore) -> None:
        """What others put among the blobs is neither listed nor in the way."""
        before = await keep(blobs, b"before")
        self.add_foreign(blobs)
        after = await keep(blobs, b"after")
        assert await listed(blobs) == sorted([before, after])
        await blobs.check()
        assert await fetch(blobs, before) == b"before"
        await blobs.delete(before)
        assert await listed(blobs) == [after]


class ClaimContract(BlobContract):
    """What a backend must hold to that is ``Claimable`` as well."""

    async def test_claims_only_what_is_no_upload(self, blobs: BlobStore) -> None:
        """A blob can be claimed once its spool is closed, by one at a time, and never when it is missing."""
        assert isinstance(blobs, Claimable)
        spool = await blobs.spool()
        spool.append(b"claimed")
        location = await blobs.put(spool, name_of(b"claimed"))
        with blobs.claim(location) as claimed:
            assert not claimed
        spool.close()
        for _ in range(2):
            with blobs.claim(location) as claimed:
                assert claimed
                with blobs.claim(location) as again:
                    assert not again
        with pytest.raises(KeyError), blobs.claim(location):
            raise KeyError
        with blobs.claim(location) as claimed:
            assert claimed
            await blobs.delete(location)
        with blobs.claim(location) as claimed:
            assert not claimed

    async def test_a_reader_is_no_claim(self, blobs: BlobStore) -> None:
        """Being read does not keep a blob from being claimed."""
        assert isinstance(blobs, Claimable)
        location = await keep(blobs, b"read")
        reader = await blobs.open(location)
        with blobs.claim(location) as claimed:
            assert claimed
        assert await read_all(reader) == b"read"

    async def test_a_cancelled_put_can_be_claimed(self, blobs: BlobStore) -> None:
        """What an upload leaves that was given up at any moment can be claimed."""
        assert isinstance(blobs, Claimable)
        data = os.urandom(10_000)
        for patience in (0, 0.0001, 0.0005, 0.002) * 5:
            task = asyncio.create_task(keep(blobs, data))
            await asyncio.sleep(patience)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await keep(blobs, b"the last in the queue")
        for location in await listed(blobs):
            with blobs.claim(location) as claimed:
                assert claimed

    async def test_a_removed_blob_cannot_be_claimed(self, blobs: BlobStore) -> None:
        """A blob taken away behind the store's back is no one's to claim."""
        assert isinstance(blobs, Claimable)
        location = await keep(blobs, b"removed")
        self.remove(blobs, location)
        with blobs.claim(location) as claimed:
            assert not claimed


class BulkBlobContract:
    """For backends that are ``BulkBlobs`` too: inherit it before ``BlobContract``."""

    async def test_many_are_kept_at_once(self, blobs: BlobStore) -> None:
        """Every spool of a bulk put is read back whole, from the location that was returned in its place."""
        bulk = in_bulk(blobs)
        contents = [b"%d" % number * 1000 for number in range(20)]
        locations = bulk.put_all([(filled(bulk, data), name_of(data)) for data in contents])
        assert [await fetch(blobs, location) for location in locations] == contents
        assert await listed(blobs) == sorted(locations)

    async def test_no_blobs_are_no_locations(self, blobs: BlobStore) -> None:
        """Putting nothing is no error."""
        assert in_bulk(blobs).put_all([]) == []

    async def test_one_that_cannot_be_put_stops_all(self, blobs: BlobStore) -> None:
        """When one spool of a bulk put is refused, none of them is kept."""
        bulk = in_bulk(blobs)
        good, closed = filled(bulk, b"good"), filled(bulk, b"closed")
        closed.close()
        with pytest.raises(RuntimeError):
            bulk.put_all([(good, name_of(b"good")), (closed, name_of(b"closed"))])
        with pytest.raises(ValueError, match="64"):
            bulk.put_all([(filled(bulk, b"other"), name_of(b"other")), (filled(bulk, b"named"), "../named")])
        good.close()
        assert await listed(blobs) == []

    async def test_a_spool_can_be_passed_on(self, blobs: BlobStore) -> None:
        """A spool that was passed on is whole for whoever takes it over, and useless where it was."""
        bulk = in_bulk(blobs)
        spool = filled(bulk, b"passed on")
        passed = bulk.pass_on(spool)
        theirs = passed._replace(file=os.dup(passed.file))  # as another process receives it
        os.close(passed.file)
        spool.close()
        with pytest.raises(RuntimeError):
            bulk.pass_on(spool)
        taken = bulk.take_over(theirs)
        assert (taken.size, taken.read(0, 100)) == (9, b"passed on")
        (location,) = bulk.put_all([(taken, name_of(b"passed on"))])
        if isinstance(blobs, Claimable):
            with blobs.claim(location) as claimed:
                assert not claimed
        taken.close()
        assert await fetch(blobs, location) == b"passed on"
        if isinstance(blobs, Claimable):
            with blobs.claim(location) as claimed:
                assert claimed

    async def test_what_is_held_is_known_by_its_size(self, blobs: BlobStore) -> None:
        """A blob is held under its own size alone, and no more once it is gone."""
        bulk = in_bulk(blobs)
        (location,) = bulk.put_all([(filled(bulk, b"held"), name_of(b"held"))])
        assert bulk.holds(location, 4)
        assert not bulk.holds(location, 5)
        await blobs.delete(location)
        assert not bulk.holds(location, 4)


def in_bulk(blobs: BlobStore) -> BulkBlobs:
    """Say that this backend takes many blobs at once."""
    assert isinstance(blobs, BulkBlobs)
    return blobs


def filled(bulk: BulkBlobs, data: bytes) -> Spool:
    """Return a new spool with these bytes."""
    spool = bulk.spool_now()
    spool.append(data)
    return spool
