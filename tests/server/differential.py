"""The same requests to two servers over the same bytes: what to ask, and what of the answers must agree."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from hypothesis import strategies as st

from stat7store.server.headers import format_date, parse_date

BOUNDARY = "B" * 20
MULTIPART = "multipart/byteranges; boundary="
_IDLE_S = 30.0  # well within the time-out of either server


class Answer(NamedTuple):
    """What must agree. Everything after ``content_range`` is that of a file's bytes (200 and 206):
    the two may word an error differently. Multipart boundaries are replaced by ``BOUNDARY``.
    """

    status: int
    content_range: str | None = None
    content_type: str | None = None
    content_length: int | None = None
    accept_ranges: str | None = None  # of a 200 only: nginx sends it nowhere else
    body: bytes = b""


@dataclass
class Side:
    """One of the two servers: where it has the file, and the file's validators there."""

    connection: http.client.HTTPConnection
    path: str
    entity_tag: str
    modified: int
    _asked_at: float = field(default_factory=time.monotonic, compare=False)

    @classmethod
    def learn(cls, url: str) -> Self:
        """Ask a server for the validators of the file at ``url``."""
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.request("HEAD", parts.path)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise ValueError(f"{url} answers {response.status}")
        modified = parse_date(response.headers["Last-Modified"])
        if modified is None:
            raise ValueError(f"{url} has no Last-Modified that can be read")
        return cls(connection, parts.path, response.headers["ETag"], modified)

    def fill(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Put this side's validators in for the placeholders of ``tag_lists`` and ``dates``."""
        known = datetime.fromtimestamp(self.modified, UTC)
        values = {
            "<tag>": self.entity_tag,
            "<bare>": self.entity_tag.strip('"'),
            "<date>": format_date(self.modified),
            "<later>": format_date(self.modified + 1),
            "<earlier>": format_date(self.modified - 1),
            "<rfc850>": f"{known:%A, %d-%b-%y %H:%M:%S} GMT",
            "<asctime>": f"{known:%a %b} {known.day:2} {known:%H:%M:%S %Y}",
        }
        return {
            name: re.sub("|".join(values), lambda match: values[match[0]], value) for name, value in headers.items()
        }

    def ask(self, method: str, headers: Mapping[str, str]) -> Answer:
        """Send one request, placeholders filled in; on a new connection if the last one was idle for long.

        A connection that a time-out has closed is no difference.
        """
        if time.monotonic() - self._asked_at > _IDLE_S:
            self.connection.close()
        self.connection.request(method, self.path, headers=self.fill(headers))
        response = self.connection.getresponse()
        body = response.read()
        self._asked_at = time.monotonic()
        if response.status == 304 or method == "HEAD":
            assert body == b"", "these answers have no body"
        if response.status == 412:
            self.connection.close()  # nginx hangs up after it, although it says keep-alive
        content_range = response.headers["Content-Range"]
        if response.status not in (200, 206):
            return Answer(response.status, content_range)
        content_type = response.headers["Content-Type"]
        if content_type.startswith(MULTIPART):
            boundary = content_type.removeprefix(MULTIPART)
            content_type = MULTIPART + BOUNDARY
            body = body.replace(boundary.encode(), BOUNDARY.encode())
        return Answer(
            response.status,
            content_range,
            content_type,
            int(response.headers["Content-Length"]),
            response.headers["Accept-Ranges"] if response.status == 200 else None,
            body,
        )

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def compare(one: Side, other: Side, method: str, headers: Mapping[str, str]) -> None:
    """Assert that both sides answer this request alike."""
    assert one.ask(method, headers) == other.ask(method, headers)


def requests(size: int) -> st.SearchStrategy[tuple[str, dict[str, str]]]:
    """Method and headers of requests for a file of that size: ranges and conditions, good and bad.

    Left out are pairs of conditions that nginx combines where RFC 9110 lets one hide the other.
    """
    range_alone = st.fixed_dictionaries({"Range": ranges(size)})
    any_headers = st.tuples(
        _optional({"Range": ranges(size)}),
        _optional({"If-Range": tag_lists | dates}),
        _optional({"If-Match": tag_lists}, {"If-Unmodified-Since": dates}),
        _optional({"If-None-Match": tag_lists}, {"If-Modified-Since": dates}),
    ).map(lambda parts: {name: value for part in parts for name, value in part.items()})
    return st.tuples(st.sampled_from(("GET", "GET", "HEAD")), range_alone | any_headers)


def ranges(size: int) -> st.SearchStrategy[str]:
    """Values of ``Range``: well formed and on all edges of the size for the most part."""
    edges = (0, 1, size - 1, size, size + 1, size // 2, 2**63 - 1, 2**63, 10**30)
    number = st.builds(
        lambda zeros, value: "0" * zeros + str(abs(value)),
        st.sampled_from((0, 0, 0, 2, 30)),
        st.sampled_from(edges[:-3]) | st.sampled_from(edges) | st.integers(0, size + 1),
    )
    space = st.sampled_from(("", "", "", " ", "   "))
    one = st.one_of(
        st.tuples(space, number, space, st.just("-"), space, number, space),
        st.tuples(space, number, space, st.just("-"), space),
        st.tuples(space, st.just("-"), number, space),
    ).map("".join)
    short = st.builds(
        lambda start, more: f"{start}-{start + more}", st.integers(0, max(size - 1, 0)), st.integers(0, size // 8)
    )
    fitting = st.lists(short, min_size=2, max_size=6).map(",".join)  # so that several are not too long together
    several = st.lists(one, min_size=1, max_size=5).map(",".join)
    garbage = st.text('0123456789-, =bytes\t*"é', max_size=16)
    broken = st.builds(
        lambda text, at, junk: text[: at % (len(text) + 1)] + junk + text[at % (len(text) + 1) :],
        several,
        st.integers(0, 100),
        garbage,
    )
    unit = st.sampled_from(("bytes=",) * 12 + ("BYTES=", "bYtes=", "bytes =", "bytes", "items=", "byte=", ""))
    return st.builds(
        lambda *parts: "".join(parts).strip(" \t"), unit, st.one_of(several, fitting, fitting, broken, garbage)
    )


_tag = st.sampled_from(
    ("<tag>", "<tag>", "W/<tag>", 'W/W/<tag>', "w/<tag>", "W/ <tag>", "<bare>", '"<bare>', "<tag>x", "x<tag>", "*",
     '"other"', 'W/"other"', '""', '"', "<tag> <tag>", '"a,<tag>"', "")
)  # fmt: skip
tag_lists = st.one_of(
    _tag,
    st.builds(
        lambda tags, comma: comma.join(tags).strip(" \t"),
        st.lists(_tag, max_size=4),
        st.sampled_from((",", ", ", " , ", "\t,\t", ",,", " ")),
    ),
)
dates = st.sampled_from(
    (
        *("<date>", "<date>", "<later>", "<earlier>", "<rfc850>", "<asctime>"),
        *("<date>; length=10", "<date>x", "<date> <date>", "yesterday", "", "0", "2095-01-01T00:00:00Z"),
        *("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"),
        *("Sat, 01 Jan 2095 00:00:00 GMT", "Saturday, 01-Jan-69 00:00:00 GMT", "Sat Jan  1 00:00:00 2095"),
        *("Sat, 1 Jan 2095 00:00:00 GMT", "Saturday, 01-Jan-70 00:00:00 GMT", "Sat Jan 1 00:00:00 2095"),
        *("Sat,01 Jan 2095 00:00:00 GMT", "Saturday, 01-Jan-2095 00:00:00 GMT", "Tue Nov 16 08:49:37 2094"),
        *("Sat, 01 Jan 2095 00:00:00", "Sat, 01 Jan 2095 00:00", "Sat, 01 Xyz 2095 00:00:00 GMT"),
        *("Sat, 31 Dec 2095 23:59:60 GMT", "Sat, 31 Dec 2095 24:00:00 GMT", "Thu, 31 Dec 1903 23:59:59 GMT"),
        *("Thu, 30 Feb 2096 00:00:00 GMT", "Tue, 29 Feb 2095 00:00:00 GMT", "Wed, 29 Feb 2096 00:00:00 GMT"),
    )
)


def _optional(*choices: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[dict[str, str]]:
    return st.one_of(st.just({}), *(st.fixed_dictionaries(choice) for choice in choices))
