"""Who may do what: every path into the server asks one ``Access`` object."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from stat7store.errors import NotAllowed

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Access(Protocol):
    """Decides about a request before anything else looks at it."""

    def admit(self, method: str, headers: Mapping[str, str]) -> None:
        """Return if the request may go on; raise ``NotAllowed`` saying why if not."""


class OpenAccess:
    """Admits everyone who can connect (``--open``)."""

    def admit(self, method: str, headers: Mapping[str, str]) -> None:
        """Admit every request."""


class LoopbackAccess:
    """Admits people and programs of this machine, but not the web sites in their browsers.

    The ``Host`` must name this machine, or a site could rebind its own name to loopback (DNS
    rebinding). Requests that change something must not come from another site's page
    (``Sec-Fetch-Site``, W3C Fetch Metadata; ``Origin``, RFC 6454).
    """

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    def admit(self, method: str, headers: Mapping[str, str]) -> None:
        """See ``Access``."""
        host = headers.get("Host", "")
        if not self._is_ours(host):
            raise NotAllowed(
                f"this server does not answer to the host name {host[:80]!r}; "
                "use localhost, or name it in the setting allowed_hosts",
                host=host[:80],
            )
        if method not in SAFE_METHODS and _is_cross_site(headers, host):
            raise NotAllowed("a page of another site may not change what is stored here")

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        if name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
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
