"""Starlette's FileResponse under uvicorn: FOLDER PORT WORKERS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn  # type: ignore[import-not-found]  # only in the peers' own environment
from starlette.applications import Starlette  # type: ignore[import-not-found]
from starlette.requests import Request  # type: ignore[import-not-found]
from starlette.responses import FileResponse  # type: ignore[import-not-found]
from starlette.routing import Route  # type: ignore[import-not-found]

_FOLDER = "PEERS_FOLDER"


def application() -> Starlette:
    """Return the application; uvicorn's workers call this, each for itself."""
    folder = Path(os.environ[_FOLDER])

    async def file(request: Request) -> FileResponse:
        return FileResponse(folder / request.path_params["address"], media_type="image/jpeg")

    return Starlette(routes=[Route("/{address}", file)])


def main(folder: str, port: str, workers: str) -> None:
    """Serve a folder."""
    os.environ[_FOLDER] = folder
    uvicorn.run(
        "starlette_server:application",
        factory=True,
        host="127.0.0.1",
        port=int(port),
        workers=int(workers),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
