"""What the path of a request names."""

from __future__ import annotations

import re

from aiohttp import web

from stat7store.address import Address
from stat7store.errors import Malformed

FILES = "/v1/files/"

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,16}")


def address_in(request: web.Request) -> Address:
    """Return the address in the path; an extension after it is for people, and ignored.

    Raises ``Malformed``.
    """
    digits, dot, extension = request.match_info["address"].partition(".")
    address = Address.parse(digits)
    if dot and not _EXTENSION.fullmatch(extension):
        raise Malformed(
            "what follows the address is no file extension", expected="an address, or an address and .jpg, .mp4 …"
        )
    return address
