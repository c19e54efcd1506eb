"""Who is admitted without access control: this machine, but no other site's page."""

from __future__ import annotations

import pytest

from stat7store.errors import NotAllowed
from stat7store.server.access import LoopbackAccess, OpenAccess

HERE = "127.0.0.1:7377"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7377", "127.0.0.1", HERE, "127.8.8.8", "[::1]", "[::1]:7377", "LOCALHOST:1", "nas:80"],
)
def test_hosts_of_this_machine_are_answered(host: str) -> None:
    """Loopback names, addresses and the hosts that were named in the settings may be asked for."""
    LoopbackAccess(["NAS"]).admit("GET", {"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:7377",
        "10.0.0.1",
        "a@localhost",
        "[::1",
        "localhost:99999",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    """A name that a site rebound to loopback is refused, whatever the method."""
    for method in ("GET", "POST"):
        with pytest.raises(NotAllowed, match="host name"):
            LoopbackAccess(["nas"]).admit(method, {"Host": host})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HERE}"},
    ],
)
def test_other_sites_change_nothing(headers: dict[str, str]) -> None:
    """Requests that change something are refused from another site's page; reads are not."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(NotAllowed, match="another site"):
            LoopbackAccess().admit(method, {"Host": HERE, **headers})
    LoopbackAccess().admit("GET", {"Host": HERE, **headers})


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": f"http://{HERE}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
def test_the_own_page_and_programs_may(headers: dict[str, str]) -> None:
    """The page itself, and programs that send neither header, may change things."""
    LoopbackAccess().admit("DELETE", {"Host": HERE, **headers})


def test_open_admits_everyone_but_other_sites() -> None:
    """With --open every host name is answered, but another site's page still changes nothing."""
    OpenAccess().admit("DELETE", {"Host": "store.example"})
    OpenAccess().admit("POST", {"Host": "store.example", "Origin": "https://store.example"})
    with pytest.raises(NotAllowed, match="another site"):
        OpenAccess().admit("DELETE", {"Host": "store.example", "Origin": "http://evil.example"})


def test_open_keeps_to_the_hosts_that_are_named() -> None:
    """Where allowed_hosts names some, --open answers to these and loopback alone."""
    access = OpenAccess(["store.example"])
    for host in ("store.example", "Store.Example:7377", "localhost"):
        access.admit("GET", {"Host": host})
    with pytest.raises(NotAllowed, match="host name"):
        access.admit("GET", {"Host": "evil.example"})
