#!/usr/bin/env python3
"""Write what the fault plan found as docs/reliability.md.

examples:
  scripts/reliability.py docs/results/reliability.jsonl                                print it
  scripts/reliability.py docs/results/reliability.jsonl --write docs/reliability.md    write it

`make soak` runs the plan in full and then this. A part of it is run anew, and its lines added, by
`.venv/bin/pytest --soak --reliability=docs/results/reliability.jsonl tests/faults/test_races.py`.

exit codes: 0 written; 1 there is nothing to write, or a line is not one of the plan's; 2 bad usage
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from stat7store.latency.machine import this_machine
from stat7store.latency.results import provenance, table
from tests.faults.reliability import Removal, Row

_PROMISE = """\
# Reliability

An upload that was acknowledged survives `kill -9` and power loss; the bytes served are the bytes stored; a delete
is final for readers at once; nothing is ever half visible. Each row below is a fault that was really done to a
store, so many times, and what was found afterwards. What is lost is a file whose upload was acknowledged and that
was not there, whole; what is wrong is a body that was completed with other bytes than were stored, or of a file
whose delete was acknowledged."""

_TAKEN_OUT = """\
## Protections taken out

A test that cannot fail shows nothing. So each protection was taken out of the code once, alone, and the test that
holds it was run: it has to fail."""


_FAULT_HEAD = ("fault", "store", "how", "times", "checked", "lost", "wrong", "back after, median / worst")
_REMOVAL_HEAD = ("protection", "taken out", "test", "caught")


class NotOfThePlan(Exception):
    """The file cannot be made a report of."""


def read(path: Path) -> list[Row | Removal]:
    """Return the lines of a file. Raises ``NotOfThePlan``, and ``OSError``."""
    found: list[Row | Removal] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=Row | Removal))
        except msgspec.DecodeError as error:
            raise NotOfThePlan(f"{path}, line {number}: {error}") from error
    if not found:
        raise NotOfThePlan(f"{path} is empty: no test of the plan was run")
    return found


def merged(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each fault of each store, in the order in which they came first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.fault, row.store), []).append(row)
    return [_one(group) for group in groups.values()]


def _one(rows: Sequence[Row]) -> Row:
    usual = [row.recovery_s for row in rows if row.recovery_s is not None]
    worst = [row.worst_recovery_s for row in rows if row.worst_recovery_s is not None]
    return msgspec.structs.replace(
        rows[0],
        how=_all("; ", (row.how for row in rows)),
        times=sum(row.times for row in rows),
        checked=_all("; ", (row.checked for row in rows)),
        lost=sum(row.lost for row in rows),
        wrong=sum(row.wrong for row in rows),
        recovery_s=median(usual) if usual else None,
        worst_recovery_s=max(worst) if worst else None,
        left_out=_all("; ", (row.left_out for row in rows)),
    )


def _all(between: str, texts: Iterable[str]) -> str:
    """Join texts, each once."""
    return between.join(dict.fromkeys(filter(None, texts)))


def written(found: Sequence[Row | Removal], provenance_line: str) -> str:
    """Return the whole page."""
    rows = merged(line for line in found if isinstance(line, Row))
    removals = [line for line in found if isinstance(line, Removal)]
    parts = [_PROMISE, provenance_line]
    if rows:
        parts += ["## Faults", table(_FAULT_HEAD, map(_fault_cells, rows))]
    left_out = [f"- {row.fault}, {row.store}: {row.left_out}." for row in rows if row.left_out]
    if left_out:
        parts += ["## Left out", "\n".join(left_out)]
    if removals:
        parts += [_TAKEN_OUT, table(_REMOVAL_HEAD, map(_removal_cells, removals))]
    return "\n\n".join(parts) + "\n"


def _fault_cells(row: Row) -> list[str]:
    numbers = (f"{row.times:,}", _text(row.checked), f"{row.lost:,}", f"{row.wrong:,}")
    return [_text(row.fault), _text(row.store), _text(row.how), *numbers, _recovery(row)]


def _recovery(row: Row) -> str:
    if row.recovery_s is None or row.worst_recovery_s is None:
        return "–"
    return f"{row.recovery_s:.2f} / {row.worst_recovery_s:.2f} s"


def _removal_cells(removal: Removal) -> list[str]:
    return [_text(removal.protection), _text(removal.taken_out), f"`{removal.test}`", "yes" if removal.caught else "no"]


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="the lines that the plan's tests kept (pytest --reliability)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to write, in place of what it says now")
    given = parser.parse_args(arguments)
    try:
        text = written(read(given.found), provenance("make soak", this_machine(), datetime.now(UTC).isoformat()))
        if given.write:
            given.write.parent.mkdir(parents=True, exist_ok=True)
            given.write.write_text(text, encoding="utf-8")
        else:
            print(text, end="")
    except (NotOfThePlan, OSError) as error:
        print(f"reliability: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
