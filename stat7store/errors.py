"""What can go wrong, one class for each kind a caller can act on."""

from __future__ import annotations

import re
from typing import Any, ClassVar


class Stat7Error(Exception):
    """Root of every error of this project. The message is for the person who caused it.

    ``facts`` are the fields that help beside the message, such as ``expected`` and ``actual``.
    ``slug`` and ``title`` name the kind of error for programs (``not-found``) and people.
    """

    slug: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        words = re.findall("[A-Z][a-z]+", cls.__name__)
        cls.slug = "-".join(words).lower()
        cls.title = " ".join(words).capitalize()

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class Malformed(Stat7Error):
    """The request or a value in it is not of the form that is accepted."""


class NotFound(Stat7Error):
    """Nothing is stored under this address."""


class Conflict(Stat7Error):
    """The record was changed by someone else since the caller read it."""


class PreconditionFailed(Stat7Error):
    """A condition the caller set (``If-Match``) does not hold."""


class NotAllowed(Stat7Error):
    """The caller may not do this."""


class NotAccepted(Stat7Error):
    """The bytes are of a media type, or in a coding, that this store does not accept."""


class DigestMismatch(Stat7Error):
    """The bytes do not hash to what was declared."""


class TooLarge(Stat7Error):
    """The request is larger than this store accepts."""


class TooSlow(Stat7Error):
    """The client sent nothing for too long."""


class Unavailable(Stat7Error):
    """The store cannot do this now; nothing was acknowledged, and a later try may succeed."""


class NoSpace(Unavailable):
    """There is no room left to store it."""


class Damaged(Stat7Error):
    """What is stored is not what was put there; it is not served."""


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that ended a group of tasks, an ``Unavailable`` before any other."""
    known = [error for error in failures.exceptions if isinstance(error, Unavailable)]
    return known[0] if known else failures.exceptions[0]
