"""The parts that are compiled from C, where a compiler was at hand when the project was installed.

Each of them stands for Python code that does the same, only slower, and is asked for in one place::

    try:
        compiled.wanted()
        from stat7store._part import function
    except ImportError:
        from stat7store.slower import function

With ``STAT7_PURE`` set in the environment, to anything but nothing, the Python code is used throughout.
"""

from __future__ import annotations

import os
from importlib import import_module

PARTS = (
    "stat7store._plain",
    "stat7store.catalog._codec",
    "stat7store.importer._scan",
    "stat7store.server._lane",
)


def wanted() -> None:
    """Raise ``ImportError`` if compiled parts are to be left aside."""
    if os.environ.get("STAT7_PURE"):
        raise ImportError("STAT7_PURE is set")


def missing() -> list[str]:
    """Return the names of the parts that are not used: left aside, not compiled, or made for another system."""
    return [part for part in PARTS if not _is_used(part)]


def _is_used(part: str) -> bool:
    try:
        wanted()
        import_module(part)
    except ImportError:
        return False
    return True
