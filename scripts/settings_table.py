#!/usr/bin/env python3
"""Print the table of every setting, as README.md has it.

The settings themselves are the source: stat7store/settings.py. A test holds README.md to this table.

examples:
  scripts/settings_table.py                    print it
  scripts/settings_table.py --write README.md  put it between <!-- settings --> and <!-- /settings -->

exit codes: 0 done; 1 the file has no such marks; 2 bad usage
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from stat7store.settings import Settings

START, END = "<!-- settings -->\n", "<!-- /settings -->\n"


def table() -> str:
    """The settings as a Markdown table: flag, environment, TOML key, default, meaning."""
    return "".join(f"| {' | '.join(row)} |\n" for row in _rows())


def put_into(text: str) -> str:
    """``text`` with the table between its marks. Raises ``ValueError`` if the marks are not there once, in order."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in after:
        raise ValueError(f"there is not one {START.strip()} … {END.strip()}")
    return f"{before}{START}\n{table()}\n{END}{after}"


def flag(name: str, field: FieldInfo) -> str:
    """The flag of a setting; a switch that is on by default is named by what turns it off."""
    return f"--{'no-' if field.default is True else ''}{name.replace('_', '-')}"


def _rows() -> Iterator[tuple[str, ...]]:
    yield ("flag", "environment", "TOML", "default", "what it says")
    yield ("---",) * 5
    for name, field in Settings.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        yield (f"`{flag(name, field)}`", f"`STAT7_{name.upper()}`", f"`{name}`", _default(field), meaning)


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, ByteSize):
        value = value.human_readable().replace(".0", "")
    elif isinstance(value, list):
        value = ", ".join(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    elif not isinstance(value, str | Path):
        value = json.dumps(value)
    return f"`{value}`" if value not in ("", "null") else "none"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this file")
    options = parser.parse_args(arguments)
    if options.write is None:
        print(table(), end="")
        return 0
    try:
        options.write.write_text(put_into(options.write.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"settings_table: {options.write}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
