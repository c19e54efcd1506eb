"""Clients that load a server that will be killed, and the journal that they keep outside of it."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import threading
from collections.abc import Iterable, Iterator
from enum import Enum
from http.client import HTTPConnection, HTTPException

from PIL import Image

from tests.media import distinct_jpeg, sample

_LARGE_EVERY = 8


class State(Enum):
    """What a client knows of a file."""

    STORED = "its upload was acknowledged"
    GONE = "its delete was acknowledged"
    UNKNOWN = "it was asked for something, and got no answer"


class Files:
    """As many distinct photographs as one wants: most are small, every eighth is not."""

    def __init__(self) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64)).save(picture, "jpeg")
        self._small = picture.getvalue()
        self._large = sample("rocket.jpg").read_bytes()

    def data(self, number: int) -> bytes:
        """Return the bytes of one."""
        return distinct_jpeg(self._small if number % _LARGE_EVERY else self._large, number)

    def address(self, number: int) -> str:
        """Return its address."""
        return hashlib.sha256(self.data(number)).hexdigest()


class Client(threading.Thread):
    """Uploads files one after the other, and deletes others, until the server is gone."""

    def __init__(self, url: str, files: Files, numbers: Iterator[int], doomed: list[int]) -> None:
        """``numbers`` are of the files to upload, ``doomed`` of those to delete: nobody else asks for either."""
        super().__init__()
        self.journal: dict[int, State] = {}
        self.statuses: set[int] = set()
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
        self._files = files
        self._numbers = numbers
        self._doomed = doomed

    @property
    def acknowledged(self) -> int:
        """How many changes were acknowledged."""
        return sum(state is not State.UNKNOWN for state in list(self.journal.values()))

    def run(self) -> None:
        """Go on until the server is gone."""
        try:
            for number in self._numbers:
                self._upload(number)
                if self._doomed:
                    self._remove(self._doomed.pop())
        except (OSError, HTTPException):
            pass
        finally:
            self._connection.close()

    def _upload(self, number: int) -> None:
        self.journal[number] = State.UNKNOWN
        if self._ask("POST", "/v1/files", self._files.data(number)) in (200, 201):
            self.journal[number] = State.STORED

    def _remove(self, number: int) -> None:
        self.journal[number] = State.UNKNOWN
        if self._ask("DELETE", f"/v1/files/{self._files.address(number)}") == 204:
            self.journal[number] = State.GONE

    def _ask(self, method: str, path: str, body: bytes | None = None) -> int:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        answer.read()
        self.statuses.add(answer.status)
        return answer.status


class Journal:
    """What is known of all files so far, by number, and what a look at the server found to be otherwise."""

    def __init__(self, files: Files) -> None:
        self.known: dict[int, State] = {}
        self.lost: list[int] = []
        self.wrong: list[int] = []
        self.returned: list[int] = []
        self.looks = 0
        self._files = files

    def take(self, clients: Iterable[Client]) -> list[int]:
        """Take over what some clients know; return the numbers of the files."""
        fresh = dict(itertools.chain.from_iterable(client.journal.items() for client in clients))
        self.known.update(fresh)
        return list(fresh)

    def stored(self) -> list[int]:
        """Return the numbers of the files that must be there."""
        return [number for number, state in self.known.items() if state is State.STORED]

    def some(self, chance: random.Random, count: int) -> list[int]:
        """Return so many numbers of any files, or fewer."""
        return chance.sample(list(self.known), min(count, len(self.known)))

    def look(self, url: str, numbers: Iterable[int]) -> None:
        """Fetch these files and compare. One of which nothing was known has from now on the state that is found."""
        connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
        for number in numbers:
            connection.request("GET", f"/v1/files/{self._files.address(number)}")
            answer = connection.getresponse()
            body = answer.read()
            self._compare(number, answer.status, body)
            self.looks += 1
        connection.close()

    def _compare(self, number: int, status: int, body: bytes) -> None:
        state = self.known[number]
        if status == 200 and body != self._files.data(number):
            self.wrong.append(number)
        elif state is State.GONE and status != 404:
            self.returned.append(number)
        elif (state is State.STORED and status != 200) or status not in (200, 404):
            self.lost.append(number)
        self.known[number] = State.STORED if status == 200 else State.GONE
