"""Looking, before anything serves, whether catalog and backend are there and let us in."""

from __future__ import annotations

import asyncio
import os

import msgspec

from stat7store.errors import Stat7Error, Unavailable
from stat7store.opening import check_backend, check_catalog, is_remote
from stat7store.settings import Settings


class _Finding(msgspec.Struct):
    refusal: str = ""
    warning: str = ""


def probe(settings: Settings) -> str:
    """Return if catalog and backend can serve, with what there is to warn of. Raises ``Unavailable`` if they cannot.

    A process of its own asks them: this one is to fork, and must not have had threads or the catalog open before.
    """
    reading, writing = os.pipe()
    asking = os.fork()
    if not asking:
        _ask(settings, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(asking, 0)
    if not said or status:
        raise Unavailable("catalog and backend could not be asked whether they can serve")
    finding = msgspec.json.decode(said, type=_Finding)
    if finding.refusal:
        raise Unavailable(finding.refusal)
    return finding.warning


def _ask(settings: Settings, writing: int) -> None:
    finding = _Finding()
    try:
        finding.warning = asyncio.run(_look(settings))
    except (Stat7Error, KeyboardInterrupt) as error:
        finding.refusal = str(error) or "interrupted"
    except BaseException as error:  # whatever it is, the parent tells of it
        finding.refusal = f"{type(error).__name__}: {error}"
    finally:
        os.write(writing, msgspec.json.encode(finding))
        os._exit(0)


async def _look(settings: Settings) -> str:
    if is_remote(settings):
        await check_backend(settings)
    return await check_catalog(settings)
