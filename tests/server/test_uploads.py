"""Uploads over HTTP: what is stored, what is refused, and that refusals leave nothing behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.media import distinct_png
from tests.running import RunningServer

BACKENDS = ("filesystem", "s3")


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the module's server."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


def open_spools(server: RunningServer) -> int:
    """Count the files without a name that the server's processes hold open."""
    deleted = 0
    for process in server.processes:
        folder = Path(f"/proc/{process.pid}/fd")
        for descriptor in folder.iterdir():
            try:
                target = os.readlink(descriptor)
                deleted += target.startswith(f"{server.data}/") and target.endswith("(deleted)")
            except OSError:
                continue
    return deleted


class Untouched:
    """Asserts that a block leaves the store as it was: no blob more, no spool open, no file listed."""

    def __init__(self, server: RunningServer, client: aiohttp.ClientSession) -> None:
        self._server = server
        self._client = client

    async def _state(self) -> tuple[int, int]:
        async with self._client.get("/v1/stats") as response:
            return len(self._server.stored()), (await response.json())["files"]

    async def __aenter__(self) -> None:
        self._before = await self._state()

    async def __aexit__(self, *_: object) -> None:
        for _attempt in range(1200):  # for a minute
            if open_spools(self._server) == 0:
                break
            await asyncio.sleep(0.05)
        assert open_spools(self._server) == 0
        assert await self._state() == self._before


async def problem(response: aiohttp.ClientResponse, status: int, slug: str) -> dict[str, Any]:
    """Check that an answer is the expected problem document, and return it."""
    document = json.loads(await response.read())
    assert response.status == status, document
    assert response.content_type == "application/problem+json"
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return dict(document)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


async def test_a_raw_body_is_stored_and_served(client: aiohttp.ClientSession, samples: Path) -> None:
    """An upload answers 201 with the record, and the same bytes come back under their SHA-256."""
    data = (samples / "astronaut.png").read_bytes()
    async with client.post("/v1/files", data=data, headers={"X-Filename": "astronaut.png"}) as response:
        record = await response.json()
        assert response.status == 201
        assert response.headers["Location"] == f"/v1/files/{sha256(data)}"
    assert record["address"] == sha256(data)
    assert record["created"] is True
    assert (record["size"], record["media_type"], record["filename"]) == (791555, "image/png", "astronaut.png")
    assert record["coordinates"]["realm"] == "image"
    assert record["coordinates"]["lineage"] == 1
    async with client.get(f"/v1/files/{sha256(data)}.png") as response:
        assert await response.read() == data
        assert response.headers["ETag"] == f'"{sha256(data)}"'
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert response.headers["Repr-Digest"] == f"sha-256=:{digest}:"
        assert response.headers["Content-Type"] == "image/png"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "immutable" in response.headers["Cache-Control"]
        assert "sandbox" in response.headers["Content-Security-Policy"]
        assert response.headers["Content-Disposition"] == 'inline; filename="astronaut.png"'
    async with client.get(f"/v1/files/{sha256(data)}?download=1") as response:
        assert response.headers["Content-Disposition"] == 'attachment; filename="astronaut.png"'


async def test_the_same_bytes_are_stored_once(
    server: RunningServer, client: aiohttp.ClientSession, samples: Path
) -> None:
    """A second upload answers 200, created false, and keeps the first one's record; no blob is added."""
    data = (samples / "coffee.png").read_bytes()
    async with client.post("/v1/files", data=data, headers={"X-Filename": "first.png"}) as response:
        assert response.status == 201
    blobs = len(server.stored())
    async with client.put(f"/v1/files/{sha256(data)}", data=data, headers={"X-Filename": "second.png"}) as response:
        record = await response.json()
        assert (response.status, record["created"], record["filename"]) == (200, False, "first.png")
    assert len(server.stored()) == blobs


async def test_a_form_stores_every_file_part(client: aiohttp.ClientSession, samples: Path) -> None:
    """All file parts of a form are stored; a form with one answers like a raw body, with several a list."""
    form = aiohttp.FormData(quote_fields=False)  # names as browsers send them: UTF-8 as it is
    form.add_field("comment", "not a file")
    form.add_field("none", b"", filename="")
    form.add_field("a", (samples / "chelsea.png").read_bytes(), filename="katze 🐈.png")
    form.add_field("b", (samples / "bikes.mp4").read_bytes(), filename="bikes.mp4")
    async with client.post("/v1/files", data=form) as response:
        files = (await response.json())["files"]
        assert response.status == 201
    assert [file["filename"] for file in files] == ["katze 🐈.png", "bikes.mp4"]
    assert [file["coordinates"]["realm"] for file in files] == ["image", "movie"]
    form = aiohttp.FormData()
    form.add_field("a", (samples / "chelsea.png").read_bytes(), filename="again.png")
    async with client.post("/v1/files", data=form) as response:
        assert (response.status, (await response.json())["created"]) == (200, False)


def test_curl_uploads_a_form_and_a_chunked_body(server: RunningServer, samples: Path, tmp_path: Path) -> None:
    """curl's own form and a chunked body of unknown length are stored too."""
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    first.write_bytes(distinct_png((samples / "chelsea.png").read_bytes(), 1))
    second.write_bytes(distinct_png((samples / "chelsea.png").read_bytes(), 2))
    for arguments in (["-F", f"file=@{first}"], ["-T", "-", "-X", "POST"]):
        with second.open("rb") as stdin:
            result = subprocess.run(
                ["curl", "-sS", *arguments, f"{server.url}/v1/files"], stdin=stdin, capture_output=True, check=True
            )
        assert json.loads(result.stdout)["created"] is True


@pytest.mark.parametrize(
    ("data", "headers", "status", "slug", "says"),
    [
        (b"Dear Anna,\nthe photographs are here.\n" * 50, {}, 415, "not-accepted", "text/plain"),
        (b"", {}, 400, "malformed", "empty"),
        (b"%PDF-1.7\n" + b"0" * 5000, {}, 415, "not-accepted", "application/pdf"),
        (b"png", {"Content-Encoding": "gzip"}, 415, "not-accepted", "gzip"),
        (b"png", {"X-Filename": "n" * 300}, 400, "malformed", "too long"),
        (b"png", {"Content-Disposition": "attachment; filename*=UTF-8''a%0Ab"}, 400, "malformed", "control characters"),
        (b"png", {"Content-Disposition": "attachment; filename*=UTF-8''a%00b"}, 400, "malformed", "control characters"),
        (b"png", {"Repr-Digest": "sha-256=:AAAA:"}, 400, "malformed", "digest"),
        (b"png", {"Content-Type": "multipart/form-data"}, 400, "malformed", "boundary"),
        (b"no boundary here", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "malformed", "boundary"),
        (b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "malformed", "no file"),
    ],
)
async def test_bad_input_is_refused(
    server: RunningServer,
    client: aiohttp.ClientSession,
    samples: Path,
    data: bytes,
    headers: dict[str, str],
    status: int,
    slug: str,
    says: str,
) -> None:
    """Each bad upload has its status and a document that says what was wrong; nothing is kept."""
    if data == b"png":
        data = distinct_png((samples / "chelsea.png").read_bytes(), 99)
    async with Untouched(server, client), client.post("/v1/files", data=data, headers=headers) as response:
        assert says in (await problem(response, status, slug))["detail"]


async def test_a_wrong_digest_is_refused(server: RunningServer, client: aiohttp.ClientSession, samples: Path) -> None:
    """Bytes that do not hash to the path's address, or to a declared digest, give 422 naming both; nothing is kept."""
    data = distinct_png((samples / "chelsea.png").read_bytes(), 100)
    wrong = sha256(b"other")
    async with Untouched(server, client):
        async with client.put(f"/v1/files/{wrong}", data=data) as response:
            document = await problem(response, 422, "digest-mismatch")
            assert (document["expected"], document["actual"]) == (wrong, sha256(data))
        digest = base64.b64encode(bytes.fromhex(wrong)).decode()
        async with client.post("/v1/files", data=data, headers={"Content-Digest": f"sha-256=:{digest}:"}) as response:
            await problem(response, 422, "digest-mismatch")


@pytest.mark.parametrize(
    "address",
    ["A" * 64, "a" * 63, "a" * 65, "..%2f..%2fetc%2fpasswd", "%2e%2e", "g" * 64, "a" * 64 + ".j/pg", "ä" * 64],
)
async def test_a_malformed_address_is_refused(server: RunningServer, address: str) -> None:
    """Whatever is not 64 lowercase hex digits (and an extension) is refused, by every method."""
    for method in ("GET", "PUT", "DELETE"):
        result = await asyncio.to_thread(
            subprocess.run,
            ["curl", "-sS", "--path-as-is", "-X", method, "-w", "\n%{http_code}", f"{server.url}/v1/files/{address}"],
            capture_output=True,
            check=True,
        )
        body, _, status = result.stdout.decode().rpartition("\n")
        assert status in ("400", "404")
        assert json.loads(body)["status"] == int(status)
    result = await asyncio.to_thread(
        subprocess.run,
        [
            "curl",
            "-sS",
            "--path-as-is",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            f"{server.url}/v1/files/../../etc/passwd",
        ],
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"404"


def exchange(server: RunningServer, request: bytes, *, close: bool = False) -> bytes:
    """Send raw bytes; return whatever comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as raw:
        raw.sendall(request)
        if close:
            raw.shutdown(socket.SHUT_WR)
        answer = b""
        while data := raw.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 100000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nXYZ\r\n",
    ],
)
async def test_a_truncated_body_is_refused(
    server: RunningServer, client: aiohttp.ClientSession, samples: Path, head: bytes
) -> None:
    """A body that ends before its announced length, or is chunked wrongly, gives 400; nothing is kept."""
    data = (samples / "chelsea.png").read_bytes()[:5000]
    request = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n" + head + data
    async with Untouched(server, client):
        answer = await asyncio.to_thread(exchange, server, request, close=True)
        assert b" 400 " in answer.splitlines()[0]
        assert b"/problems/malformed" in answer


async def test_a_client_that_vanishes_leaves_nothing(
    server: RunningServer, client: aiohttp.ClientSession, samples: Path
) -> None:
    """A connection that is reset in the middle of a body leaves neither blob nor spool."""
    async with Untouched(server, client):
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n")
        writer.write((samples / "astronaut.png").read_bytes())
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()


def form_of(parts: list[tuple[str, bytes]], end: bytes = b"--b--\r\n") -> bytes:
    """Put a multipart form together by hand."""
    return (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
            for name, data in parts
        )
        + end
    )


async def test_a_broken_form_is_refused(server: RunningServer, client: aiohttp.ClientSession, samples: Path) -> None:
    """A form that ends without its last boundary stores none of its parts, not even the whole ones."""
    data = distinct_png((samples / "chelsea.png").read_bytes(), 101)
    for broken in (form_of([("a.png", data)], end=b""), form_of([("a.png", data), ("b.png", data)])[:-20]):
        async with (
            Untouched(server, client),
            client.post(
                "/v1/files", data=broken, headers={"Content-Type": "multipart/form-data; boundary=b"}
            ) as response,
        ):
            await problem(response, 400, "malformed")


async def test_one_bad_part_refuses_the_form(
    server: RunningServer, client: aiohttp.ClientSession, samples: Path
) -> None:
    """A part that is not accepted refuses the whole form, and the document says which part it was."""
    data = distinct_png((samples / "chelsea.png").read_bytes(), 102)
    form = form_of([("good.png", data), ("notes.txt", b"some notes to read " * 30)])
    async with (
        Untouched(server, client),
        client.post("/v1/files", data=form, headers={"Content-Type": "multipart/form-data; boundary=b"}) as response,
    ):
        document = await problem(response, 415, "not-accepted")
        assert (document["part"], document["filename"]) == (2, "notes.txt")


async def test_too_many_parts_are_refused(server: RunningServer, client: aiohttp.ClientSession, samples: Path) -> None:
    """5,000 parts are refused with 413 and the limit; nothing is kept."""
    data = (samples / "chelsea.png").read_bytes()[:200]
    form = form_of([(f"{number}.png", data) for number in range(5000)])
    async with (
        Untouched(server, client),
        client.post(
            "/v1/files", data=io.BytesIO(form), headers={"Content-Type": "multipart/form-data; boundary=b"}
        ) as response,
    ):
        assert (await problem(response, 413, "too-large"))["max_parts"] == 256


async def test_a_body_beyond_the_limit_is_refused(tmp_path: Path, samples: Path) -> None:
    """A body larger than max_upload_size is refused with 413, announced or not."""
    data = (samples / "astronaut.png").read_bytes()

    async def unannounced() -> AsyncIterator[bytes]:
        yield data

    with RunningServer(tmp_path / "data", "--max-upload-size=100KiB", workers=1) as server:
        async with aiohttp.ClientSession(server.url) as client, Untouched(server, client):
            for body in (data, unannounced()):
                async with client.post("/v1/files", data=body) as response:
                    assert (await problem(response, 413, "too-large"))["max_size"] == 100 * 1024


async def test_a_silent_client_is_hung_up_on(tmp_path: Path, samples: Path) -> None:
    """A client that sends nothing of its body for body_timeout seconds gets 408 and the connection closes."""
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    with RunningServer(tmp_path / "data", "--body-timeout=0.5", workers=1) as server:
        answer = await asyncio.to_thread(exchange, server, head + (samples / "chelsea.png").read_bytes()[:100])
        assert b" 408 " in answer.splitlines()[0]
        assert b"/problems/too-slow" in answer


async def test_accept_admits_more(tmp_path: Path) -> None:
    """What the accept setting names is stored, in the realm its media type belongs to."""
    text = b"some text for people to read\n" * 9
    with RunningServer(tmp_path / "data", "--accept=image/*,text/plain", workers=1) as server:
        async with aiohttp.ClientSession(server.url) as client, client.post("/v1/files", data=text) as response:
            record = await response.json()
            assert (response.status, record["coordinates"]["realm"]) == (201, "document")


@pytest.mark.parametrize("header", ["bogus=1-2", "bits=0-9", "bytes 0-9"])
async def test_an_unknown_range_unit_is_ignored(client: aiohttp.ClientSession, samples: Path, header: str) -> None:
    """A range in an unknown unit gives the whole file with 200 (RFC 9110 §14.2), as nginx does."""
    data = (samples / "rocket.jpg").read_bytes()
    async with client.post("/v1/files", data=data):
        pass
    async with client.get(f"/v1/files/{sha256(data)}", headers={"Range": header}) as response:
        assert (response.status, await response.read()) == (200, data)
