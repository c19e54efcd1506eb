"""What a comparison has measured so far, kept in a file so that another run goes on from there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from scripts.peers.report import About, Measurement
from stat7store.errors import Malformed


class Progress(msgspec.Struct, kw_only=True):
    """The cases that are ``done``, each with its number of workers, and all that was found in them.

    ``cannot`` holds peer, reason and case, ``parts`` how many runs it took.
    """

    command: str
    parts: int = 1
    done: list[tuple[str, int]] = []
    measurements: list[Measurement] = []
    abouts: dict[str, About] = {}
    notes: list[str] = []
    cannot: list[tuple[str, str, str]] = []

    def left_out(self) -> list[str]:
        """Return a line for each peer and reason, with the cases that were left out."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for peer, reason, case in self.cannot:
            grouped.setdefault((peer, reason), []).append(case)
        return [f"{peer}, {', '.join(dict.fromkeys(cases))}: {reason}" for (peer, reason), cases in grouped.items()]


def read_progress(path: Path | None, command: str) -> Progress:
    """Return what a run of the same command has kept there, or the beginning of a new one.

    Raises ``Malformed`` if it was another command, or the file is none of these; ``OSError``.
    """
    if path is None or not path.exists():
        return Progress(command=command)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Progress)
    except msgspec.DecodeError as error:
        raise Malformed(f"{path} holds no unfinished comparison: {error}; name another file, or remove it") from error
    if found.command != command:
        raise Malformed(f"{path} belongs to another command, `{found.command}`; name another file, or remove it")
    found.parts += 1
    return found


def keep_progress(path: Path | None, progress: Progress) -> None:
    """Write it, whole or not at all. Raises ``OSError``."""
    if path is not None:
        unfinished = path.with_name(f"{path.name}.tmp")
        unfinished.write_bytes(msgspec.json.encode(progress))
        unfinished.replace(path)
