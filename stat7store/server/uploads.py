"""Uploads: one raw body, or the file parts of a form. Bytes stream through; a 2xx means durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

from aiohttp import BodyPartReader, web

from stat7store.address import Address
from stat7store.catalog.base import Added
from stat7store.errors import DigestMismatch, Malformed, NotAccepted, Stat7Error, TooLarge
from stat7store.server.answers import json_response
from stat7store.server.bodies import ask_for_body, raw_body, reading, refuse_early
from stat7store.server.headers import checked_filename, filename_of, sha256_of_digest
from stat7store.server.node import NODE
from stat7store.server.paths import address_in
from stat7store.upload import Upload
from stat7store.view import file_json

_CHUNK_BYTES = 256 * 1024


async def post_files(request: web.Request) -> web.Response:
    """Store one raw body, or every file part of a form."""
    refuse_early(request)
    if request.content_type == "multipart/form-data":
        return await _store_form(request)
    return await _store_body(request, _declared_address(request))


async def put_file(request: web.Request) -> web.Response:
    """Store bytes that must hash to the address in the path."""
    address = address_in(request)
    refuse_early(request)
    declared = _declared_address(request)
    if declared is not None and declared != address:
        raise DigestMismatch(
            "the digest header names other bytes than the path", expected=str(address), actual=str(declared)
        )
    return await _store_body(request, address)


async def _store_body(request: web.Request, expected: Address | None) -> web.Response:
    store = request.app[NODE].store
    with store.promise(request.content_length or 0) as promise:
        async with store.upload(_filename(request), expected, promise) as upload:
            await ask_for_body(request)
            async for data in raw_body(request):
                await upload.write(data)
                del data  # or it would be held for as long as the client lets the next one wait
            return _answer(request, [await upload.commit()])


async def _store_form(request: web.Request) -> web.Response:
    """Spool every file part; commit them all only when the whole form was read and found good."""
    node = request.app[NODE]
    async with AsyncExitStack() as stack:
        promise = stack.enter_context(node.store.promise(request.content_length or 0))
        await ask_for_body(request)
        uploads: list[Upload] = []
        async for part in _parts(request):
            name = filename_of(part.headers.get("Content-Disposition"))
            upload = await stack.enter_async_context(node.store.upload(_named(name), promise=promise))
            uploads.append(upload)
            await _spool(request, part, upload, number=len(uploads))
        if not uploads:
            raise Malformed("the form holds no file", expected="one or more parts with a filename")
        return _answer(request, await asyncio.gather(*(upload.commit() for upload in uploads)))


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    """Yield the file parts of a form; other fields are passed over. Raises ``Malformed``, ``TooLarge``."""
    max_parts = request.app[NODE].settings.max_parts
    with _well_formed():
        reader = await request.multipart()
    for _ in range(max_parts + 1):
        async with reading(request):
            with _well_formed():
                part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise Malformed("a part of the form is itself multipart", expected="parts with a filename")
        if part.filename:  # a browser sends an empty name for a field in which no file was chosen
            yield part
    raise TooLarge(f"the form has more than {max_parts} parts; send the files in several requests", max_parts=max_parts)


async def _spool(request: web.Request, part: BodyPartReader, upload: Upload, number: int) -> None:
    """Write a part to its upload and check it; errors say which of the files it was."""
    if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise NotAccepted("a part comes in a transfer encoding (RFC 7578 §4.7); send the file's bytes as they are")
    try:
        while not part.at_eof():
            async with reading(request):
                with _well_formed():
                    data = await part.read_chunk(_CHUNK_BYTES)
            await upload.write(data)
            del data
        await upload.finish()
    except Stat7Error as error:
        error.facts.update(part=number, filename=upload.filename)
        raise


def _filename(request: web.Request) -> str:
    return _named(filename_of(request.headers.get("Content-Disposition")) or request.headers.get("X-Filename", ""))


def _named(name: str) -> str:
    return checked_filename(name) if name else ""  # files need not have a name


def _declared_address(request: web.Request) -> Address | None:
    """Return the digest the client declared of the bytes it sends (RFC 9530), if any."""
    declared = {
        digest
        for name in ("Repr-Digest", "Content-Digest")
        if (digest := sha256_of_digest(request.headers.get(name))) is not None
    }
    if len(declared) > 1:
        raise Malformed("Repr-Digest and Content-Digest name different bytes")
    return Address(declared.pop()) if declared else None


@contextmanager
def _well_formed() -> Iterator[None]:
    """aiohttp's multipart reader tells of broken forms by whatever exception comes up."""
    try:
        yield
    except (ValueError, AssertionError, LookupError, RuntimeError) as error:
        raise Malformed(f"the form is not well-formed multipart/form-data (RFC 7578): {error}") from error


def _answer(request: web.Request, added: Sequence[Added]) -> web.Response:
    for file in added:
        request.app[NODE].board.count_upload(file.entry.locator.size, created=file.created)
    status = 201 if any(file.created for file in added) else 200
    if len(added) > 1:
        return json_response({"files": [file_json(file.entry, file.created) for file in added]}, status)
    entry = added[0].entry
    location = {"Location": f"/v1/files/{entry.address}"} if added[0].created else None
    return json_response(file_json(entry, added[0].created), status, location)
