"""hashfs behind the plain server: FOLDER PORT WORKERS."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from hashfs import HashFS  # type: ignore[import-not-found]  # only in the peers' own environment
from plain import serve  # type: ignore[import-not-found]  # beside this script


def main(folder: str, port: str, workers: str) -> None:
    """Serve a folder."""
    files = HashFS(folder, depth=2, width=2, algorithm="sha256")

    def find(address: str) -> Path | None:
        path = files.realpath(address)
        return path and Path(path)

    def keep(data: bytes) -> str:
        return str(files.put(io.BytesIO(data)).id)

    serve(find, keep, int(port), int(workers))


if __name__ == "__main__":
    main(*sys.argv[1:])
