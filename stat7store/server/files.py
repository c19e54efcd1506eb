"""What is known of files: records, changes, deletes, lists, existence. Never their bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from stat7store.address import Address
from stat7store.catalog.base import SORTS, Query
from stat7store.errors import Malformed
from stat7store.record import HORIZONS
from stat7store.server.answers import json_body, json_response
from stat7store.server.headers import checked_filename
from stat7store.server.node import NODE
from stat7store.server.paths import address_in
from stat7store.timing import now_ns
from stat7store.view import file_json

MAX_ADDRESSES = 1000
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

Rating = Annotated[float, Meta(ge=-1.0, le=1.0)]
Tag = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Tags = Annotated[list[Tag], Meta(max_length=64)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
Moment = Annotated[datetime, Meta(tz=True)]
ORDERS = (*SORTS, *(f"-{sort}" for sort in SORTS))
Neighbours = Annotated[list[str], Meta(max_length=1024)]


class RecordPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What a person may change of a record: a JSON merge patch (RFC 7396); null resets a field."""

    filename: str | UnsetType | None = UNSET
    tags: Tags | UnsetType | None = UNSET
    horizon: str | UnsetType | None = UNSET
    resonance: Rating | UnsetType | None = UNSET
    adjacency: Neighbours | UnsetType | None = UNSET


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query parameters of ``GET /v1/files``; a minus before ``sort`` turns the order round."""

    realm: Text | None = None
    horizon: Literal[HORIZONS] | None = None  # type: ignore[valid-type]  # spelled once, in record.py
    lineage: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    adjacency: str | None = None
    resonance_min: Finite | None = None
    resonance_max: Finite | None = None
    velocity_min: Finite | None = None
    velocity_max: Finite | None = None
    density_min: Finite | None = None
    density_max: Finite | None = None
    media_type: Text | None = None
    tag: Text | None = None
    name: Text | None = None
    stored_after: Moment | None = None
    stored_before: Moment | None = None
    sort: Literal[ORDERS] = "-stored_at"  # type: ignore[valid-type]
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: Annotated[str, Meta(max_length=4096)] | None = None


class Addresses(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /v1/exists``."""

    addresses: Annotated[list[str], Meta(max_length=MAX_ADDRESSES)]


async def get_metadata(request: web.Request) -> web.Response:
    """Return the record of a file."""
    address = address_in(request)
    entry = await request.app[NODE].store.entry(address)
    return json_response(file_json(entry), headers={"ETag": f'"{entry.record.revision}"'})


async def patch_metadata(request: web.Request) -> web.Response:
    """Change what a person may change of a record; ``If-Match`` names the revision it was made from."""
    address = address_in(request)
    revision = _revision(request.headers.get("If-Match"))
    changes = _changes(await json_body(request, RecordPatch))
    entry = await request.app[NODE].store.update(
        address, lambda record: msgspec.structs.replace(record, **changes), revision
    )
    return json_response(file_json(entry), headers={"ETag": f'"{entry.record.revision}"'})


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file; gone for every later read."""
    await request.app[NODE].store.delete(address_in(request))
    return web.Response(status=204)


async def exists(request: web.Request) -> web.Response:
    """Tell which of up to 1,000 addresses are stored."""
    texts = (await json_body(request, Addresses)).addresses
    addresses = [Address.parse(text) for text in texts]
    present = await request.app[NODE].store.present(addresses)
    return json_response(
        {
            "present": [text for text, address in zip(texts, addresses, strict=True) if address in present],
            "missing": [text for text, address in zip(texts, addresses, strict=True) if address not in present],
        }
    )


async def list_files(request: web.Request) -> web.Response:
    """List files by what is known of them, page by page."""
    query, limit, cursor = _query(request)
    begun = now_ns()
    page = await request.app[NODE].store.query(query, limit, cursor)
    return json_response(
        {
            "files": [file_json(entry) for entry in page.entries],
            "cursor": page.cursor,
            "scanned": page.scanned,
            "elapsed_ms": round((now_ns() - begun) / 1e6, 4),
        }
    )


def _revision(condition: str | None) -> int | None:
    if condition is None or condition.strip() == "*":
        return None
    digits = condition.strip().removeprefix('"').removesuffix('"')
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise Malformed("If-Match is no revision of a record", expected='the ETag of the metadata, such as "3"')
    return int(digits)


def _changes(patch: RecordPatch) -> dict[str, Any]:
    """Return the fields of ``FileRecord`` to replace; null gives a field its default."""
    changes = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not UNSET}
    defaults = {"filename": "", "tags": (), "horizon": "genesis", "resonance": 0.0, "adjacency": ()}
    changes = {name: defaults[name] if value is None else value for name, value in changes.items()}
    if changes.get("filename"):
        changes["filename"] = checked_filename(changes["filename"])
    if changes.get("horizon", HORIZONS[0]) not in HORIZONS:
        raise Malformed(f"{changes['horizon']!r} is no horizon", expected=list(HORIZONS))
    if "tags" in changes:
        changes["tags"] = tuple(sorted(set(changes["tags"])))
    if "adjacency" in changes:
        changes["adjacency"] = tuple(sorted({bytes(Address.parse(text)) for text in changes["adjacency"]}))
    return changes


def _query(request: web.Request) -> tuple[Query, int, str | None]:
    asked = request.query
    if twice := {name for name in asked if len(asked.getall(name)) > 1}:
        raise Malformed(f"{', '.join(sorted(twice))} given more than once", expected="each parameter once")
    try:
        query = msgspec.convert(dict(asked), ListQuery, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(
            f"a parameter of the list is not what is accepted: {str(error).replace('$.', '')}",
            expected=list(ListQuery.__struct_fields__),
        ) from error
    fields = msgspec.structs.asdict(query)
    limit, cursor, sort = fields.pop("limit"), fields.pop("cursor"), fields.pop("sort")
    fields["adjacency"] = None if query.adjacency is None else Address.parse(query.adjacency)
    for name in ("stored_after", "stored_before"):
        moment = fields[name]
        fields[name] = None if moment is None else int(moment.timestamp() * 1000)
    return Query(**fields, sort=sort.removeprefix("-"), descending=sort.startswith("-")), limit, cursor
