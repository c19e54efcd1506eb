"""Every protection there is, how to take it out of the code, and the test that must then fail.

A protection is a statement below a comment ``# protection: NAME``, in whatever file that stands.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("stat7store", "storage")
_MARKER = re.compile(r"^( *)# protection: (\S+)$", re.MULTILINE)

Change = Callable[[ast.stmt], list[ast.stmt]]
"""Return what stands in a statement's place when the protection is gone."""


class Protection(NamedTuple):
    """One protection. ``marker`` is the name in its comment; ``change`` takes it out of the statement below."""

    protection: str
    taken_out: str
    marker: str
    change: Change
    test: str


class Marked(NamedTuple):
    """A file, relative to the project, and the line of a marker in it, from 0 on."""

    file: Path
    line: int


@cache
def markers(root: Path) -> dict[str, list[Marked]]:
    """Return where each marker stands in the sources below ``root``."""
    found: dict[str, list[Marked]] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            text = path.read_text()
            for match in _MARKER.finditer(text):
                place = Marked(path.relative_to(root), text.count("\n", 0, match.start()))
                found.setdefault(match[2], []).append(place)
    return found


def without(source: str, line: int, change: Change) -> str:
    """Return a source with the statement below a marker changed. Raises ``ValueError`` if it refers to what is unknown.

    Otherwise a renamed variable would make the tests fail by a ``NameError``, and show nothing.
    """
    tree = ast.parse(source)
    below = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno > line + 1]
    statement = min(below, key=lambda node: node.lineno)
    first, last, indent = statement.lineno - 1, statement.end_lineno or 0, " " * statement.col_offset
    known = {*_used(tree), *_bound(tree), *dir(builtins)}
    changed = change(statement)
    known.update(name for each in changed for name in _bound(each))
    unknown = {name for each in changed for name in _used(each)} - known
    if unknown:
        raise ValueError(f"not in the source: {', '.join(sorted(unknown))}")
    text = "\n".join(ast.unparse(each) for each in changed)
    lines = source.splitlines(keepends=True)
    return "".join([*lines[:first], textwrap.indent(text, indent), "\n", *lines[last:]])


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def _bound(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, (ast.ExceptHandler, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name:
            yield node.name


def _parsed(code: str) -> list[ast.stmt]:
    # "return" and "await" are parsed outside of functions too; only compiling would refuse them
    return ast.parse(textwrap.dedent(code).strip()).body


def removed(_: ast.stmt) -> list[ast.stmt]:
    """Leave the statement out."""
    return [ast.Pass()]


def instead(code: str) -> Change:
    """Put other code in the statement's place."""
    return lambda _: _parsed(code)


def after(code: str) -> Change:
    """Have the statement come after this code."""
    return lambda statement: [*_parsed(code), statement]


def before(code: str) -> Change:
    """Have the statement come before this code."""
    return lambda statement: [statement, *_parsed(code)]


def if_only(condition: str) -> Change:
    """Change the condition of an ``if``."""

    def change(statement: ast.stmt) -> list[ast.stmt]:
        assert isinstance(statement, ast.If)
        statement.test = ast.parse(condition, mode="eval").body
        return [statement]

    return change


def with_argument(function: str, name: str, value: str) -> Change:
    """Give a function that is called in the statement one argument more."""

    def change(statement: ast.stmt) -> list[ast.stmt]:
        _call(statement, function).keywords.append(ast.keyword(name, ast.parse(value, mode="eval").body))
        return [statement]

    return change


def without_argument(function: str, name: str) -> Change:
    """Leave out an argument of a function that is called in the statement."""

    def change(statement: ast.stmt) -> list[ast.stmt]:
        call = _call(statement, function)
        kept = [keyword for keyword in call.keywords if keyword.arg != name]
        assert len(kept) == len(call.keywords) - 1
        call.keywords = kept
        return [statement]

    return change


def without_arguments(function: str) -> Change:
    """Leave out all arguments of a function that is called in the statement."""

    def change(statement: ast.stmt) -> list[ast.stmt]:
        call = _call(statement, function)
        assert call.args
        call.args = []
        return [statement]

    return change


def with_value(key: str, value: str) -> Change:
    """Change the value that a name has in the statement's dictionary."""

    def change(statement: ast.stmt) -> list[ast.stmt]:
        (table,) = (node for node in ast.walk(statement) if isinstance(node, ast.Dict))
        (at,) = (n for n, each in enumerate(table.keys) if isinstance(each, ast.Name) and each.id == key)
        table.values[at] = ast.parse(value, mode="eval").body
        return [statement]

    return change


def _call(statement: ast.stmt, function: str) -> ast.Call:
    (call,) = (
        node
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == function
    )
    return call


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
        "sync-file",
        removed,
        _ORDER,
    ),
    Protection(
        "a folder is synced after a name was put into it",
        "no sync of the folder",
        "sync-folder-of-names",
        removed,
        _ORDER,
    ),
    Protection(
        "the name is on disk before the catalog hears of it",
        "the folder is synced a while later",
        "sync-folder-of-names",
        instead(
            """
            import threading

            for folder in _folders(new.path for new in batch):
                file = os.open(folder, FOLDER, dir_fd=self._root)
                threading.Timer(0.05, lambda file=file: (os.fsync(file), os.close(file))).start()
            """
        ),
        _ORDER,
    ),
    Protection(
        "many files that come together are synced before any is answered",
        "no sync of the filesystem",
        "sync-filesystem",
        removed,
        f"{_FAULTS}::test_many_puts_share_syncs_and_none_is_answered_before_its_own",
    ),
    Protection(
        "a write that failed before a shared sync is noticed",
        "no look at the file's own writes",
        "check-writes-after-shared-sync",
        removed,
        f"{_FAULTS}::test_a_failed_sync_of_many_puts[sync_file_range]",
    ),
    Protection(
        "what could not be synced is not kept",
        "a failed sync is passed over",
        "fail-what-was-not-synced",
        instead("return [None] * len(batch)"),
        f"{_FAULTS}::test_a_failed_sync_of_one_put[EIO-BlobUnavailable-1]",
    ),
    Protection(
        "a delete is on disk before it is answered",
        "no sync of the folder after a delete",
        "sync-folder-after-delete",
        removed,
        f"{_FAULTS}::test_a_delete_is_on_disk_before_the_answer",
    ),
    Protection(
        "the catalog is synced when it commits",
        "LMDB without its sync",
        "sync-catalog",
        with_argument("open", "sync", "False"),
        _ORDER,
    ),
    Protection(
        "the catalog is opened anew after a commit that failed",
        "it stays open as it is",
        "reopen-catalog-after-failed-commit",
        removed,
        "tests/faults/test_errnos.py::test_the_catalog_goes_on_after_a_commit_that_failed",
    ),
    # what is compared before it is believed
    Protection(
        "the declared address is compared with the bytes",
        "no comparison",
        "compare-declared-address",
        if_only("False"),
        f"{_STORE}::test_a_wrong_digest_is_refused[filesystem]",
    ),
    Protection(
        "a body that stops early is never taken for a whole file",
        "its end is told before its fault",
        "fault-before-end-of-body",
        after("body.feed_eof()"),
        "tests/server/test_truncation.py::test_a_body_that_stops_is_not_kept",
    ),
    Protection(
        "a file is not served with another size than was stored",
        "no comparison of the sizes",
        "compare-size-when-opened",
        if_only("False"),
        f"{_STORE}::test_a_cut_blob_is_damaged_and_heals[filesystem]",
    ),
    Protection(
        "a body is not completed with fewer bytes than there were",
        "an early end of the file is an end",
        "no-early-end-of-file",
        instead("return"),
        "tests/storage/test_filesystem.py::test_a_blob_cut_off_while_it_is_read_is_damaged[4096]",
    ),
    Protection(
        "the client compares what it got with the address",
        "no comparison",
        "client-compares-address",
        if_only("hasher is not None and (actual := hasher.address()) is None"),
        "tests/test_client.py::test_altered_bytes_never_reach_the_target",
    ),
    Protection(
        "records carry a checksum",
        "it is not compared",
        "record-checksum",
        if_only("False"),
        "tests/catalog/test_damage.py::test_an_altered_record_is_damage",
    ),
    Protection(
        "index entries carry a checksum",
        "it is not compared",
        "locator-checksum",
        if_only("checksum is None"),
        "tests/catalog/test_damage.py::test_an_altered_locator_is_damage",
    ),
    # what is swept, and what is not
    Protection(
        "a location is never used twice",
        "every token is the same",
        "locations-used-once",
        instead("return Location(name, bytes(TOKEN_BYTES)), spool.hand_over()"),
        f"{_FILES}::test_a_location_is_never_used_again",
    ),
    Protection(
        "a spool is locked as long as its upload lives",
        "no lock",
        "lock-spool",
        removed,
        f"{_STORE}::test_orphans_are_swept_and_the_living_spared[filesystem]",
    ),
    Protection(
        "a small file is claimed until the catalog knows it",
        "its spool is closed before",
        "claim-small-file-until-known",
        after("open_spools.close()"),
        "tests/test_small.py::test_what_was_put_is_claimed_until_it_is_known",
    ),
    Protection(
        "an orphan is looked for in the catalog once more, in the transaction that queues it",
        "no second look",
        "look-again-before-orphan",
        instead("self.locator(bytes.fromhex(place.location.name))"),
        f"{_LMDB}::test_what_is_in_use_cannot_be_discarded",
    ),
    Protection(
        "a blob whose index entry cannot be read is no orphan",
        "it is one",
        "unreadable-entry-keeps-blob",
        instead("return False"),
        f"{_STORE}::test_an_index_that_cannot_be_read_costs_no_blob[filesystem]",
    ),
    Protection(
        "garbage stays queued until its blob is gone",
        "it is forgotten anyway",
        "garbage-queued-until-gone",
        before("gone.append(place)"),
        f"{_BACKENDS}::test_a_failed_upload_withdraws_its_intent",
    ),
    Protection(
        "what is queued as garbage is never added",
        "no look at the queue",
        "never-add-garbage",
        if_only("False"),
        f"{_LMDB}::test_garbage_is_never_added",
    ),
    # what heals, and what is told
    Protection(
        "an upload heals a file that is cut or marked",
        "the entry alone is believed",
        "heal-cut-or-marked",
        instead("return await blobs.stat(locator.location) >= 0"),
        f"{_STORE}::test_a_marked_entry_is_not_served_and_heals[filesystem]",
    ),
    Protection(
        "an upload heals a file that is missing",
        "the entry alone is believed",
        "heal-missing",
        instead("return True"),
        f"{_STORE}::test_a_missing_blob_is_an_alarm_and_heals[filesystem]",
    ),
    Protection(
        "a file that was deleted while it was looked for is told from one that is missing",
        "no second look at the row",
        "follow-moved-file",
        instead("raise"),
        f"{_STORE}::test_a_missing_blob_is_an_alarm_and_heals[filesystem]",
    ),
    Protection(
        "what a scrub finds damaged is not served again",
        "it is not marked",
        "mark-damaged",
        removed,
        "tests/test_verifying.py::test_altered_bytes_are_found_and_not_served[flip]",
    ),
    Protection(
        "what the disk cannot read is marked",
        "it is told as unavailable, each time",
        "tell-unreadable-from-unavailable",
        if_only("True"),
        "tests/test_verifying.py::test_what_the_disk_cannot_read_is_bad",
    ),
    Protection(
        "a disk that fails as a whole marks nothing",
        "no look whether a new file can be made",
        "failing-disk-marks-nothing",
        removed,
        "tests/test_verifying.py::test_a_disk_that_fails_as_a_whole_marks_nothing",
    ),
    Protection(
        "a flipped bit in the garbage queue stops neither a sweep nor a rebuild",
        "it is raised",
        "pass-over-damaged-garbage",
        without_arguments("suppress"),
        "tests/test_rebuilding.py::test_a_damaged_garbage_queue_stops_nothing",
    ),
    Protection(
        "no rebuild removes an old catalog",
        "the one before is overwritten",
        "keep-every-old-catalog",
        instead("old = data / OLD_CATALOG\nshutil.rmtree(old, ignore_errors=True)"),
        "tests/test_rebuilding.py::test_every_old_catalog_is_kept",
    ),
    Protection(
        "a scrub reads past the memory",
        "it does not",
        "scrub-past-page-cache",
        removed,
        "tests/test_verifying.py::test_it_reads_past_the_memory",
    ),
    Protection(
        "a disk without room is told as such",
        "it is told as unavailable",
        "no-room-is-507",
        with_value("NoSpace", "HTTPStatus.SERVICE_UNAVAILABLE"),
        "tests/faults/test_no_room.py::test_a_file_without_room_is_507_and_no_other_suffers",
    ),
    Protection(
        "one server at a time runs on a folder",
        "no lock",
        "one-server-per-folder",
        removed,
        "tests/server/test_lifecycle.py::test_two_servers_do_not_share_a_folder",
    ),
    # S3
    Protection(
        "an object is never overwritten",
        "no If-None-Match",
        "never-overwrite-object",
        without_argument("put_object", "IfNoneMatch"),
        f"{_S3}::test_a_put_that_meets_something_else_fails",
    ),
    Protection(
        "an object whose PUT got no answer is looked for",
        "it is not",
        "look-for-put-without-answer",
        if_only("True"),
        f"{_S3}::test_a_put_whose_answer_is_lost_is_found[100]",
    ),
    Protection(
        "an intent is on disk before the bytes leave",
        "no intent",
        "intent-before-bytes",
        removed,
        f"{_BACKENDS}::test_the_intent_is_durable_before_the_bytes_leave",
    ),
    Protection(
        "an upload whose intent was withdrawn is not acknowledged",
        "it is",
        "fence-withdrawn-intent",
        instead("if intended:\n    self._take_intent(place)"),
        f"{_LMDB}::test_a_withdrawn_intent_fences_the_upload_out",
    ),
    Protection(
        "a body from S3 is hashed while it streams",
        "it is not compared",
        "hash-body-from-s3",
        if_only("False"),
        f"{_S3}::test_a_large_body_altered_is_never_completed[1]",
    ),
    Protection(
        "a body that breaks off is gone on with in the same object",
        "in any",
        "go-on-with-same-object",
        instead("opened = self._requests.bucket.get(self._key, self._next, self._end, None)"),
        f"{_S3}::test_a_replaced_blob_is_not_mixed",
    ),
    Protection(
        "a bucket belongs to one store",
        "nobody asks",
        "bucket-of-one-store",
        removed,
        "tests/server/test_on_s3.py::test_two_stores_do_not_share_a_bucket",
    ),
    Protection(
        "the cache keeps whole and right blobs only",
        "any bytes",
        "cache-keeps-right-blobs-only",
        instead("return True"),
        "tests/storage/test_cache.py::test_wrong_bytes_from_behind_are_not_kept",
    ),
)
