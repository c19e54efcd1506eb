"""disk-objectstore behind the plain server: FOLDER PORT WORKERS."""

from __future__ import annotations

import sys

from disk_objectstore import Container  # type: ignore[import-not-found]  # only in the peers' own environment
from disk_objectstore.exceptions import NotExistent  # type: ignore[import-not-found]
from plain import serve  # type: ignore[import-not-found]  # beside this script


def main(folder: str, port: str, workers: str) -> None:
    """Serve a folder."""
    files = Container(folder)
    if not files.is_initialised:
        files.init_container(hash_type="sha256")

    def find(address: str) -> bytes | None:
        try:
            content: bytes = files.get_object_content(address)
        except NotExistent:
            return None
        return content

    def keep(data: bytes) -> str:
        return str(files.add_object(data))

    serve(find, keep, int(port), int(workers))


if __name__ == "__main__":
    main(*sys.argv[1:])
