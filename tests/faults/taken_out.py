"""Every protection there is, how to take it out of the code, and the test that must then fail."""

from __future__ import annotations

from typing import NamedTuple


class Protection(NamedTuple):
    """One protection. ``old`` stands once in ``file``; with ``new`` in its place the protection is gone."""

    protection: str
    taken_out: str
    file: str
    old: str
    new: str
    test: str


_FAULTS = "tests/storage/test_filesystem_faults.py"
_FILES = "tests/storage/test_filesystem.py::TestFilesystem"
_LMDB = "tests/catalog/test_lmdb.py::TestLmdb"
_S3 = "tests/storage/test_s3.py::TestFaults"
_STORE = "tests/test_store.py"
_BACKENDS = "tests/test_backends.py"
_ORDER = "tests/faults/test_order.py::test_each_step_is_on_disk_before_the_next"

PROTECTIONS = (
    # what is on disk before what
    Protection(
        "a file is synced before it gets its name",
        "no sync of the file",
        "storage/file_commit.py",
        "            os.fsync(new.file)\n",
        "            pass\n",
        _ORDER,
    ),
    Protection(
        "a folder is synced after a name was put into it",
        "no sync of the folder",
        "storage/file_commit.py",
        "        for folder in _folders(new.path for new in batch):\n            self._sync_folder(folder)\n",
        "",
        _ORDER,
    ),
    Protection(
        "the name is on disk before the catalog hears of it",
        "the folder is synced a while later",
        "storage/file_commit.py",
        "        for folder in _folders(new.path for new in batch):\n            self._sync_folder(folder)\n",
        "        import threading\n\n        for folder in _folders(new.path for new in batch):\n"
        "            file = os.open(folder, FOLDER, dir_fd=self._root)\n"
        "            threading.Timer(0.05, lambda file=file: (os.fsync(file), os.close(file))).start()\n",
        _ORDER,
    ),
    Protection(
        "many files that come together are synced before any is answered",
        "no sync of the filesystem",
        "storage/file_commit.py",
        "        self._linux.sync_filesystem(self._root)\n        # A write",
        "        # A write",
        f"{_FAULTS}::test_many_puts_share_syncs_and_none_is_answered_before_its_own",
    ),
    Protection(
        "a write that failed before a shared sync is noticed",
        "no look at the file's own writes",
        "storage/file_commit.py",
        "reported there, not here.\n        for new in batch:\n            self._linux.check_written(new.file)\n",
        "reported there, not here.\n",
        f"{_FAULTS}::test_a_failed_sync_of_many_puts[sync_file_range]",
    ),
    Protection(
        "what could not be synced is not kept",
        "a failed sync is passed over",
        "storage/file_commit.py",
        "            return [unavailable(error) for _ in batch]\n",
        "            return [None] * len(batch)\n",
        f"{_FAULTS}::test_a_failed_sync_of_one_put[EIO-BlobUnavailable-1]",
    ),
    Protection(
        "a delete is on disk before it is answered",
        "no sync of the folder after a delete",
        "storage/file_commit.py",
        "                for folder in folders:\n                    self._sync_folder(folder)\n",
        "                pass\n",
        f"{_FAULTS}::test_a_delete_is_on_disk_before_the_answer",
    ),
    Protection(
        "the catalog is synced when it commits",
        "LMDB without its sync",
        "stat7store/catalog/lmdb.py",
        "                    mode=0o600,\n                )",
        "                    mode=0o600,\n                    sync=False,\n                )",
        _ORDER,
    ),
    Protection(
        "the catalog is opened anew after a commit that failed",
        "it stays open as it is",
        "stat7store/catalog/lmdb.py",
        "            refusal.__cause__ = error\n            self._reopen()\n",
        "            refusal.__cause__ = error\n",
        "tests/faults/test_errnos.py::test_the_catalog_goes_on_after_a_commit_that_failed",
    ),
    # what is compared before it is believed
    Protection(
        "the declared address is compared with the bytes",
        "no comparison",
        "stat7store/upload.py",
        "        if self._expected is not None and address != self._expected:\n",
        "        if False:\n",
        f"{_STORE}::test_a_wrong_digest_is_refused[filesystem]",
    ),
    Protection(
        "a body that stops early is never taken for a whole file",
        "its end is told before its fault",
        "stat7store/server/connection.py",
        '            body.set_exception(Malformed("the body ended before its announced length"))\n'
        "            body.feed_eof()\n",
        "            body.feed_eof()\n"
        '            body.set_exception(Malformed("the body ended before its announced length"))\n',
        "tests/server/test_truncation.py::test_a_body_that_stops_is_not_kept",
    ),
    Protection(
        "a file is not served with another size than was stored",
        "no comparison of the sizes",
        "stat7store/store.py",
        "            if reader.size != locator.size:\n",
        "            if False:\n",
        f"{_STORE}::test_a_cut_blob_is_damaged_and_heals[filesystem]",
    ),
    Protection(
        "a body is not completed with fewer bytes than there were",
        "an early end of the file is an end",
        "storage/file_reader.py",
        "            done = os.preadv(self._file, [rest], start)\n            if not done:\n"
        "                raise self._ended(start)\n",
        "            done = os.preadv(self._file, [rest], start)\n            if not done:\n                return\n",
        "tests/storage/test_filesystem.py::test_a_blob_cut_off_while_it_is_read_is_damaged[4096]",
    ),
    Protection(
        "the client compares what it got with the address",
        "no comparison",
        "stat7store/client/body.py",
        "        if hasher is not None and (actual := hasher.address()) != self.address:\n",
        "        if hasher is not None and (actual := hasher.address()) is None:\n",
        "tests/test_client.py::test_altered_bytes_never_reach_the_target",
    ),
    Protection(
        "records carry a checksum",
        "it is not compared",
        "stat7store/catalog/codec.py",
        "    if value[:CHECKSUM_BYTES] != xxhash.xxh3_64_digest(key + body):\n",
        "    if False:\n",
        "tests/catalog/test_damage.py::test_an_altered_record_is_damage",
    ),
    Protection(
        "index entries carry a checksum",
        "it is not compared",
        "stat7store/catalog/codec.py",
        "    if checksum != _xxh32(address + value[:_CHECKED]):\n",
        "    if checksum is None:\n",
        "tests/catalog/test_damage.py::test_an_altered_locator_is_damage",
    ),
    # what is swept, and what is not
    Protection(
        "a location is never used twice",
        "every token is the same",
        "storage/filesystem.py",
        "    return Location(name, secrets.token_bytes(TOKEN_BYTES)), spool.hand_over()\n",
        "    return Location(name, bytes(TOKEN_BYTES)), spool.hand_over()\n",
        f"{_FILES}::test_a_location_is_never_used_again",
    ),
    Protection(
        "a spool is locked as long as its upload lives",
        "no lock",
        "storage/file_spool.py",
        "        _lock(file)\n        return cls(file, None, linux, write_every)\n",
        "        return cls(file, None, linux, write_every)\n",
        f"{_STORE}::test_orphans_are_swept_and_the_living_spared[filesystem]",
    ),
    Protection(
        "a small file is claimed until the catalog knows it",
        "its spool is closed before",
        "stat7store/small.py",
        "            # last: what the catalog knows is durable\n            places",
        "            open_spools.close()\n            places",
        "tests/test_small.py::test_what_was_put_is_claimed_until_it_is_known",
    ),
    Protection(
        "an orphan is looked for in the catalog once more, in the transaction that queues it",
        "no second look",
        "stat7store/catalog/changes.py",
        "            if self.locator(bytes.fromhex(place.location.name)).place == place:\n"
        "                return False\n",
        "            self.locator(bytes.fromhex(place.location.name))\n",
        f"{_LMDB}::test_what_is_in_use_cannot_be_discarded",
    ),
    Protection(
        "a blob whose index entry cannot be read is no orphan",
        "it is one",
        "stat7store/sweeper.py",
        "        except Damaged:  # an index entry that cannot be read may well point here\n            return True\n",
        "        except Damaged:\n            return False\n",
        f"{_STORE}::test_an_index_that_cannot_be_read_costs_no_blob[filesystem]",
    ),
    Protection(
        "garbage stays queued until its blob is gone",
        "it is forgotten anyway",
        "stat7store/sweeper.py",
        "                    failures.setdefault(place.backend, error)\n",
        "                    failures.setdefault(place.backend, error)\n                    gone.append(place)\n",
        f"{_BACKENDS}::test_a_failed_upload_withdraws_its_intent",
    ),
    Protection(
        "what is queued as garbage is never added",
        "no look at the queue",
        "stat7store/catalog/changes.py",
        "        if self.state.garbage and self.cursor(GARBAGE_PLACES).set_key(codec.encode_place(place)):\n",
        "        if False:\n",
        f"{_LMDB}::test_garbage_is_never_added",
    ),
    # what heals, and what is told
    Protection(
        "an upload heals a file that is cut or marked",
        "the entry alone is believed",
        "stat7store/upload.py",
        "                return not locator.damaged and await blobs.stat(locator.location) == locator.size\n",
        "                return await blobs.stat(locator.location) >= 0\n",
        f"{_STORE}::test_a_marked_entry_is_not_served_and_heals[filesystem]",
    ),
    Protection(
        "an upload heals a file that is missing",
        "the entry alone is believed",
        "stat7store/upload.py",
        "        except NotFound:\n            return False\n",
        "        except NotFound:\n            return True\n",
        f"{_STORE}::test_a_missing_blob_is_an_alarm_and_heals[filesystem]",
    ),
    Protection(
        "a file that was deleted while it was looked for is told from one that is missing",
        "no second look at the row",
        "stat7store/store.py",
        "                locator = await self._moved(address, locator)\n                continue\n",
        "                raise\n",
        f"{_STORE}::test_a_missing_blob_is_an_alarm_and_heals[filesystem]",
    ),
    Protection(
        "what a scrub finds damaged is not served again",
        "it is not marked",
        "stat7store/verifying.py",
        "            await self._catalog.mark_damaged(row.address, locator.place)\n",
        "",
        "tests/test_verifying.py::test_altered_bytes_are_found_and_not_served[flip]",
    ),
    Protection(
        "what the disk cannot read is marked",
        "it is told as unavailable, each time",
        "storage/linux.py",
        "    if error.errno not in _BROKEN:\n        return unavailable(error)\n",
        "    return unavailable(error)\n",
        "tests/test_verifying.py::test_what_the_disk_cannot_read_is_bad",
    ),
    Protection(
        "a disk that fails as a whole marks nothing",
        "no look whether a new file can be made",
        "stat7store/verifying.py",
        "                await blobs.check()  # raises if the disk fails as a whole: that says nothing of this file\n",
        "",
        "tests/test_verifying.py::test_a_disk_that_fails_as_a_whole_marks_nothing",
    ),
    Protection(
        "a flipped bit in the garbage queue stops neither a sweep nor a rebuild",
        "it is raised",
        "stat7store/catalog/tables.py",
        "            with suppress(Damaged):  # its blob stays, and a scrub tells of it\n",
        "            with suppress():\n",
        "tests/test_rebuilding.py::test_a_damaged_garbage_queue_stops_nothing",
    ),
    Protection(
        "no rebuild removes an old catalog",
        "the one before is overwritten",
        "stat7store/rebuilding.py",
        "    old = _unused(data / OLD_CATALOG)\n",
        "    old = data / OLD_CATALOG\n    shutil.rmtree(old, ignore_errors=True)\n",
        "tests/test_rebuilding.py::test_every_old_catalog_is_kept",
    ),
    Protection(
        "a scrub reads past the memory",
        "it does not",
        "stat7store/verifying.py",
        "                    await blobs.forget(locator.location)\n",
        "                    pass\n",
        "tests/test_verifying.py::test_it_reads_past_the_memory",
    ),
    Protection(
        "a disk without room is told as such",
        "it is told as unavailable",
        "stat7store/server/problems.py",
        "    NoSpace: HTTPStatus.INSUFFICIENT_STORAGE,\n",
        "    NoSpace: HTTPStatus.SERVICE_UNAVAILABLE,\n",
        "tests/faults/test_no_room.py::test_a_file_without_room_is_507_and_no_other_suffers",
    ),
    Protection(
        "one server at a time runs on a folder",
        "no lock",
        "stat7store/opening.py",
        "        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        "tests/server/test_lifecycle.py::test_two_servers_do_not_share_a_folder",
    ),
    # S3
    Protection(
        "an object is never overwritten",
        "no If-None-Match",
        "storage/s3_bucket.py",
        '                    Metadata={"sha256": sha256.hex()},\n                    IfNoneMatch="*",\n',
        '                    Metadata={"sha256": sha256.hex()},\n',
        f"{_S3}::test_a_put_that_meets_something_else_fails",
    ),
    Protection(
        "an object whose PUT got no answer is looked for",
        "it is not",
        "storage/s3_upload.py",
        "            if not (failure.in_doubt and self._is_there(key, Found(spooled.size, sha256.hex()), until)):\n"
        "                raise\n",
        "            raise\n",
        f"{_S3}::test_a_put_whose_answer_is_lost_is_found[100]",
    ),
    Protection(
        "an intent is on disk before the bytes leave",
        "no intent",
        "stat7store/keeping.py",
        "        await self._catalog.intend(Intent(place, self._now(), self._owner))",
        "       ",
        f"{_BACKENDS}::test_the_intent_is_durable_before_the_bytes_leave",
    ),
    Protection(
        "an upload whose intent was withdrawn is not acknowledged",
        "it is",
        "stat7store/catalog/changes.py",
        "        if intended and not self._take_intent(place):\n            raise _swept(place)\n",
        "        if intended:\n            self._take_intent(place)\n",
        f"{_LMDB}::test_a_withdrawn_intent_fences_the_upload_out",
    ),
    Protection(
        "a body from S3 is hashed while it streams",
        "it is not compared",
        "storage/s3_reader.py",
        "        if last and self._hash.hexdigest() != self._location.name:\n",
        "        if False:\n",
        f"{_S3}::test_a_large_body_altered_is_never_completed[1]",
    ),
    Protection(
        "a body that breaks off is gone on with in the same object",
        "in any",
        "storage/s3_stream.py",
        "        opened = self._requests.bucket.get(self._key, self._next, self._end, self.tag)\n",
        "        opened = self._requests.bucket.get(self._key, self._next, self._end, None)\n",
        f"{_S3}::test_a_replaced_blob_is_not_mixed",
    ),
    Protection(
        "a bucket belongs to one store",
        "nobody asks",
        "stat7store/opening.py",
        "            if isinstance(blobs, Ownable):\n"
        "                await blobs.own(read_facts(settings.data).store)\n",
        "",
        "tests/server/test_on_s3.py::test_two_stores_do_not_share_a_bucket",
    ),
    Protection(
        "the cache keeps whole and right blobs only",
        "any bytes",
        "storage/cache_fill.py",
        "        return at == size and sha256.hexdigest() == self._location.name\n",
        "        return True\n",
        "tests/storage/test_cache.py::test_wrong_bytes_from_behind_are_not_kept",
    ),
)
