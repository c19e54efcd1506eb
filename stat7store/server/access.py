"""Who may do what: every path into the server asks one ``Access`` object."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from stat7store.errors import NotAllowed

_MOST_ANSWERED = 256
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Access(Protocol):
    """Decides about a request before anything else looks at it."""

    def admit(self, method: str, headers: Mapping[str, str]) -> None:
        """Return if the request may go on; raise ``NotAllowed`` saying why if not."""


class OpenAccess:
    """Admits everyone who can connect (``--open``), but not the web sites in their browsers.

    Requests that change something must not come from another site's page (``Sec-Fetch-Site``, W3C
    Fetch Metadata; ``Origin``, RFC 6454). Where ``hosts`` are named, no other ``Host`` is answered.
    """

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._answered: set[str] = set()  # values of Host found good, for there are few and each costs 3 µs

    def admit(self, method: str, headers: Mapping[str, str]) -> None:
        """See ``Access``."""
        host = headers.get("Host", "")
        if host not in self._answered and not self._is_good(host):
            raise NotAllowed(
                f"this server does not answer to the host name {host[:80]!r}; "
                "use one of its own names, or add this one to the setting allowed_hosts",
                host=host[:80],
            )
        if method not in SAFE_METHODS and _is_cross_site(headers, host):
            raise NotAllowed("a page of another site may not change what is stored here")

    def _is_good(self, host: str) -> bool:
        if not self._answers_to(_name_of(host)):
            return False
        if len(self._answered) < _MOST_ANSWERED and len(host) < 256:
            self._answered.add(host)
        return True

    def _answers_to(self, name: str | None) -> bool:
        return not self._hosts or name in self._hosts or _is_loopback(name)


class LoopbackAccess(OpenAccess):
    """Admits people and programs of this machine, as far as ``OpenAccess`` would.

    The ``Host`` must always name this machine, or be among ``hosts``: otherwise a site could rebind its
    own name to loopback (DNS rebinding).
    """

    def _answers_to(self, name: str | None) -> bool:
        return name in self._hosts or _is_loopback(name)


def _is_loopback(name: str | None) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and not parts.username else None


def _is_cross_site(headers: Mapping[str, str], host: str) -> bool:
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
