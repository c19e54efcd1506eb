"""What the server answers, as values: records, pages and statistics, and its problems as errors."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from stat7store.coordinates import Coordinates
from stat7store.errors import (
    Conflict,
    Damaged,
    DigestMismatch,
    Malformed,
    NoSpace,
    NotAccepted,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    Stat7Error,
    TooLarge,
    TooSlow,
    Unavailable,
)

T = TypeVar("T")

_KINDS = (
    Malformed,
    NotFound,
    Conflict,
    PreconditionFailed,
    NotAllowed,
    NotAccepted,
    DigestMismatch,
    TooLarge,
    TooSlow,
    Unavailable,
    NoSpace,
    Damaged,
)
_KIND_OF_SLUG: dict[str, type[Stat7Error]] = {kind.slug: kind for kind in _KINDS}
# for answers that are no problem documents, from proxies say, or whose problem has no class of its own
_KIND_OF_STATUS: dict[int, type[Stat7Error]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    413: TooLarge,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class MediaFacts(msgspec.Struct, frozen=True):
    """What is known of the decoded image or movie: sizes in pixels; None where it is not known."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    duration_s: float | None = None
    codec: str | None = None


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a file, as the server tells it; ``size`` in bytes, ``stored_at`` in RFC 3339.

    ``created`` is set by uploads alone: whether the bytes were new to the store.
    """

    address: str
    uri: str
    created: bool | UnsetType = UNSET
    size: int
    media_type: str
    filename: str
    stored_at: str
    revision: int
    coordinates: Coordinates
    media: MediaFacts
    tags: list[str]


class FilePage(msgspec.Struct, frozen=True):
    """One page of a list: its files, how many rows were scanned for them, and how long that took.

    ``cursor`` leads to the next page; None on the last.
    """

    files: list[StoredFile]
    cursor: str | None
    scanned: int
    elapsed_ms: float


class Existence(msgspec.Struct, frozen=True):
    """Which of the addresses asked about are stored, in the order asked."""

    present: list[str]
    missing: list[str]


class RealmTotals(msgspec.Struct, frozen=True):
    """What is stored of one realm; ``bytes`` is the sum of sizes."""

    files: int
    bytes: int


class StageSummary(msgspec.Struct, frozen=True):
    """How long one stage took over a period, in milliseconds; None where nothing was counted."""

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None


class Worker(msgspec.Struct, frozen=True):
    """A worker process of the node that answered: its number from 1, and its process id."""

    worker: int
    pid: int


class Stats(msgspec.Struct, frozen=True):
    """Totals of the store, and how long the stages of retrievals took on the node that answered.

    ``stages`` holds ``since_start`` and ``last_minute``, each by the stage's name and ``total``.
    ``garbage`` counts blobs waiting to be deleted, ``damaged`` files that are not served until they
    are healed; ``backend_counters`` what S3 and its cache did.
    """

    files: int
    bytes: int
    by_realm: dict[str, RealmTotals]
    garbage: int
    damaged: int
    backend: str
    uptime_s: float
    counters: dict[str, int]
    workers: list[Worker]
    stages: dict[str, dict[str, StageSummary]]
    backend_counters: dict[str, int] = {}


class Health(msgspec.Struct, frozen=True):
    """Whether the server is ``alive`` (its process answers) and ``ready`` (catalog and blobs do)."""

    alive: bool
    ready: bool


def decoded(body: bytes, kind: type[T]) -> T:
    """Read an answer's JSON. Raises ``Unavailable`` if that is not what a STAT7 store answers."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"the server's answer is not that of a STAT7 store: {error}") from error


def error_of(status: int, body: bytes) -> Stat7Error:
    """Return the error that an answer tells of: a problem document (RFC 9457), or its status alone."""
    try:
        facts = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        facts = {}
    slug = str(facts.pop("type", "")).rpartition("/")[2]
    kind = _KIND_OF_SLUG.get(slug) or _KIND_OF_STATUS.get(status) or (Malformed if status < 500 else Stat7Error)
    error = kind(str(facts.pop("detail", f"the server answered with status {status}")))
    error.facts = {name: value for name, value in facts.items() if name not in ("title", "status")}
    return error
