"""Bit rot: flipped, zeroed, cut, extended and swapped blobs, and flipped bits in values of the catalog.

That altered values are never believed holds their checksum (``stat7store/catalog/codec.py``); that no blob of another
size is sent holds the comparison in ``Store.open``; that nothing altered is sent after a scrub holds its mark.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import shutil
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import NamedTuple

import pytest

from stat7store.cli import main
from stat7store.opening import open_store, prepare
from stat7store.settings import Settings
from tests.faults.clients import Files
from tests.faults.reliability import Reliability, Row
from tests.faults.rot import OF_THE_CATALOG, Rot
from tests.running import RunningServer, wait_until

FILES = 48
HARMED = 40


class Answer(NamedTuple):
    """What a client got; ``whole`` is false for a body that broke off, ``right`` for other bytes than were stored.

    ``digest`` is that of ``Repr-Digest``, which says what the bytes of the whole file must hash to.
    """

    status: int
    body: bytes
    whole: bool
    right: bool
    digest: str

    @property
    def is_wrong(self) -> bool:
        """Whether it looks complete and is not what was stored."""
        return self.status in (200, 206) and self.whole and not self.right

    @property
    def tells(self) -> bool:
        """Whether its own digest contradicts it."""
        return self.digest != f"sha-256=:{base64.b64encode(hashlib.sha256(self.body).digest()).decode()}:"


class Looks:
    """What all clients of all rounds got."""

    def __init__(self, files: Files) -> None:
        self.count = 0
        self.told = 0
        self.wrong: list[str] = []
        self._files = files

    def at(self, server: RunningServer, numbers: range, chance: random.Random) -> dict[str, tuple[Answer, Answer]]:
        """Fetch every file, whole and a range of it."""
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        answers = {}
        for number in numbers:
            data, address = self._files.data(number), self._files.address(number)
            start = chance.randrange(len(data))
            end = chance.randint(start + 1, len(data))
            answers[address] = (
                _asked(connection, address, data, None),
                _asked(connection, address, data[start:end], f"bytes={start}-{end - 1}"),
            )
            self.count += 2
        connection.close()
        return answers


def _asked(connection: HTTPConnection, address: str, right: bytes, range_: str | None) -> Answer:
    connection.request("GET", f"/v1/files/{address}", headers={"Range": range_} if range_ else {})
    answer = connection.getresponse()
    whole = True
    try:
        body = answer.read()
    except IncompleteRead as error:
        body, whole = error.partial, False
        connection.close()
    return Answer(answer.status, body, whole, body == right, answer.headers.get("Repr-Digest", ""))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_rot_is_found_by_one_scrub_and_never_served_after_it(
    tmp_path: Path, samples: Path, soak: bool, reliability: Reliability, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is altered: one verify finds all of it and nothing else, and from then on none of it is served, whole
    or in ranges. Before it nothing of another size and nothing with an altered record is served, and whatever else is
    contradicts its own Repr-Digest. An upload, a second store or a rebuild makes all of it whole again."""
    chance, files = random.Random(), Files()
    looks, found, served_before = Looks(files), 0, 0
    data, second = tmp_path / "data", tmp_path / "second"
    everything = range(FILES)
    for folder in (data, second):
        prepare(Settings(data=folder))
        asyncio.run(_fill(folder, files, everything))
    server = RunningServer(data, "--no-access-log", "--sweep-every=1", workers=1)
    rounds = 25 if soak else 1
    for _ in range(rounds):
        rot = Rot(data, chance)
        rot.harm([files.address(number) for number in chance.sample(everything, HARMED)])
        with server:
            before = looks.at(server, everything, chance)
            served_before += _check_before(before, rot, files)
            capsys.readouterr()
            assert main(["verify", f"--data={data}", "--json"]) == 1
            shown = capsys.readouterr()
            tally = json.loads(shown.out)
            assert tally["bad"] + tally["missing"] + tally["records"] == len(rot.victims), (tally, rot.victims)
            assert all(address in shown.err for address in rot.victims)
            found += len(rot.victims)
            after = looks.at(server, everything, chance)
            _check_after(after, rot)
            _upload_some(server, rot, files)
            main(["verify", f"--data={data}", f"--repair-from={second}"])
            wait_until(lambda: len(server.stored()) == FILES)  # else the rebuild would meet the harmed blobs
        assert main(["rebuild", f"--data={data}"]) == 0
        shutil.rmtree(data / "catalog.old")
        assert main(["verify", f"--data={data}"]) == 0
        with server:
            healed = looks.at(server, everything, chance)
        assert all((whole.status, part.status) == (200, 206) for whole, part in healed.values())
        assert all(whole.right and part.right for whole, part in healed.values())
    reliability.add(
        Row(
            fault="bit rot",
            store="filesystem",
            how="flipped, zeroed, cut, extended and swapped blobs; flipped bits in locators and records of the catalog",
            times=found,
            checked=f"{looks.count:,} retrievals, whole and of ranges; all {found:,} found by one verify, none served "
            f"after it, all healed. Before it {served_before:,} blobs of unaltered size were sent, and each "
            "contradicted its Repr-Digest",
            lost=0,
            wrong=0,
            left_out="bits of the catalog's pages outside of its values, which have no checksum",
        )
    )


async def _fill(data: Path, files: Files, numbers: range) -> None:
    async with open_store(Settings(data=data)) as store:
        for number in numbers:
            async with store.upload(f"{number}.jpg") as upload:
                await upload.write(files.data(number))
                await upload.commit()


def _check_before(answers: dict[str, tuple[Answer, Answer]], rot: Rot, files: Files) -> int:
    """Check what is served of rot that nobody has looked for yet; return how much was sent."""
    sent = 0
    for address, (whole, part) in answers.items():
        harm = rot.victims.get(address)
        if harm is None:
            assert (whole.status, whole.right, part.status, part.right) == (200, True, 206, True), address
        elif harm in (*OF_THE_CATALOG, "cut", "extended"):
            assert (whole.status, part.status) == (500, 500), (harm, whole, part)
        else:
            assert not whole.is_wrong or whole.tells, (harm, whole)
            sent += whole.is_wrong
    return sent


def _check_after(answers: dict[str, tuple[Answer, Answer]], rot: Rot) -> None:
    """Check that a scrub has ended the serving of rot, and of nothing else."""
    for address, (whole, part) in answers.items():
        if address in rot.victims:
            assert (whole.status, part.status) == (500, 500), (rot.victims[address], whole, part)
        else:
            assert (whole.right, part.right) == (True, True), address


def _upload_some(server: RunningServer, rot: Rot, files: Files) -> None:
    """Upload every other file with damaged bytes again: it is whole at once. The rest is left to the second store."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    damaged = [address for address, harm in rot.victims.items() if harm not in OF_THE_CATALOG]
    numbers = {files.address(number): number for number in range(FILES)}
    for address in damaged[::2]:
        data = files.data(numbers[address])
        connection.request("POST", "/v1/files", data)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert _asked(connection, address, data, None).right
    connection.close()
