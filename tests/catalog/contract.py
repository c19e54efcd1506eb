"""The contract that every catalog keeps. A catalog's tests inherit it and say how to open one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stat7store.address import Address
from stat7store.catalog.base import BulkCatalog, Catalog, Counters, Intent, NewFile, Query
from stat7store.errors import Conflict, Damaged, Malformed, NotFound, Unavailable
from stat7store.record import Entry, FileRecord, Locator, Media, Place
from storage.base import Location
from tests.catalog.making import address_of, all_pages, listed, new_file, new_location, new_place, read_entry
from tests.catalog.model import brute_force
from tests.catalog.queries import queries, some_files


def renamed(record: FileRecord) -> FileRecord:
    """Give the record another file name."""
    return msgspec.structs.replace(record, filename="renamed.png")


def linked(*numbers: int) -> tuple[bytes, ...]:
    """Return the adjacency that names these files, in no order."""
    return tuple(sorted((address_of(number) for number in numbers), reverse=True))


def intended_file(number: int, backend: int = 0) -> NewFile:
    """Return a file at a new place, for which an intent is to be kept."""
    file = new_file(number)
    return NewFile(file.record, file.size, file.media_type, file.location, backend, intended=True)


def replacing(file: NewFile, place: Place) -> NewFile:
    """Return the file as one that heals what is at a place."""
    return dataclasses.replace(file, replaces=place)


class CatalogContract:
    """Inherit, and return an open catalog, kept in the folder, from ``open``."""

    async def open(self, folder: Path) -> Catalog:
        raise NotImplementedError

    @pytest.fixture
    async def catalog(self, tmp_path: Path) -> AsyncIterator[Catalog]:
        """A new, empty catalog."""
        catalog = await self.open(tmp_path / "catalog")
        yield catalog
        await catalog.close()

    # Adding and reading

    async def test_what_was_added_is_read_back(self, catalog: Catalog) -> None:
        """Index and metadata stage return exactly what was added."""
        file = new_file(1, size=2**40)
        added = await catalog.add(file)
        assert added.created
        assert added.entry == await read_entry(catalog, address_of(1))
        assert added.entry.record == file.record
        locator = added.entry.locator
        assert locator == Locator(locator.number, 2**40, "image/png", file.location, backend=0, damaged=False)

    async def test_every_field_of_a_record_survives(self, catalog: Catalog) -> None:
        """A record with no field at its default is read back equal."""
        await catalog.add(new_file(1))
        file = new_file(
            2,
            media_type="video/mp4",
            adjacency=linked(1),
            lineage=3,
            horizon="decay",
            resonance=-0.25,
            velocity=1.0,
            density=0.5,
            realm="movie",
            filename="Grüße 🎬.mp4",
            tags=("b", "a", "ü" * 400),
            stored_at=-5,
            media=Media(1920, 1080, 250, 10.0, "h264"),
        )
        file = NewFile(file.record, file.size, file.media_type, file.location, backend=7)
        await catalog.add(file)
        entry = await read_entry(catalog, address_of(2))
        assert entry.record == file.record
        assert entry.locator.backend == 7

    async def test_tokens_of_every_length_come_back(self, catalog: Catalog) -> None:
        """A location's token may have 1 to 16 bytes, zeros at its end included."""
        for length in range(1, 17):
            file = new_file(length)
            location = Location(file.location.name, bytes([length] + [0] * (length - 1)))
            await catalog.add(NewFile(file.record, 1, "image/png", location))
            assert (await catalog.lookup(address_of(length))).location == location

    async def test_an_unknown_address_is_not_found(self, catalog: Catalog) -> None:
        """Every verb that needs an entry says NotFound where there is none."""
        address = address_of(1)
        locator = (await catalog.add(new_file(1))).entry.locator
        await catalog.remove(address)
        with pytest.raises(NotFound):
            await catalog.lookup(address)
        with pytest.raises(NotFound):
            await catalog.record(address, locator)
        with pytest.raises(NotFound):
            await catalog.update(address, renamed)
        with pytest.raises(NotFound):
            await catalog.remove(address)
        await catalog.mark_damaged(address, locator.place)

    async def test_a_record_is_that_of_the_address(self, catalog: Catalog) -> None:
        """A locator that leads to another file's record is damage: that record is not returned."""
        await catalog.add(new_file(1))
        locator = (await catalog.add(new_file(2))).entry.locator
        with pytest.raises(Damaged):
            await catalog.record(address_of(1), locator)

    async def test_a_location_of_another_address_is_refused(self, catalog: Catalog) -> None:
        """A location whose name is not the address is a mistake of the caller, and changes nothing."""
        file = new_file(1)
        with pytest.raises(ValueError, match="not a location"):
            await catalog.add(NewFile(file.record, 1, "image/png", new_location(address_of(2))))
        assert await catalog.counters() == Counters()

    async def test_the_same_address_again_keeps_the_entry(self, catalog: Catalog) -> None:
        """The second upload's location becomes garbage, and the first entry stays as it was."""
        first = await catalog.add(new_file(1))
        second = new_file(1, size=5, filename="other.png")
        again = await catalog.add(second)
        assert not again.created
        assert again.entry == first.entry == await read_entry(catalog, address_of(1))
        assert await catalog.garbage(10) == [second.place]

    async def test_the_same_call_again_makes_no_garbage(self, catalog: Catalog) -> None:
        """A caller who did not learn the outcome may add the same location again."""
        file = new_file(1)
        await catalog.add(file)
        assert not (await catalog.add(file)).created
        assert await catalog.garbage(10) == []

    async def test_an_upload_heals(self, catalog: Catalog) -> None:
        """An entry at the location to be replaced moves to the new one, and its damage mark goes."""
        old = (await catalog.add(new_file(1))).entry
        await catalog.mark_damaged(address_of(1), old.locator.place)
        assert (await catalog.lookup(address_of(1))).damaged
        new = new_file(1, media_type="image/gif", filename="other.gif")
        healing = NewFile(new.record, new.size, new.media_type, new.location, replaces=old.locator.place)
        healed = await catalog.add(healing)
        assert not healed.created
        assert healed.entry == await read_entry(catalog, address_of(1))
        assert healed.entry.locator == Locator(old.locator.number, 1000, "image/gif", new.location)
        assert healed.entry.record == old.record
        assert await catalog.garbage(10) == [old.locator.place]
        assert [entry.locator.location for entry in await listed(catalog, Query(media_type="image/gif"))] == [
            new.location
        ]
        assert await listed(catalog, Query(media_type="image/png")) == []

    async def test_only_the_first_of_two_healers_heals(self, catalog: Catalog) -> None:
        """Who replaces a location that the entry has left already makes garbage of his own."""
        old = new_file(1)
        await catalog.add(old)
        healers = [NewFile(file.record, 1, "image/png", file.location, replaces=old.place) for file in _again(1, 2)]
        await asyncio.gather(*map(catalog.add, healers))
        kept = (await catalog.lookup(address_of(1))).location
        lost = next(healer.place for healer in healers if healer.location != kept)
        assert set(await catalog.garbage(10)) == {old.place, lost}

    async def test_a_healer_of_nothing_adds(self, catalog: Catalog) -> None:
        """If the entry was removed in the meantime, the healing upload is an upload."""
        file = new_file(1)
        added = await catalog.add(
            NewFile(file.record, 1, "image/png", file.location, replaces=new_place(address_of(1)))
        )
        assert added.created

    async def test_damage_is_marked_where_it_was_found(self, catalog: Catalog) -> None:
        """A mark for a location that the entry has left changes nothing."""
        await catalog.add(new_file(1))
        await catalog.mark_damaged(address_of(1), new_place(address_of(1)))
        assert not (await catalog.lookup(address_of(1))).damaged

    async def test_a_mark_is_taken_back_where_the_entry_is(self, catalog: Catalog) -> None:
        """Only at the place that was looked at, and only once."""
        place = (await catalog.add(new_file(1))).entry.locator.place
        assert not await catalog.mark_sound(address_of(1), place)
        await catalog.mark_damaged(address_of(1), place)
        assert not await catalog.mark_sound(address_of(1), new_place(address_of(1)))
        assert (await catalog.counters()).damaged == 1
        assert await catalog.mark_sound(address_of(1), place)
        assert not (await catalog.lookup(address_of(1))).damaged
        assert (await catalog.counters()).damaged == 0
        assert not await catalog.mark_sound(address_of(2), place)

    async def test_of_many_at_once_one_creates(self, catalog: Catalog) -> None:
        """Of concurrent uploads of the same bytes one is created, and all others become garbage."""
        added = await asyncio.gather(*(catalog.add(file) for file in _again(1, 40)))
        assert sum(each.created for each in added) == 1
        assert len({each.entry.locator.location for each in added}) == 1
        assert len(await catalog.garbage(100)) == 39
        assert (await catalog.counters()).files == 1

    async def test_numbers_are_never_used_twice(self, catalog: Catalog) -> None:
        """A file that comes back after its removal gets a new number, and no old locator reads it."""
        old = (await catalog.add(new_file(1))).entry.locator
        await catalog.remove(address_of(1))
        new = (await catalog.add(new_file(1))).entry.locator
        assert new.number > old.number
        with pytest.raises(NotFound):
            await catalog.record(address_of(1), old)

    # Updating

    async def test_an_update_makes_the_next_revision(self, catalog: Catalog) -> None:
        """The changed record is stored, and every index knows the new value instead of the old."""
        await catalog.add(new_file(1))
        entry = await catalog.update(
            address_of(1), lambda record: msgspec.structs.replace(record, horizon="peak", tags=("new",)), revision=1
        )
        assert entry.record.revision == 2
        assert entry == await read_entry(catalog, address_of(1))
        assert await listed(catalog, Query(tag="new")) == [entry]
        assert await listed(catalog, Query(horizon="peak")) == [entry]
        assert await listed(catalog, Query(horizon="genesis")) == []

    async def test_an_update_of_an_old_revision_conflicts(self, catalog: Catalog) -> None:
        """Of two who change the same revision, the second is told."""
        await catalog.add(new_file(1))
        outcomes = await asyncio.gather(
            *(catalog.update(address_of(1), renamed, revision=1) for _ in range(2)), return_exceptions=True
        )
        assert sorted(map(type, outcomes), key=str) == sorted([Entry, Conflict], key=str)
        assert (await read_entry(catalog, address_of(1))).record.revision == 2

    async def test_adjacency_is_kept_sorted_and_unique(self, catalog: Catalog) -> None:
        """However it is given, adjacency is stored in order and without repeats."""
        for number in range(4):
            await catalog.add(new_file(number))
        given = (*linked(1, 2, 3), address_of(1))
        entry = await catalog.update(address_of(0), lambda record: msgspec.structs.replace(record, adjacency=given))
        assert entry.record.adjacency == tuple(sorted(address_of(number) for number in (1, 2, 3)))
        assert await listed(catalog, Query(adjacency=address_of(2))) == [entry]

    @pytest.mark.parametrize("neighbours", [(1,), (2,), (2, 9)])
    async def test_adjacency_names_other_files_of_the_store(
        self, catalog: Catalog, neighbours: tuple[int, ...]
    ) -> None:
        """The file itself and absent files are refused as neighbours, and nothing changes."""
        await catalog.add(new_file(1))
        await catalog.add(new_file(3))
        before = await read_entry(catalog, address_of(1))
        with pytest.raises(Malformed):
            await catalog.update(
                address_of(1), lambda record: msgspec.structs.replace(record, adjacency=linked(3, *neighbours))
            )
        assert await read_entry(catalog, address_of(1)) == before

    async def test_a_record_stays_at_its_address(self, catalog: Catalog) -> None:
        """A change that gives the record another address is refused."""
        await catalog.add(new_file(1))
        with pytest.raises(Malformed):
            await catalog.update(
                address_of(1), lambda record: msgspec.structs.replace(record, address=bytes(address_of(2)))
            )

    async def test_a_new_file_leaves_out_neighbours_that_are_gone(self, catalog: Catalog) -> None:
        """A neighbour that was removed while the file was on its way is not in its adjacency."""
        await catalog.add(new_file(1))
        entry = (await catalog.add(new_file(2, adjacency=linked(1, 7)))).entry
        assert entry.record.adjacency == (address_of(1),)

    async def test_what_refuses_disturbs_nobody(self, catalog: Catalog) -> None:
        """Operations that fail leave no trace, and those that wait beside them succeed."""
        await catalog.add(new_file(0))

        def refuse(record: FileRecord) -> FileRecord:
            raise KeyError(record.filename)

        outcomes = await asyncio.gather(
            *(catalog.add(new_file(number)) for number in range(1, 21)),
            catalog.update(address_of(0), refuse),
            catalog.update(address_of(0), renamed, revision=9),
            catalog.remove(address_of(99)),
            catalog.add(new_file(50, density=float("nan"))),
            catalog.add(new_file(51, size=-1)),
            catalog.update(address_of(0), lambda record: msgspec.structs.replace(record, velocity=float("nan"))),
            *(catalog.add(new_file(number)) for number in range(21, 41)),
            return_exceptions=True,
        )
        refusals = [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]
        assert refusals[:4] == [KeyError, Conflict, NotFound, Malformed]
        assert len(refusals) == 6
        assert refusals[5] is Malformed
        assert (await read_entry(catalog, address_of(0))).record.revision == 1
        assert (await catalog.counters()).files == 41 == len(await listed(catalog))
        assert len(await listed(catalog, Query(sort="density"))) == 41
        assert await catalog.present([address_of(50), address_of(51)]) == set()

    # Removing

    async def test_what_was_removed_is_gone_everywhere(self, catalog: Catalog) -> None:
        """After a removal no stage, query or total knows the file, and its location is garbage."""
        file = new_file(1, tags=("tag",), realm="movie")
        await catalog.add(file)
        await catalog.remove(address_of(1))
        assert await catalog.present([address_of(1)]) == set()
        for query in (Query(), Query(tag="tag"), Query(realm="movie"), Query(sort="size")):
            assert await listed(catalog, query) == []
        assert await catalog.counters() == Counters(garbage=1)
        assert await catalog.garbage(10) == [file.place]

    async def test_a_removed_neighbour_leaves(self, catalog: Catalog) -> None:
        """A removal takes the address out of all who name it, and makes a revision of each."""
        for number in range(3):
            await catalog.add(new_file(number))
        await catalog.add(new_file(3, adjacency=linked(0, 1)))
        await catalog.add(new_file(4, adjacency=linked(1)))
        await catalog.remove(address_of(1))
        third, fourth = [await read_entry(catalog, address_of(number)) for number in (3, 4)]
        assert (third.record.adjacency, third.record.revision) == ((address_of(0),), 2)
        assert (fourth.record.adjacency, fourth.record.revision) == ((), 2)
        assert await listed(catalog, Query(adjacency=address_of(1))) == []
        assert await listed(catalog, Query(adjacency=address_of(0))) == [third]
        assert (await read_entry(catalog, address_of(2))).record.revision == 1

    async def test_mutual_neighbours_can_be_removed(self, catalog: Catalog) -> None:
        """Two files that name each other are removed one after the other."""
        await catalog.add(new_file(1))
        await catalog.add(new_file(2, adjacency=linked(1)))
        await catalog.update(address_of(1), lambda record: msgspec.structs.replace(record, adjacency=linked(2)))
        await asyncio.gather(catalog.remove(address_of(1)), catalog.remove(address_of(2)))
        assert await listed(catalog) == []

    # Garbage

    async def test_garbage_comes_oldest_first(self, catalog: Catalog) -> None:
        """The queue is in the order of removal, and what is forgotten leaves it."""
        files = [new_file(number) for number in range(6)]
        for file in files:
            await catalog.add(file)
        order = [3, 0, 5, 1]
        for number in order:
            await catalog.remove(address_of(number))
        places = [files[number].place for number in order]
        assert await catalog.garbage(2) == places[:2]
        assert await catalog.garbage_among([places[2], new_place(address_of(1)), places[0]]) == {places[0], places[2]}
        await catalog.forget_garbage([places[1], places[1], new_place(address_of(1))])
        await catalog.forget_garbage([places[1]])
        assert await catalog.garbage(10) == [places[0], *places[2:]]
        assert (await catalog.counters()).garbage == 3

    async def test_garbage_of_some_backends_can_wait(self, catalog: Catalog) -> None:
        """A backend that is out of reach does not keep the garbage of the others from being listed."""
        places = [new_place(address_of(number), number % 3) for number in range(9)]
        for place in places:
            await catalog.discard(place)
        assert await catalog.garbage(4, {0, 2}) == [places[1], places[4], places[7]]
        assert await catalog.garbage(2, {1}) == [places[0], places[2]]

    async def test_what_is_in_use_cannot_be_discarded(self, catalog: Catalog) -> None:
        """An orphan becomes garbage, once; a location that an entry points at does not."""
        file = new_file(1)
        await catalog.add(file)
        orphan = new_place(address_of(1))
        stranger = new_place(address_of(2))
        assert not await catalog.discard(file.place)
        for first in (True, False):
            assert await catalog.discard(orphan) == first
            assert await catalog.discard(stranger) == first
        assert await catalog.garbage(10) == [orphan, stranger]

    async def test_garbage_is_never_added(self, catalog: Catalog) -> None:
        """A location that the sweeper was quicker to discard is refused, and stays garbage."""
        old, late = new_file(1), new_file(2)
        await catalog.add(old)
        healing = new_file(1)
        for place in (late.place, healing.place):
            await catalog.discard(place)
        with pytest.raises(Unavailable):
            await catalog.add(late)
        with pytest.raises(Unavailable):
            await catalog.add(NewFile(healing.record, 1, "image/png", healing.location, replaces=old.place))
        assert await catalog.garbage(10) == [late.place, healing.place]
        assert (await catalog.lookup(address_of(1))).location == old.location

    # Intents

    async def test_an_intent_becomes_the_entry(self, catalog: Catalog) -> None:
        """Adding an intended file uses up its intent, in the one transaction."""
        intended = intended_file(1)
        await catalog.intend(Intent(intended.place, 1000, "a node"))
        assert await catalog.intents(1001) == [Intent(intended.place, 1000, "a node")]
        assert (await catalog.add(intended)).created
        assert await catalog.intents(1001) == []
        assert not await catalog.withdraw_intent(intended.place)
        assert (await catalog.lookup(address_of(1))).place == intended.place

    async def test_a_withdrawn_intent_fences_the_upload_out(self, catalog: Catalog) -> None:
        """Once an intent is withdrawn its place is garbage, and no file is added there any more."""
        late, rival = intended_file(1), new_file(1)
        await catalog.intend(Intent(late.place, 1000))
        assert await catalog.withdraw_intent(late.place)
        assert not await catalog.withdraw_intent(late.place)
        assert await catalog.garbage(10) == [late.place]
        with pytest.raises(Unavailable):
            await catalog.add(late)
        await catalog.forget_garbage([late.place])  # its blob was deleted: nothing remembers the place now
        with pytest.raises(Unavailable):
            await catalog.add(late)
        assert await catalog.present([address_of(1)]) == set()
        await catalog.add(rival)
        for file in (late, replacing(late, rival.place)):
            with pytest.raises(Unavailable):
                await catalog.add(file)
        assert await catalog.garbage(10) == []
        assert (await catalog.lookup(address_of(1))).place == rival.place

    async def test_withdrawing_races_with_adding(self, catalog: Catalog) -> None:
        """Of a late upload and a sweeper one wins: the place has an entry or is garbage, never both or neither."""
        files = [intended_file(number) for number in range(40)]
        await asyncio.gather(*(catalog.intend(Intent(file.place, 1)) for file in files))
        outcomes = await asyncio.gather(
            *(act(file) for file in files for act in (catalog.add, lambda file: catalog.withdraw_intent(file.place))),
            return_exceptions=True,
        )
        garbage = set(await catalog.garbage(100))
        known = await catalog.present([address_of(number) for number in range(40)])
        for number, file in enumerate(files):
            added, withdrawn = outcomes[2 * number : 2 * number + 2]
            assert isinstance(added, Unavailable) == withdrawn == (file.place in garbage)
            assert (address_of(number) in known) != withdrawn
        assert await catalog.intents(2) == []

    async def test_an_intended_file_that_is_there_already_is_garbage(self, catalog: Catalog) -> None:
        """Deduplication uses up the intent, too, and the second copy goes."""
        await catalog.add(new_file(1))
        second = intended_file(1)
        await catalog.intend(Intent(second.place, 1000))
        assert not (await catalog.add(second)).created
        assert await catalog.intents(2000) == []
        assert await catalog.garbage(10) == [second.place]

    async def test_the_same_intended_call_again_is_no_error(self, catalog: Catalog) -> None:
        """A caller who did not learn the outcome may add the intended file again."""
        file = intended_file(1)
        await catalog.intend(Intent(file.place, 1000))
        await catalog.add(file)
        assert not (await catalog.add(file)).created
        assert await catalog.garbage(10) == []

    async def test_what_is_intended_cannot_be_discarded(self, catalog: Catalog) -> None:
        """A blob that is being put is no orphan, whoever finds it listed."""
        place = new_place(address_of(1), backend=3)
        await catalog.intend(Intent(place, 1000))
        assert not await catalog.discard(place)
        assert await catalog.discard(Place(place.location, 4))  # on another backend it is another blob
        assert await catalog.garbage(10) == [Place(place.location, 4)]

    async def test_old_intents_come_first(self, catalog: Catalog) -> None:
        """Intents are listed by age, and those from the given moment on are left out."""
        intents = [Intent(new_place(address_of(number), number), 10 * number) for number in (3, 1, 2)]
        for intent in intents:
            await catalog.intend(intent)
        assert await catalog.intents(30) == [intents[1], intents[2]]

    async def test_intents_survive(self, tmp_path: Path) -> None:
        """An intent is durable on return: closing the catalog does not lose it."""
        intent = Intent(new_place(address_of(1), 1), 5, "a node")
        catalog = await self.open(tmp_path / "catalog")
        await catalog.intend(intent)
        await catalog.close()
        catalog = await self.open(tmp_path / "catalog")
        assert await catalog.intents(6) == [intent]
        await catalog.close()

    # Several backends

    async def test_backends_are_told_apart(self, catalog: Catalog) -> None:
        """The same location on two backends is two places: one can be garbage, and the other in use."""
        file = new_file(1)
        await catalog.add(file)
        elsewhere = Place(file.location, 1)
        assert await catalog.discard(elsewhere)
        await catalog.mark_damaged(address_of(1), elsewhere)
        assert (await catalog.lookup(address_of(1))) == (await catalog.add(file)).entry.locator
        assert not (await catalog.lookup(address_of(1))).damaged
        assert await catalog.garbage(10) == [elsewhere]
        await catalog.forget_garbage([file.place])
        assert await catalog.garbage(10) == [elsewhere]

    async def test_an_upload_heals_across_backends(self, catalog: Catalog) -> None:
        """What is damaged on one backend is replaced by an upload to another."""
        old = new_file(1)
        await catalog.add(old)
        await catalog.mark_damaged(address_of(1), old.place)
        new = intended_file(1, backend=2)
        await catalog.intend(Intent(new.place, 1))
        await catalog.add(replacing(new, old.place))
        locator = await catalog.lookup(address_of(1))
        assert (locator.place, locator.damaged) == (new.place, False)
        assert await catalog.garbage(10) == [old.place]

    async def test_a_file_moves_to_its_copy(self, catalog: Catalog) -> None:
        """Relocating changes where the bytes are, frees the old place, and changes nothing else."""
        before = (await catalog.add(new_file(1))).entry
        new = new_place(address_of(1), 1)
        await catalog.intend(Intent(new, 1))
        assert await catalog.relocate(address_of(1), before.locator.place, new, intended=True)
        after = await read_entry(catalog, address_of(1))
        assert after.locator.place == new
        assert after.record == before.record
        assert after.locator == msgspec.structs.replace(before.locator, location=new.location, backend=1)
        assert await catalog.garbage(10) == [before.locator.place]
        assert await catalog.intents(2) == []
        assert await catalog.counters() == Counters(1, 1000, 1, {"image": (1, 1000)})
        assert await listed(catalog) == [after]

    async def test_only_a_file_that_is_still_there_moves(self, catalog: Catalog) -> None:
        """A copy of what was removed or replaced in the meantime is garbage; nothing comes back."""
        file = new_file(1)
        await catalog.add(file)
        late = new_place(address_of(1), 1)
        assert not await catalog.relocate(address_of(1), new_place(address_of(1)), late)
        assert (await catalog.lookup(address_of(1))).place == file.place
        await catalog.remove(address_of(1))
        later = new_place(address_of(1), 1)
        assert not await catalog.relocate(address_of(1), file.place, later)
        assert await catalog.present([address_of(1)]) == set()
        assert await catalog.garbage(10) == [late, file.place, later]

    async def test_a_withdrawn_copy_moves_nothing(self, catalog: Catalog) -> None:
        """A copy whose intent was withdrawn, or that is garbage, is about to be deleted: the entry stays."""
        file = new_file(1)
        await catalog.add(file)
        swept, garbage = new_place(address_of(1), 1), new_place(address_of(1), 1)
        await catalog.discard(garbage)
        with pytest.raises(Unavailable):
            await catalog.relocate(address_of(1), file.place, swept, intended=True)
        with pytest.raises(Unavailable):
            await catalog.relocate(address_of(1), file.place, garbage)
        assert (await catalog.lookup(address_of(1))).place == file.place

    async def test_what_is_elsewhere_is_found(self, catalog: Catalog) -> None:
        """All files that are not on a backend are listed once, in pages, in the order of their addresses."""
        for number in range(20):
            file = new_file(number)
            await catalog.add(NewFile(file.record, 1, "image/png", file.location, backend=number % 3))
        expected = sorted(address_of(number) for number in range(20) if number % 3 != 1)
        found: list[Address] = []
        some = await catalog.elsewhere(1, 4)
        while True:
            assert all(locator.backend != 1 for _, locator in some.files)
            found += [address for address, _ in some.files]
            if some.reached is None:
                break
            some = await catalog.elsewhere(1, 4, some.reached)
        assert found == expected

    # Totals and presence

    async def test_totals_follow_every_change(self, catalog: Catalog) -> None:
        """Files, bytes and garbage are counted, by realm too; a realm without files is not listed."""
        assert await catalog.counters() == Counters()
        await catalog.add(new_file(1, size=10))
        await catalog.add(new_file(2, size=20, realm="movie"))
        await catalog.add(new_file(3, size=5))
        assert await catalog.counters() == Counters(3, 35, 0, {"image": (2, 15), "movie": (1, 20)})
        await catalog.remove(address_of(1))
        await catalog.update(address_of(2), lambda record: msgspec.structs.replace(record, realm="image"))
        assert await catalog.counters() == Counters(2, 25, 1, {"image": (2, 25)})

    async def test_presence_is_asked_for_many(self, catalog: Catalog) -> None:
        """Of the addresses asked for, exactly those in the catalog are returned."""
        for number in range(0, 20, 2):
            await catalog.add(new_file(number))
        asked = [address_of(number) for number in range(25)]
        assert await catalog.present(asked) == {address_of(number) for number in range(0, 20, 2)}
        assert await catalog.present([]) == set()

    async def test_what_was_acknowledged_is_there_after_reopening(self, tmp_path: Path) -> None:
        """Entries, totals, queue and numbers outlive the process that wrote them."""
        catalog = await self.open(tmp_path / "catalog")
        for number in range(3):
            await catalog.add(new_file(number))
        await catalog.remove(address_of(1))
        expected = (await listed(catalog), await catalog.counters(), await catalog.garbage(10))
        await catalog.close()
        catalog = await self.open(tmp_path / "catalog")
        assert (await listed(catalog), await catalog.counters(), await catalog.garbage(10)) == expected
        assert (await catalog.add(new_file(9))).entry.locator.number > 3
        await catalog.check()
        await catalog.maintain()
        await catalog.close()
        await catalog.close()

    # Queries

    def test_queries_find_what_a_search_through_everything_finds(self, tmp_path: Path) -> None:
        """Every filter, sort, direction and page size gives the same entries, in the same order."""
        with asyncio.Runner() as runner:

            async def fill() -> tuple[Catalog, list[Entry]]:
                catalog = await self.open(tmp_path / "catalog")
                added = await asyncio.gather(*map(catalog.add, some_files(120)))
                return catalog, [each.entry for each in added]

            catalog, entries = runner.run(fill())

            @given(query=queries(st.integers(0, 120)), limit=st.sampled_from([1, 2, 3, 10, 119, 120, 1000]))
            @settings(max_examples=400, deadline=None)
            def check(query: Query, limit: int) -> None:
                pages = runner.run(all_pages(catalog, query, limit))
                assert [entry for page in pages for entry in page.entries] == brute_force(entries, query)
                assert all(len(page.entries) <= limit for page in pages)
                assert all(len(page.entries) <= page.scanned <= len(entries) for page in pages)

            check()
            runner.run(catalog.close())

    async def test_a_page_has_no_successor_when_nothing_follows(self, catalog: Catalog) -> None:
        """The last page has no cursor, also when it is full."""
        for number in range(6):
            await catalog.add(new_file(number))
        assert [len(page.entries) for page in await all_pages(catalog, Query(), 3)] == [3, 3]
        assert [len(page.entries) for page in await all_pages(catalog, Query(tag="none"), 3)] == [0]

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_a_page_has_at_least_one_entry(self, catalog: Catalog, limit: int) -> None:
        """A limit below one is refused."""
        with pytest.raises(Malformed):
            await catalog.query(Query(), limit)

    async def test_unknown_sorts_and_nan_are_refused(self, catalog: Catalog) -> None:
        """What has no order cannot be listed in order."""
        with pytest.raises(Malformed):
            await catalog.query(Query(sort="name"), 10)
        with pytest.raises(Malformed):
            await catalog.query(Query(density_min=float("nan")), 10)

    async def test_a_cursor_belongs_to_its_query(self, catalog: Catalog) -> None:
        """A cursor of another query, an altered one and garbage are refused with what is accepted."""
        for number in range(5):
            await catalog.add(new_file(number))
        cursor = (await catalog.query(Query(), 2)).cursor
        assert cursor is not None
        altered = [
            cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :] for place in (0, 9, 31)
        ]
        for bad in (*altered, cursor[:-1], cursor + "A", cursor + "====", "", "ü", "x" * 10_000, "\0"):
            with pytest.raises(Malformed) as refusal:
                await catalog.query(Query(), 2, bad)
            assert "expected" in refusal.value.facts
        for other in (Query(descending=False), Query(sort="size"), Query(realm="image")):
            with pytest.raises(Malformed):
                await catalog.query(other, 2, cursor)

    @pytest.mark.parametrize(
        "query", [Query(sort="size", descending=False), Query(sort="size"), Query(realm="image", tag="t")]
    )
    async def test_pages_hold_still_while_the_catalog_changes(self, catalog: Catalog, query: Query) -> None:
        """What is there from the first page to the last is listed exactly once, whatever else happens."""
        for number in range(60):
            await catalog.add(new_file(number, size=number // 7, tags=("t",) if number % 3 else ()))
        before = [entry.record.address for entry in await listed(catalog, query)]
        doomed, removed = before[3::7], set[bytes]()
        pages = [await catalog.query(query, 4)]
        while (cursor := pages[-1].cursor) is not None:
            # the entry that the page ended with goes as well: its place stays
            leaving = {*doomed[-1:], *(entry.record.address for entry in pages[-1].entries[-1:])} - removed
            del doomed[-1:]
            for address in leaving:
                await catalog.remove(Address(address))
            removed |= leaving
            await catalog.add(new_file(1000 + len(pages), size=len(pages) % 9, tags=("t",)))
            pages.append(await catalog.query(query, 4, cursor))
        seen = [entry.record.address for page in pages for entry in page.entries]
        stayed = [address for address in before if address not in removed]
        assert len(stayed) >= 15
        assert [address for address in seen if address in stayed] == stayed
        assert len(seen) == len(set(seen))

    async def test_long_and_empty_texts_can_be_found(self, catalog: Catalog) -> None:
        """Realms, tags and media types of any length are found, and told apart."""
        texts = ["", "a", "a" * 239, "a" * 240, "a" * 241, "a" * 600, "a" * 599 + "b", "ä" * 300, "image/\x00", "\x00"]
        for number, text in enumerate(texts):
            await catalog.add(new_file(number, realm=text, tags=(text, text), media_type=f"image/{text}"))
        for number, text in enumerate(texts):
            for query in (Query(realm=text), Query(tag=text), Query(media_type=f"image/{text}")):
                assert [entry.address for entry in await listed(catalog, query)] == [address_of(number)]
        assert len(await listed(catalog, Query(media_type="image/*"))) == len(texts)
        assert await listed(catalog, Query(media_type="imag/*")) == []
        assert await listed(catalog, Query(media_type="imagf/*")) == []


def _again(number: int, times: int) -> list[NewFile]:
    return [new_file(number) for _ in range(times)]


class BulkCatalogContract:
    """For catalogs that are ``BulkCatalog`` too: inherit it before ``CatalogContract``."""

    async def test_many_are_added_at_once(self, catalog: Catalog) -> None:
        """Files added together are read back as those added one by one, each outcome in its place."""
        await catalog.add(new_file(3))
        files = [new_file(number, size=number + 1) for number in range(10)]
        added = in_bulk(catalog).add_many(files)
        assert [one.entry.address for one in added] == [file.record.address for file in files]
        assert [one.created for one in added] == [number != 3 for number in range(10)]
        for one in added:
            assert one.entry == await read_entry(catalog, one.entry.address)
        assert (await catalog.counters()).files == 10

    async def test_what_many_adds_leave_behind_is_garbage(self, catalog: Catalog) -> None:
        """Of equal files added together the first stays, and the location of each other is garbage."""
        first, second = new_file(1), new_file(1)
        assert [one.created for one in in_bulk(catalog).add_many([first, second])] == [True, False]
        assert (await catalog.lookup(address_of(1))).location == first.location
        assert await catalog.garbage(10) == [second.place]

    async def test_many_are_added_all_or_none(self, catalog: Catalog) -> None:
        """When one of many is refused, none is added, and none counted."""
        wrong = msgspec.structs.replace(new_file(2).record, address=address_of(3))
        files = [new_file(1), NewFile(wrong, 1, "image/png", new_location(address_of(2)))]
        with pytest.raises(ValueError):
            in_bulk(catalog).add_many(files)
        assert in_bulk(catalog).lookup_many([address_of(1), address_of(3)]) == {}
        assert await catalog.counters() == Counters()

    async def test_many_are_found_at_once(self, catalog: Catalog) -> None:
        """Looking up many finds those that are there, each with the locator of a single lookup."""
        bulk = in_bulk(catalog)
        assert bulk.add_many([]) == []
        assert bulk.lookup_many([]) == {}
        bulk.add_many([new_file(1), new_file(2)])
        found = bulk.lookup_many([address_of(2), address_of(9), address_of(1)])
        assert found == {address_of(number): await catalog.lookup(address_of(number)) for number in (1, 2)}


def in_bulk(catalog: Catalog) -> BulkCatalog:
    """Say that this catalog takes and finds many files at once."""
    assert isinstance(catalog, BulkCatalog)
    return catalog
