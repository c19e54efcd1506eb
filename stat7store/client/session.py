"""The client itself: one method a call of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from stat7store.address import Address
from stat7store.client.answers import Existence, FilePage, Health, Stats, StoredFile, decoded
from stat7store.client.body import Body, Retrieval
from stat7store.client.connection import Connection
from stat7store.client.ranges import ByteRange
from stat7store.client.sending import Progress, Sending, Source, end, filename_of
from stat7store.client.target import complete_or_absent
from stat7store.errors import DigestMismatch, Unavailable
from stat7store.timing import Timing

MOST_ADDRESSES = 1000
MOST_PER_PAGE = 1000


class Filters(TypedDict, total=False):
    """Which files to list, and in which order; what is left out means any.

    Ranges include both ends; ``media_type`` is exact or a family such as ``image/*``; ``name`` is a
    substring of the file name; ``stored_after`` and ``stored_before`` are exclusive and have a time
    zone; ``sort`` is ``stored_at``, ``size``, ``resonance``, ``velocity`` or ``density``, and a minus
    before it turns the order round (``-stored_at``, newest first, is the default).
    """

    realm: str
    horizon: str
    lineage: int
    adjacency: Address | str
    resonance_min: float
    resonance_max: float
    velocity_min: float
    velocity_max: float
    density_min: float
    density_max: float
    media_type: str
    tag: str
    name: str
    stored_after: datetime
    stored_before: datetime
    sort: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes that were fetched, and how the retrieval went."""

    data: bytes
    retrieval: Retrieval


class Client:
    """Talks to the STAT7 store at ``url``, over up to ``connections`` connections that are kept open.

    Addresses are taken as ``Address`` or as text in any of its forms. Every method raises
    ``Unavailable`` if the server cannot be reached or does not answer in time, and otherwise the
    error that the server tells of.

        async with Client("http://127.0.0.1:7377") as client:
            stored = await client.put("astronaut.png")
            await client.download(stored.address, "copy.png")
    """

    def __init__(self, url: str = "http://127.0.0.1:7377", *, connections: int = 16) -> None:
        self.url = url.rstrip("/")
        self._limit = connections
        self._open: Connection | None = None

    async def __aenter__(self) -> Self:
        self._open = Connection(self.url, self._limit)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            raise RuntimeError("the client is used within `async with` only")
        return self._open

    async def put(
        self,
        source: Source,
        *,
        filename: str | None = None,
        address: Address | str | None = None,
        size: int | None = None,
        progress: Progress | None = None,
    ) -> StoredFile:
        """Store a file (by its path), bytes, or a stream of them; durable on return.

        ``filename`` is the file's own name unless given. With ``address`` the server keeps the
        bytes only if they hash to it. ``size`` (bytes) lets a stream announce its length;
        ``progress`` is called with the length of each block sent.

        The bytes are hashed while they are sent, and the answer must name the same address. Raises
        ``DigestMismatch``, ``NotAccepted`` for other than the accepted media types, ``TooLarge``,
        ``NoSpace``, and ``OSError`` if the file cannot be read.

            stored = await client.put("clip.mp4", progress=lambda size: print(f"{size} bytes more"))
            print(stored.address, stored.created)
        """
        sending = Sending(source, size, progress)
        headers = {"Content-Type": "application/octet-stream"}
        if sending.size is not None:
            headers["Content-Length"] = str(sending.size)
        if name := filename_of(source) if filename is None else filename:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
        method, path = ("POST", "/v1/files") if address is None else ("PUT", f"/v1/files/{_parsed(address)}")
        blocks = sending.blocks()
        try:
            body = await self._connection.call(method, path, headers=headers, data=blocks)
        except Unavailable:
            if sending.failure is not None:
                raise sending.failure from None
            raise
        finally:
            await end(blocks)
        stored = decoded(body, StoredFile)
        sent = sending.hasher.address()
        if stored.address != str(sent):
            raise DigestMismatch(
                "the server stored other bytes than were sent; they were altered on the way",
                expected=str(sent),
                actual=stored.address,
            )
        return stored

    @asynccontextmanager
    async def open(self, address: Address | str, span: ByteRange | None = None) -> AsyncIterator[Body]:
        """Yield the bytes of a file as they arrive; a body that breaks off is resumed where it broke.

        The whole file (no ``span``) is verified at its end. Raises ``NotFound``, ``DigestMismatch``,
        ``Damaged``, and ``Malformed`` for a range outside of the file.

            async with client.open(address, ByteRange(0, 999)) as body:
                async for data in body:
                    ...
            print(body.retrieval.total_ms)
        """
        body = Body(self._connection, _parsed(address), span)
        try:
            await body.begin()
            yield body
        finally:
            await body.close()

    async def get(self, address: Address | str, span: ByteRange | None = None) -> Fetched:
        """Return the bytes of a file or of a range of it, in memory. Verified as ``open`` says.

        fetched = await client.get(address)
        assert Address.of(fetched.data) == address
        """
        async with self.open(address, span) as body:
            pieces = [data async for data in body]
        return Fetched(b"".join(pieces), _ended(body))

    async def download(
        self,
        address: Address | str,
        path: str | Path,
        span: ByteRange | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Retrieval:
        """Write a file, or a range of it, to ``path``, which appears only once it is whole and verified.

        Memory stays at a few MiB. ``progress`` is called with the length of each piece. Raises
        ``FileExistsError`` unless ``overwrite``, ``OSError``, and what ``open`` does.

            retrieval = await client.download(address, "clip.mp4")
        """
        async with (
            complete_or_absent(Path(path), overwrite=overwrite) as target,
            self.open(address, span) as body,
        ):
            async for data in body:
                await target.write(data)
                if progress is not None:
                    progress(len(data))
        return _ended(body)

    async def metadata(self, address: Address | str) -> StoredFile:
        """Return the record of a file. Raises ``NotFound``."""
        return decoded(await self._connection.call("GET", f"/v1/files/{_parsed(address)}/metadata"), StoredFile)

    async def update(
        self,
        address: Address | str,
        *,
        revision: int | None = None,
        filename: str | UnsetType | None = UNSET,
        tags: Sequence[str] | UnsetType | None = UNSET,
        horizon: str | UnsetType | None = UNSET,
        resonance: float | UnsetType | None = UNSET,
        adjacency: Collection[Address | str] | UnsetType | None = UNSET,
    ) -> StoredFile:
        """Change what a person may change of a record; None resets a field. Returns the new record.

        With ``revision`` the change is made only to that one. Raises ``NotFound``, ``Conflict``,
        ``Malformed``.

            record = await client.metadata(address)
            await client.update(address, revision=record.revision, tags=["space"], resonance=0.9)
        """
        fields = {
            "filename": filename,
            "tags": tags,
            "horizon": horizon,
            "resonance": resonance,
            "adjacency": adjacency if adjacency is None or adjacency is UNSET else [str(_parsed(a)) for a in adjacency],
        }
        headers = {"Content-Type": "application/merge-patch+json"}
        if revision is not None:
            headers["If-Match"] = f'"{revision}"'
        patch = msgspec.json.encode({name: value for name, value in fields.items() if value is not UNSET})
        answer = await self._connection.call(
            "PATCH", f"/v1/files/{_parsed(address)}/metadata", headers=headers, data=patch
        )
        return decoded(answer, StoredFile)

    async def delete(self, address: Address | str) -> None:
        """Delete a file; gone for every later read. Raises ``NotFound``."""
        await self._connection.call("DELETE", f"/v1/files/{_parsed(address)}")

    async def exists(self, addresses: Sequence[Address | str]) -> Existence:
        """Tell which addresses are stored; asks in parts of 1,000."""
        present: list[str] = []
        missing: list[str] = []
        texts = [str(_parsed(address)) for address in addresses]
        for start in range(0, len(texts), MOST_ADDRESSES):
            question = msgspec.json.encode({"addresses": texts[start : start + MOST_ADDRESSES]})
            answer = decoded(await self._connection.call("POST", "/v1/exists", data=question), Existence)
            present += answer.present
            missing += answer.missing
        return Existence(present, missing)

    async def page(
        self, *, limit: int = MOST_PER_PAGE, cursor: str | None = None, **filters: Unpack[Filters]
    ) -> FilePage:
        """Return one page of a list, of at most ``limit`` (1 to 1,000) files, from ``cursor`` on."""
        parameters = {"limit": str(limit), **_parameters(filters)}
        if cursor is not None:
            parameters["cursor"] = cursor
        return decoded(await self._connection.call("GET", "/v1/files", params=parameters), FilePage)

    async def files(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> AsyncIterator[StoredFile]:
        """Yield the files that match, all or at most ``limit``, page by page.

        async for file in client.files(realm="image", resonance_min=0.5, sort="-size"):
            print(file.address, file.filename)
        """
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = await self.page(limit=min(left or MOST_PER_PAGE, MOST_PER_PAGE), cursor=cursor, **filters)
            for file in page.files:
                yield file
            if page.cursor is None:
                return
            cursor = page.cursor
            if left is not None:
                left -= len(page.files)

    async def timing(self, request_id: str) -> Timing:
        """Return the server's record of one retrieval, stage by stage. Raises ``NotFound``.

        fetched = await client.get(address)
        timing = await client.timing(fetched.retrieval.request_id)
        print(timing.index_ms, timing.metadata_ms, timing.disk_ms, timing.network_ms)
        """
        return decoded(await self._connection.call("GET", f"/v1/timings/{quote(request_id, safe='')}"), Timing)

    async def timings(self, limit: int = 100, *, slowest: bool = False) -> list[Timing]:
        """Return the server's records of up to ``limit`` recent retrievals, newest or slowest first."""
        parameters = {"limit": str(limit), "slowest": "true" if slowest else "false"}
        answer = decoded(await self._connection.call("GET", "/v1/timings", params=parameters), dict[str, list[Timing]])
        return answer["timings"]

    async def stats(self) -> Stats:
        """Return the totals of the store, and how long the stages take."""
        return decoded(await self._connection.call("GET", "/v1/stats"), Stats)

    async def health(self) -> Health:
        """Tell whether the server is alive, and ready to serve. Never raises ``Unavailable``."""
        return Health(alive=await self._answers("/healthz"), ready=await self._answers("/readyz"))

    async def _answers(self, path: str) -> bool:
        try:
            await self._connection.call("GET", path)
        except Unavailable:
            return False
        return True


def _parsed(address: Address | str) -> Address:
    return address if isinstance(address, Address) else Address.parse_any(address)


def _parameters(filters: Mapping[str, object]) -> dict[str, str]:
    return {name: value.isoformat() if isinstance(value, datetime) else str(value) for name, value in filters.items()}


def _ended(body: Body) -> Retrieval:
    assert body.retrieval is not None  # it was iterated to its end
    return body.retrieval
