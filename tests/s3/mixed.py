"""Mixed operations on a server, by clients that remember what they were told and compare it with what they get."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import aiohttp
from PIL import Image

from stat7store.media.copies import padded_mp4
from tests.media import distinct_jpeg, distinct_png, sample

LARGE_BYTES = (16 << 20) + 12345
"""Of the largest files: S3 takes them in parts."""
_KINDS = ("tiny", "small", "middle", "large")
_WEIGHTS = (45, 30, 24, 1)
_OPERATIONS = ("put", "get", "range", "head", "delete", "list")
_OFTEN = (30, 35, 12, 8, 10, 5)


class Contents:
    """As many distinct files as one wants, each made again from its number."""

    @cached_property
    def _tiny(self) -> bytes:
        return _png(8)

    @cached_property
    def _small(self) -> bytes:
        return _png(64)

    @cached_property
    def _middle(self) -> bytes:
        return sample("rocket.jpg").read_bytes()

    @cached_property
    def _large(self) -> bytes:
        return sample("bigbuckbunny.mp4").read_bytes()

    def make(self, number: int, kind: str) -> bytes:
        """Return the bytes of a file."""
        if kind == "large":
            return b"".join(map(bytes, padded_mp4(self._large, LARGE_BYTES, number)))
        if kind == "middle":
            return distinct_jpeg(self._middle, number)
        return distinct_png(self._tiny if kind == "tiny" else self._small, number)


def _png(side: int) -> bytes:
    image = Image.frombytes("RGB", (side, side), random.Random(side).randbytes(3 * side * side))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


@dataclass(slots=True)
class File:
    """What is known of one file: ``stored`` is None while nobody knows."""

    number: int
    kind: str
    address: str
    stored: bool | None = None
    shared: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    done: Counter[str] = field(default_factory=Counter)
    """Operations by name."""
    answers: Counter[str] = field(default_factory=Counter)
    """Their answers: a status, or why there was none."""
    acknowledged: int = 0
    """Uploads answered with 200 or 201."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were complete and not right."""
    hung: list[str] = field(default_factory=list)
    """Operations that took longer than the deadline."""
    slowest_s: float = 0.0
    """Of all operations."""

    @property
    def failed(self) -> int:
        """Operations that told of a failure."""
        return sum(n for answer, n in self.answers.items() if not answer.startswith("2") and answer != "404")


class Run:
    """A number of operations at once, on files of which each belongs to one client, but for some that all share."""

    def __init__(
        self,
        url: str,
        *,
        seed: int,
        deadline_s: float,
        may_range: Callable[[str], bool],
        clients: int = 8,
        shared: int = 12,
    ) -> None:
        """``may_range`` tells of an address whether parts of it are asked for."""
        self.outcome = Outcome()
        self._url = url
        self._deadline_s = deadline_s
        self._may_range = may_range
        self._contents = Contents()
        self._random = random.Random(seed)
        self._number = seed << 20
        self._shared = [self._new_file("large", shared=True)]
        self._shared += [self._new_file(shared=True) for _ in range(shared - 1)]
        self._own: list[list[File]] = [[] for _ in range(clients)]

    @property
    def files(self) -> list[File]:
        """All files there were."""
        return [*self._shared, *(file for own in self._own for file in own)]

    async def run(self, operations: int) -> None:
        """Do so many operations."""
        left = iter(range(operations))
        timeout = aiohttp.ClientTimeout(total=self._deadline_s)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as client, asyncio.TaskGroup() as group:
            for own in self._own:
                group.create_task(self._work(client, own, left))

    async def verify(self) -> list[File]:
        """Read every file that may be there; return those that were acknowledged and are not."""
        lost = []
        async with aiohttp.ClientSession(self._url) as client:
            for file in self.files:
                async with client.get(f"/v1/files/{file.address}") as response:
                    if response.status == 200 and sha256(await response.read()).hexdigest() != file.address:
                        self.outcome.wrong.append(f"verify {file}")
                    if response.status != 200 and file.stored:
                        lost.append(file)
                    if response.status == 200 and file.stored is False:
                        self.outcome.wrong.append(f"it was deleted, and is there: {file}")
        return lost

    async def _work(self, client: aiohttp.ClientSession, own: list[File], left: object) -> None:
        for _ in left:  # type: ignore[attr-defined]
            await self._one(client, own)

    async def _one(self, client: aiohttp.ClientSession, own: list[File]) -> None:
        operation = self._random.choices(_OPERATIONS, _OFTEN)[0]
        file = self._to_ask(own)
        if operation == "put":
            file = self._to_put(own)
        elif operation == "range" and not self._may_range(file.address):
            operation = "get"
        elif operation == "delete":
            file = self._to_delete(own)
        begun = time.monotonic()
        try:
            answer = await getattr(self, f"_{operation}")(client, file)
        except TimeoutError:
            answer = "time-out"
        except aiohttp.ClientError as error:
            answer = type(error).__name__
        took = time.monotonic() - begun
        outcome = self.outcome
        outcome.done[operation] += 1
        outcome.answers[answer] += 1
        outcome.slowest_s = max(outcome.slowest_s, took)
        if answer == "time-out":
            outcome.hung.append(f"{operation} {file}: {took:.1f} s")

    def _to_ask(self, own: list[File]) -> File:
        files = [*own, *self._shared]
        stored = [file for file in files if file.stored]
        return self._random.choice(stored if stored and self._random.random() < 0.9 else files)

    def _to_delete(self, own: list[File]) -> File:
        stored = [file for file in own if file.stored]
        if not stored:
            own.append(self._new_file())
        return self._random.choice(stored or own)

    def _to_put(self, own: list[File]) -> File:
        which = self._random.random()
        awaited = [file for file in self._shared if not file.stored]
        if which < 0.5 and awaited:
            return self._random.choice(awaited)
        gone = [file for file in own if not file.stored]
        if which < 0.1:
            return self._random.choice(self._shared)
        if which < 0.3 and gone:
            return self._random.choice(gone)
        own.append(self._new_file())
        return own[-1]

    def _new_file(self, kind: str = "", *, shared: bool = False) -> File:
        self._number += 1
        kind = kind or self._random.choices(_KINDS, _WEIGHTS)[0]
        return File(self._number, kind, sha256(self._contents.make(self._number, kind)).hexdigest(), False, shared)

    async def _put(self, client: aiohttp.ClientSession, file: File) -> str:
        if not file.stored:
            file.stored = None
        data = self._contents.make(file.number, file.kind)
        async with client.put(f"/v1/files/{file.address}", data=io.BytesIO(data)) as response:
            if response.status in (200, 201):
                self.outcome.acknowledged += 1
                file.stored = True
            return str(response.status)

    async def _get(self, client: aiohttp.ClientSession, file: File) -> str:
        known = file.stored
        async with client.get(f"/v1/files/{file.address}") as response:
            body = await response.read()
            if response.status == 200 and sha256(body).hexdigest() != file.address:
                self.outcome.wrong.append(f"get {file}")
            self._compare_presence("get", file, known, response.status)
            return str(response.status)

    async def _range(self, client: aiohttp.ClientSession, file: File) -> str:
        data = self._contents.make(file.number, file.kind)
        start, end = sorted(self._random.sample(range(len(data)), 2))
        async with client.get(f"/v1/files/{file.address}", headers={"Range": f"bytes={start}-{end}"}) as response:
            body = await response.read()
            if response.status == 206 and body != data[start : end + 1]:
                self.outcome.wrong.append(f"range {start}-{end} {file}")
            return str(response.status)

    async def _head(self, client: aiohttp.ClientSession, file: File) -> str:
        known = file.stored
        async with client.head(f"/v1/files/{file.address}") as response:
            self._compare_presence("head", file, known, response.status)
            return str(response.status)

    async def _delete(self, client: aiohttp.ClientSession, file: File) -> str:
        known, file.stored = file.stored, None
        async with client.delete(f"/v1/files/{file.address}") as response:
            self._compare_presence("delete", file, known, response.status)
            if response.status in (204, 404):
                file.stored = False
            return str(response.status)

    async def _list(self, client: aiohttp.ClientSession, file: File) -> str:
        async with client.get("/v1/files?limit=50") as response:
            await response.read()
            return str(response.status)

    def _compare_presence(self, operation: str, file: File, known: bool | None, status: int) -> None:
        if file.shared or known is None:
            return
        if known and status == 404:
            self.outcome.wrong.append(f"{operation} {file}: 404, though it is stored")
        if not known and status == 200:
            self.outcome.wrong.append(f"{operation} {file}: 200, though it is not stored")
