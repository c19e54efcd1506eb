"""The S3 backend holds to the contract, and does what S3 alone asks for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from storage.base import BlobDamaged, BlobNoSpace, BlobStore, BlobUnavailable, Location, Span
from storage.s3 import S3Blobs
from storage.s3_options import S3Options
from tests.s3_servers import OWNER, S3Server
from tests.storage.breaking import Asked, BreakingServer, Fault
from tests.storage.contract import BlobContract, fetch, keep, listed, name_of
from tests.storage.programs import ROOT

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    """The server under the store; a class that wants one of its own says so."""
    return s3_server


@pytest.fixture
def client(server: S3Server) -> Iterator[S3Client]:
    """A client of boto3's own."""
    client = server.client()
    yield client
    client.close()


@pytest.fixture
def options(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Options]:
    """An empty bucket."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with server.bucket() as options:
        yield options


@pytest.fixture
async def blobs(options: S3Options, tmp_path: Path) -> AsyncIterator[S3Blobs]:
    """An empty store in a bucket."""
    store = S3Blobs(options, tmp_path / "spools")
    yield store
    await store.close()


class TestS3(BlobContract):
    """The contract, for blobs in a bucket."""

    kind = "s3"

    @pytest.fixture(autouse=True)
    def _at(self, options: S3Options, client: S3Client) -> None:
        self.options = options
        self.client = client

    def _key(self, location: Location) -> str:
        return f"{self.options.folder}{location}"

    def _bytes(self, location: Location) -> bytes:
        return self.client.get_object(Bucket=self.options.bucket, Key=self._key(location))["Body"].read()

    def truncate(self, blobs: BlobStore, location: Location, size: int) -> None:
        data = self._bytes(location)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(location), Body=data[:size])

    def remove(self, blobs: BlobStore, location: Location) -> None:
        self.client.delete_object(Bucket=self.options.bucket, Key=self._key(location))

    def swap(self, blobs: BlobStore, one: Location, other: Location) -> None:
        first, second = self._bytes(one), self._bytes(other)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(one), Body=second)
        self.client.put_object(Bucket=self.options.bucket, Key=self._key(other), Body=first)

    def add_foreign(self, blobs: BlobStore) -> None:
        name = name_of(b"foreign")
        token = "0123456789abcdef"
        folder = f"{self.options.folder}{name[:3]}"
        other = f"{self.options.folder}{'000' if name[:3] != '000' else '001'}"
        for key in (
            "notes.txt",
            f"{self.options.folder}notes.txt",
            f"{self.options.folder}zzz",
            f"{folder}/",
            f"{folder}/{name}",
            f"{folder}/{name}.{token}~",
            f"{folder}/{name}.01",
            f"{folder}/{name.upper()}.{token}",
            f"{other}/{name}.{token}",
            f"{name[:3]}/{name}.{token}",
            f"{folder}/é",
        ):
            self.client.put_object(Bucket=self.options.bucket, Key=key, Body=b"foreign")

    @pytest.mark.parametrize("left", [0, 1, 4095, 4096, 99_999])
    async def test_a_truncated_blob_shows_its_real_size(self, blobs: BlobStore, left: int) -> None:
        """A blob cut off behind the store's back shows its size, and is opened neither whole nor beyond the cut."""
        data = bytes(range(250)) * 400
        location = await keep(blobs, data)
        self.truncate(blobs, location, left)
        assert await blobs.stat(location) == left
        assert await fetch(blobs, location, Span(left // 3, left // 3)) == data[left // 3 : left // 3 * 2]
        for span in (None, Span(0, len(data))):
            with pytest.raises(BlobDamaged):
                await blobs.open(location, span)

    async def test_swapped_blobs_are_read_as_they_are(self, blobs: BlobStore) -> None:
        """A blob exchanged for another is found out: its bytes are not what its name says."""
        short, long = b"short", bytes(100_000)
        one, other = await keep(blobs, short), await keep(blobs, long)
        self.swap(blobs, one, other)
        assert await blobs.stat(one) == len(long)
        for location in (one, other):
            with pytest.raises(BlobDamaged):
                await blobs.open(location)
        assert await fetch(blobs, one, Span(5, 10)) == bytes(10)


def is_get(asked: Asked) -> bool:
    """Whether this asks for the bytes of an object."""
    return asked.method == "GET" and "Range" in asked.headers


def is_put(asked: Asked) -> bool:
    """Whether this puts a whole object."""
    return asked.method == "PUT" and "?" not in asked.path


def is_part(asked: Asked) -> bool:
    """Whether this puts a part."""
    return asked.method == "PUT" and "partNumber" in asked.path


def is_completion(asked: Asked) -> bool:
    """Whether this completes a multipart upload."""
    return asked.method == "POST" and "uploadId" in asked.path


async def until(holds: Callable[[], bool]) -> None:
    """Wait until this holds."""
    for _ in range(6000):  # for a minute
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to hold")


def any_number_of(fault: Fault) -> list[Fault]:
    """Return the same fault for more requests than a test makes."""
    return [fault] * 1000


class TestFaults:
    """The backend, behind a server that breaks what it is told to."""

    @pytest.fixture
    def server(self, moto_server: S3Server) -> S3Server:
        """What is broken lies in front of the server, which need not be a real one."""
        return moto_server

    @pytest.fixture
    def breaking(self, server: S3Server) -> Iterator[BreakingServer]:
        """The breaking server, in front of moto."""
        breaking = BreakingServer(server.endpoint.removeprefix("http://"))
        yield breaking
        breaking.stop()

    @pytest.fixture
    async def blobs(self, options: S3Options, breaking: BreakingServer, tmp_path: Path) -> AsyncIterator[S3Blobs]:
        """A store behind it."""
        store = S3Blobs(
            replace(
                options,
                endpoint_url=breaking.url,
                deadline_s=300.0,  # no test here waits for one: these only keep a busy machine from failing it
                read_timeout_s=60.0,
                multipart_above=6 << 20,
                part_size=5 << 20,
            ),
            tmp_path / "spools",
        )
        yield store
        breaking.faults.clear()
        await store.close()

    async def test_a_small_blob_takes_one_request_each_way(self, blobs: S3Blobs, breaking: BreakingServer) -> None:
        """A blob of up to 1 MiB is put with one request, and got with one: its hash sent along, and compared."""
        location = await keep(blobs, bytes(1 << 20))
        assert [(asked.method, asked.headers["If-None-Match"]) for asked in breaking.asked] == [("PUT", "*")]
        assert breaking.asked[0].headers["x-amz-checksum-sha256"] == b64encode(bytes.fromhex(location.name)).decode()
        assert breaking.asked[0].headers["X-Amz-Content-SHA256"] == location.name
        breaking.asked.clear()
        assert await fetch(blobs, location) == bytes(1 << 20)
        assert [asked.method for asked in breaking.asked] == ["GET"]
        assert blobs.counts()["s3_requests"] == 2
        assert blobs.counts()["s3_bytes_in"] == blobs.counts()["s3_bytes_out"] == 1 << 20

    async def test_a_large_blob_goes_in_parts_and_comes_in_windows(
        self, blobs: S3Blobs, breaking: BreakingServer
    ) -> None:
        """A large blob is put in parts, each with its hash, and completed only where nothing is; then read ahead."""
        data = os.urandom((23 << 20) + 123)
        location = await keep(blobs, data)
        parts = [asked for asked in breaking.asked if is_part(asked)]
        assert len(parts) == 5
        assert len({asked.headers["x-amz-checksum-sha256"] for asked in parts}) == 5
        assert [asked.headers["If-None-Match"] for asked in breaking.asked if is_completion(asked)] == ["*"]
        assert await fetch(blobs, location) == data
        ranges = {asked.headers["Range"] for asked in breaking.asked if is_get(asked)}
        assert len(ranges) == 5
        assert await fetch(blobs, location, Span(9_000_001, 12_345_678)) == data[9_000_001 : 9_000_001 + 12_345_678]

    async def test_read_ahead_waits_until_reading_goes_on(self, blobs: S3Blobs, breaking: BreakingServer) -> None:
        """A reader that is opened and not read asks for one range only; one that is closed early stops asking."""
        location = await keep(blobs, os.urandom(40 << 20))
        breaking.asked.clear()
        reader = await blobs.open(location)
        await reader.read(1000)
        assert len(breaking.asked) == 1
        reader.close()
        assert await reader.read(1000) == b""

    @pytest.mark.parametrize("status", [0, 500, 503])
    async def test_failures_that_pass_are_not_seen(self, blobs: S3Blobs, breaking: BreakingServer, status: int) -> None:
        """Requests that are refused or reset before they are applied are sent again."""
        fault = Fault(lambda asked: True, before=(status, "SlowDown" if status == 503 else "InternalError"))
        breaking.faults += [fault] * 2
        location = await keep(blobs, b"again")
        breaking.faults += [fault] * 2
        assert await fetch(blobs, location) == b"again"
        breaking.faults += [fault] * 2
        assert await listed(blobs) == [location]
        breaking.faults += [fault] * 2
        assert await blobs.stat(location) == 5
        breaking.faults += [fault] * 2
        await blobs.delete(location)
        assert await listed(blobs) == []
        assert blobs.counts()["s3_retries"] == blobs.counts()["s3_errors"] == 10
        assert blobs.counts()["s3_throttled"] == (10 if status == 503 else 0)

    @pytest.mark.parametrize("size", [100, 7 << 20])
    async def test_a_put_whose_answer_is_lost_is_found(
        self, blobs: S3Blobs, breaking: BreakingServer, size: int
    ) -> None:
        """A put that was applied although no answer came is known by its size and hash, and was sent only once more."""
        data = os.urandom(size)
        is_last = is_put if size == 100 else is_completion
        breaking.faults.append(Fault(is_last, lost=True))
        location = await keep(blobs, data)
        assert [asked.status for asked in breaking.asked if is_last(asked)][1:] in ([412], [404], [200])
        assert await listed(blobs) == [location]
        assert await fetch(blobs, location) == data

    async def test_a_put_that_meets_something_else_fails(
        self, blobs: S3Blobs, options: S3Options, client: S3Client, breaking: BreakingServer
    ) -> None:
        """What lies at the location already is not taken for the blob unless it is the blob."""
        location = blobs.plan(name_of(b"mine"))
        client.put_object(Bucket=options.bucket, Key=f"{options.folder}{location}", Body=b"what")
        spool = await blobs.spool()
        spool.append(b"mine")
        with pytest.raises(BlobUnavailable):
            await blobs.put_at(spool, location)
        spool.close()
        assert client.get_object(Bucket=options.bucket, Key=f"{options.folder}{location}")["Body"].read() == b"what"

    async def test_a_put_that_fails_leaves_no_parts(
        self, blobs: S3Blobs, options: S3Options, client: S3Client, breaking: BreakingServer
    ) -> None:
        """A multipart upload that cannot go on is aborted, and refused as unavailable or, if it is that, as full."""
        for code, kind in (("InternalError", BlobUnavailable), ("QuotaExceeded", BlobNoSpace)):
            breaking.faults += any_number_of(Fault(is_part, before=(403 if kind is BlobNoSpace else 500, code)))
            with pytest.raises(kind):
                await keep(blobs, bytes(7 << 20))
            breaking.faults.clear()
            await until(lambda: not client.list_multipart_uploads(Bucket=options.bucket).get("Uploads"))
        assert await listed(blobs) == []

    @pytest.mark.parametrize("size", [100_000, 20 << 20])
    async def test_a_body_that_breaks_off_is_gone_on_with(
        self, blobs: S3Blobs, breaking: BreakingServer, size: int
    ) -> None:
        """A body that ends too early, even within read-ahead, is gone on with where it ended."""
        data = os.urandom(size)
        location = await keep(blobs, data)
        breaking.faults += [Fault(is_get, cut=cut) for cut in (0, 10, 70_000)]
        assert await fetch(blobs, location) == data
        assert blobs.counts()["s3_resumed"] + blobs.counts()["s3_retries"] >= 3
        assert breaking.faults == []

    async def test_a_body_that_always_breaks_off_is_given_up(self, blobs: S3Blobs, breaking: BreakingServer) -> None:
        """The tries to go on with a body are bounded, although each of them brings something."""
        location = await keep(blobs, os.urandom(7 << 20))
        breaking.asked.clear()
        breaking.faults += any_number_of(Fault(is_get, cut=(1 << 20) + 1000))
        reader = await blobs.open(location)
        with pytest.raises(BlobUnavailable):
            while await reader.read(1 << 20):
                pass
        reader.close()
        assert len(breaking.asked) == 5

    async def test_a_replaced_blob_is_not_mixed(
        self, blobs: S3Blobs, options: S3Options, client: S3Client, breaking: BreakingServer
    ) -> None:
        """A reader never goes on with the bytes of another object."""
        location = await keep(blobs, os.urandom(20 << 20))
        reader = await blobs.open(location, Span(0, 15 << 20))
        await reader.read(1000)
        client.put_object(Bucket=options.bucket, Key=f"{options.folder}{location}", Body=bytes(20 << 20))
        with pytest.raises(BlobDamaged):
            while await reader.read(1 << 20):
                pass
        reader.close()

    async def test_a_body_altered_on_its_way_is_asked_for_again(self, blobs: S3Blobs, breaking: BreakingServer) -> None:
        """One wrong byte in a small blob is noticed before the first byte is given, and mended by another look."""
        data = os.urandom(100_000)
        location = await keep(blobs, data)
        breaking.faults += [Fault(is_get, alter=99_999)] * 2
        assert await fetch(blobs, location) == data
        breaking.faults += any_number_of(Fault(is_get, alter=5))
        with pytest.raises(BlobDamaged):
            await blobs.open(location)

    @pytest.mark.parametrize("window", [0, 1, 3])
    async def test_a_large_body_altered_is_never_completed(
        self, blobs: S3Blobs, breaking: BreakingServer, window: int
    ) -> None:
        """Of a large blob with one wrong byte anywhere the last bytes are withheld."""
        data = os.urandom(22 << 20)
        location = await keep(blobs, data)
        start = [0, 8 << 20, 12 << 20, 16 << 20][window]
        breaking.faults.append(
            Fault(lambda asked: asked.headers.get("Range", "").startswith(f"bytes={start}-"), alter=1_000_000)
        )
        reader = await blobs.open(location)
        got = 0
        with pytest.raises(BlobDamaged):
            while piece := await reader.read(1 << 20):
                got += len(piece)
        reader.close()
        assert breaking.faults == []
        assert got < len(data)

    async def test_a_silent_server_is_given_up_in_time(
        self, options: S3Options, breaking: BreakingServer, tmp_path: Path
    ) -> None:
        """No call waits longer than its deadline, whether it is the server that is silent or no thread is free."""
        patient = replace(options, endpoint_url=breaking.url, max_connections=2)
        heard = S3Blobs(patient, tmp_path)
        location = await keep(heard, b"heard")
        await heard.close()
        # Neither the server's silence nor the socket's patience ends before the test: only the deadline can.
        blobs = S3Blobs(replace(patient, deadline_s=0.5, read_timeout_s=600.0), tmp_path)
        breaking.faults += any_number_of(Fault(lambda asked: True, silent_s=600.0))
        async with asyncio.timeout(60):
            answers = await asyncio.gather(
                *(blobs.open(location) for _ in range(5)),
                *(keep(blobs, b"%d" % number) for number in range(5)),
                blobs.stat(location),
                listed(blobs),
                blobs.delete(location),
                blobs.check(),
                return_exceptions=True,
            )
        assert [type(answer) for answer in answers] == [BlobUnavailable] * 14
        breaking.faults.clear()
        breaking.stopping.set()  # ends the silence, which closing would wait for
        await blobs.close()

    async def test_an_outage_is_not_multiplied(self, blobs: S3Blobs, breaking: BreakingServer) -> None:
        """While the server is down, hardly more requests are sent than were asked for."""
        breaking.faults += [Fault(lambda asked: True, before=(503, "SlowDown"))] * 10_000
        location = blobs.plan(name_of(b""))
        answers = await asyncio.gather(*(blobs.stat(location) for _ in range(600)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {BlobUnavailable}
        assert blobs.counts()["s3_requests"] == 600 + 200

    async def test_the_server_is_asked_to_encrypt(self, options: S3Options, client: S3Client, tmp_path: Path) -> None:
        """Storage class and encryption are sent with every put, in parts or not."""
        wanted = replace(options, storage_class="STANDARD_IA", encryption="aws:kms", kms_key="mine", multipart_above=9)
        blobs = S3Blobs(wanted, tmp_path / "others")
        for data in (b"small", b"in one part"):
            location = await keep(blobs, data)
            facts = client.head_object(Bucket=options.bucket, Key=f"{options.folder}{location}")
            assert facts["StorageClass"] == "STANDARD_IA"
            assert facts["ServerSideEncryption"] == "aws:kms"
            assert facts["SSEKMSKeyId"] == "mine"
        await blobs.close()


def download(url: str) -> tuple[bytes, Message]:
    """Return what anyone gets there, and its headers."""
    with urlopen(url) as answer:
        return answer.read(), answer.headers


class TestCare:
    """What the backend does for itself and for those who run it."""

    async def test_stale_uploads_are_swept(self, blobs: S3Blobs, options: S3Options, client: S3Client) -> None:
        """Only multipart uploads of blobs under the prefix are dropped, and only those begun long enough ago."""
        location = blobs.plan(name_of(b"never finished"))
        for key in (f"{options.folder}{location}", f"{options.folder}notes", str(location), f"where/{location}"):
            client.create_multipart_upload(Bucket=options.bucket, Key=key)
        assert await blobs.abort_unfinished(1e9) == 0
        soon = -60.0  # the server tells its time in whole seconds
        assert await blobs.abort_unfinished(soon) == 1
        assert await blobs.abort_unfinished(soon) == 0
        left = client.list_multipart_uploads(Bucket=options.bucket)["Uploads"]
        assert f"{options.folder}{location}" not in [upload["Key"] for upload in left]
        assert len(left) == 3
        for upload in left:
            client.abort_multipart_upload(Bucket=options.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    async def test_a_presigned_url_gives_the_blob(self, blobs: S3Blobs) -> None:
        """Whoever has the URL gets the blob, with the headers that were asked for, and without credentials."""
        location = await keep(blobs, b"for everyone")
        url = await blobs.url(location, seconds=60, media_type="image/png", disposition='inline; filename="a.png"')
        body, headers = await asyncio.to_thread(download, url)
        assert body == b"for everyone"
        assert headers["Content-Type"] == "image/png"
        assert headers["Content-Disposition"] == 'inline; filename="a.png"'

    async def test_a_missing_bucket_is_named(self, options: S3Options, tmp_path: Path) -> None:
        """A bucket that does not exist is told as that, at the start."""
        blobs = S3Blobs(replace(options, bucket="no-such-bucket"), tmp_path)
        with pytest.raises(BlobUnavailable, match=r"s3://no-such-bucket/some/where at http.*no such bucket; create it"):
            await blobs.check()
        await blobs.close()

    async def test_a_server_that_is_down_is_named(self, options: S3Options, tmp_path: Path) -> None:
        """A server that nobody reaches is told as that, at the start."""
        blobs = S3Blobs(replace(options, endpoint_url="http://127.0.0.1:9"), tmp_path)
        with pytest.raises(BlobUnavailable, match=r"127\.0\.0\.1:9"):
            await blobs.check()
        await blobs.close()

    async def test_without_credentials_says_what_to_set(
        self, options: S3Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without credentials the check tells where to put them."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        blobs = S3Blobs(options, tmp_path)
        with pytest.raises(BlobUnavailable, match="AWS_ACCESS_KEY_ID"):
            await blobs.check()
        await blobs.close()

    async def test_a_check_leaves_nothing(self, blobs: S3Blobs, options: S3Options, client: S3Client) -> None:
        """What the first check puts to learn whether it can, it removes."""
        await blobs.check()
        assert client.list_objects_v2(Bucket=options.bucket)["KeyCount"] == 0


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3:///x", "http://blobs", "s3://UPPER", "s3://bl", "s3://blobs//x", "s3://blobs/a//b", "blobs"],
)
def test_refuses_what_is_no_bucket(url: str) -> None:
    """Only a bucket's URL is taken for one."""
    with pytest.raises(ValueError, match=r"s3://|bucket|prefix"):
        S3Options.parse(url)


@pytest.mark.parametrize(
    ("url", "bucket", "folder"),
    [
        ("s3://blobs", "blobs", ""),
        ("s3://blobs/", "blobs", ""),
        ("s3://blobs/a/b", "blobs", "a/b/"),
        ("s3://my.blobs-1/a/", "my.blobs-1", "a/"),
    ],
)
def test_reads_a_bucket_and_a_prefix(url: str, bucket: str, folder: str) -> None:
    """A URL names the bucket and what every key begins with."""
    options = S3Options.parse(url)
    assert (options.bucket, options.folder) == (bucket, folder)


_LARGE = """
import asyncio, hashlib, os, resource, sys
from dataclasses import replace
from pathlib import Path
from storage.s3 import S3Blobs
from storage.s3_options import S3Options

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def put_and_get(blobs, mebibytes):
    piece, name = os.urandom(1 << 20), hashlib.sha256()
    spool = await blobs.spool()
    for _ in range(mebibytes):
        spool.append(piece)
        name.update(piece)
    location = await blobs.put(spool, name.hexdigest())
    spool.close()
    reader, got = await blobs.open(location), 0
    while data := await reader.read(1 << 18):
        got += len(data)
    reader.close()
    assert got == mebibytes << 20
    await blobs.delete(location)

async def main():
    options = replace(S3Options.parse(sys.argv[1]), endpoint_url=sys.argv[2], region="us-east-1", path_style=True)
    blobs = S3Blobs(options, Path(sys.argv[3]))
    await put_and_get(blobs, 1)
    before = peak_bytes()
    await put_and_get(blobs, 300)
    await blobs.close()
    print(peak_bytes() - before)

asyncio.run(main())
"""


@pytest.mark.real
def test_a_large_blob_takes_little_memory(
    rgw_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob of 300 MiB is put and got in less than half its size of memory."""
    for name, value in OWNER.environment.items():
        monkeypatch.setenv(name, value)
    with rgw_server.bucket() as options:
        where = f"s3://{options.bucket}/{options.prefix}"
        command = [sys.executable, "-c", _LARGE, where, rgw_server.endpoint, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 128 << 20
