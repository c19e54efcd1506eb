"""Ranges and conditions of every kind, asked of a real nginx, of this server, and of the pure functions."""

from __future__ import annotations

import json
import os
import random
import urllib.request
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stat7store.server.conditions import Verdict, evaluate, range_applies
from stat7store.server.ranges import MAX_RANGES, Multipart, Unsatisfiable, content_range, parse_range, unsatisfied_range
from tests.running import RunningServer
from tests.server.differential import BOUNDARY, Answer, Side, compare, requests
from tests.server.nginx import running_nginx

pytestmark = pytest.mark.real

BACKENDS = ("filesystem", "s3")

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6360000000020001e527defc0000000049454e44ae426082"
)
PNG_SIZES = (len(PNG), 1000, 600_000)  # the last one is sent in several writes
SIZES = (0, 1, 10, 1000, 100_000)
MODIFIED = 1_767_582_249  # 2026-01-05: a day of one digit, for the asctime form
MEDIA_TYPE = "image/png"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Side]]:
    """A file of each size, served by nginx with our bound on the number of ranges."""
    files = tmp_path_factory.mktemp("files")
    for size in SIZES:
        file = files / str(size)
        file.write_bytes(content_of(size))
        os.utime(file, (MODIFIED, MODIFIED))
    scratch = tmp_path_factory.mktemp("nginx")
    with running_nginx(files, scratch, MEDIA_TYPE, f"max_ranges {MAX_RANGES};") as url:
        known = {size: Side.learn(f"{url}/{size}") for size in SIZES}
        yield known
        for side in known.values():
            side.close()


@pytest.fixture(scope="module")
def pairs(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, tuple[Side, Side]]]:
    """A picture of each size, served by nginx and by this server."""
    files = tmp_path_factory.mktemp("pictures")
    addresses = {}
    for size in PNG_SIZES:
        picture = PNG + content_of(size - len(PNG))
        (files / str(size)).write_bytes(picture)
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/files", picture)) as response:
            addresses[size] = json.load(response)["address"]
    with running_nginx(files, tmp_path_factory.mktemp("nginx"), MEDIA_TYPE, f"max_ranges {MAX_RANGES};") as url:
        known = {
            size: (Side.learn(f"{url}/{size}"), Side.learn(f"{server.url}/v1/files/{address}"))
            for size, address in addresses.items()
        }
        yield known
        for pair in known.values():
            for side in pair:
                side.close()


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def predict(side: Side, size: int, method: str, templates: Mapping[str, str]) -> Answer:
    """What a server built from the pure functions answers over nginx's validators."""
    headers, address = side.fill(templates), side.entity_tag.strip('"')
    verdict = evaluate(headers, address, side.modified)
    if verdict is Verdict.FAILED:
        return Answer(412)
    if verdict is Verdict.NOT_MODIFIED:
        return Answer(304)
    content = content_of(size)
    wanted = headers.get("Range") if range_applies(headers, address, side.modified) else None
    try:
        spans = parse_range(wanted, size)
    except Unsatisfiable as error:
        return Answer(416, unsatisfied_range(error.size))
    if spans is None:
        answer = Answer(200, None, MEDIA_TYPE, size, "bytes", content)
    elif len(spans) == 1:
        body = content[spans[0].start : spans[0].end]
        answer = Answer(206, content_range(spans[0], size), MEDIA_TYPE, len(body), None, body)
    else:
        parts = Multipart(spans, size, MEDIA_TYPE, BOUNDARY)
        framed = zip(parts.preambles, spans, strict=True)
        body = b"".join(preamble + content[span.start : span.end] for preamble, span in framed) + parts.closing
        answer = Answer(206, None, parts.content_type, parts.content_length, None, body)
    return answer._replace(body=b"") if method == "HEAD" else answer


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_request(sides: dict[int, Side], size: int, data: st.DataObject) -> None:
    """Status, range headers, lengths and bytes are predicted right for any ranges and conditions."""
    method, headers = data.draw(requests(size))
    assert predict(sides[size], size, method, headers) == sides[size].ask(method, headers)


@pytest.mark.parametrize("size", PNG_SIZES)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_request_to_the_server(pairs: dict[int, tuple[Side, Side]], size: int, data: st.DataObject) -> None:
    """This server answers any request as nginx does, over the same bytes."""
    compare(*pairs[size], *data.draw(requests(size)))


@pytest.mark.parametrize("count", [MAX_RANGES - 1, MAX_RANGES, MAX_RANGES + 1])
@pytest.mark.parametrize("tail", ["", ",x", ",0-", ",2000-3000"])
def test_many_ranges(sides: dict[int, Side], count: int, tail: str) -> None:
    """One range more than the bound gives the whole file, as nginx's max_ranges does."""
    headers = {"Range": "bytes=" + ",".join(f"{start}-{start}" for start in range(count)) + tail}
    assert predict(sides[1000], 1000, "GET", headers) == sides[1000].ask("GET", headers)


@pytest.mark.parametrize(
    ("headers", "nginx", "ours"),
    [
        ({"If-None-Match": '"other"', "If-Modified-Since": "<date>"}, 200, 200),
        ({"If-None-Match": "<tag>", "If-Modified-Since": "<date>"}, 304, 304),
        ({"If-None-Match": "<tag>", "If-Modified-Since": "<earlier>"}, 200, 304),
        ({"If-None-Match": "*", "If-Modified-Since": "yesterday"}, 200, 304),
        ({"If-Match": "<tag>", "If-Unmodified-Since": "<date>"}, 200, 200),
        ({"If-Match": '"other"', "If-Unmodified-Since": "<date>"}, 412, 412),
        ({"If-Match": "<tag>", "If-Unmodified-Since": "<earlier>"}, 412, 200),
        ({"If-Match": "*", "If-Unmodified-Since": "yesterday"}, 412, 200),
    ],
)
def test_where_the_standard_differs(sides: dict[int, Side], headers: dict[str, str], nginx: int, ours: int) -> None:
    """A tag hides the date beside it (RFC 9110 §13.2.2); nginx lets both decide."""
    side = sides[10]
    assert (side.ask("GET", headers).status, predict(side, 10, "GET", headers).status) == (nginx, ours)
