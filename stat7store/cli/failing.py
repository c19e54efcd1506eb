"""Errors as one clear line on standard error."""

from __future__ import annotations

from stat7store.errors import Stat7Error

# the facts that say what to do, and how the line names them
_TOLD = {"expected": "accepted", "accepted": "accepted", "actual": "found"}


def report(error: BaseException, subject: str = "") -> None:
    """Print what went wrong in one line; ``subject`` is what it went wrong with, such as a file."""
    # takes longer to import than most commands take, and most have nothing to report
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    message = explain(error)
    if subject and not message.startswith(f"{subject}: "):
        message = f"{subject}: {message}"
    line = Text.assemble(("error: ", "bold red"), (" ".join(message.split()), "red"))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def explain(error: BaseException) -> str:
    """Return the message of an error, with the facts that help."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    message = str(error)
    if not isinstance(error, Stat7Error):
        return message
    facts = [f"{_TOLD[name]}: {_written(value)}" for name, value in error.facts.items() if name in _TOLD]
    unsaid = [fact for fact in facts if fact.partition(": ")[2] not in message]
    return "; ".join([message, *unsaid])


def _written(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
