"""Looking, before anything serves, whether the backend for new files is there and lets us in."""

from __future__ import annotations

import asyncio
import os

from stat7store.errors import Stat7Error, Unavailable
from stat7store.opening import check_backend
from stat7store.settings import Settings


def probe(settings: Settings) -> None:
    """Return if the backend can serve. Raises ``Unavailable`` with what it says if not.

    A process of its own asks it: this one is to fork, and must not have had threads before.
    """
    reading, writing = os.pipe()
    asking = os.fork()
    if not asking:
        _ask(settings, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        reason = answer.read()
    _, status = os.waitpid(asking, 0)
    if reason or status:
        raise Unavailable(reason or "the backend for new files could not be asked whether it can serve")


def _ask(settings: Settings, writing: int) -> None:
    try:
        asyncio.run(check_backend(settings))
    except (Stat7Error, KeyboardInterrupt) as error:
        os.write(writing, str(error or "interrupted").encode())
    except BaseException as error:  # whatever it is, the parent tells of it
        os.write(writing, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)
