"""A line for every path of an import, in a file."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TextIO

from stat7store.errors import Malformed
from stat7store.importer.outcome import Outcome
from stat7store.importer.walk import Passed

COLUMNS = ("path", "address", "outcome", "reason")
_FORMS = (".csv", ".jsonl", ".ndjson")


class Report:
    """CSV, or JSON lines, by the extension: path, address, outcome, reason.

    Paths that are not UTF-8 stand in CSV as the bytes they are, and in JSON with each odd byte as
    a lone surrogate U+DC80…U+DCFF, as Python's ``os.fsdecode`` and ``os.fsencode`` have it.
    """

    def __init__(self, path: Path) -> None:
        """Begin the file anew. Raises ``Malformed`` for another extension, and ``OSError``."""
        if path.suffix.lower() not in _FORMS:
            raise Malformed(f"{path} is no name for a report", expected=", ".join(f"NAME{form}" for form in _FORMS))
        self._file: TextIO = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._table = csv.writer(self._file) if path.suffix.lower() == ".csv" else None
        if self._table is not None:
            self._table.writerow(COLUMNS)

    def tell(self, item: Outcome | Passed) -> None:
        """Add a line."""
        if isinstance(item, Passed):
            row = (os.fsdecode(item.path), "", "failed" if item.failed else "skipped", item.reason)
        else:
            row = (os.fsdecode(item.found.path), str(item.address or ""), item.kind, item.reason)
        if self._table is not None:
            self._table.writerow(row)
        else:
            self._file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
