"""nginx, with its best settings for files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from scripts.peers.files import MOST_WRITTEN, File
from scripts.peers.install import find
from scripts.peers.processes import listens, output_of, running
from scripts.peers.work import Writing

_CONFIGURATION = """
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log {access_log};
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    open_file_cache max=100000 inactive=1h;
    open_file_cache_valid 1h;
    types {{ }}
    default_type image/jpeg;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096{reuseport};
        root {folder}/files;
        dav_methods PUT;
    }}
}}
"""

_WRITING = Writing("PUT", "/{label}")


@dataclass(frozen=True)
class Nginx:
    """Debian's nginx; its WebDAV module takes the writes, which it neither hashes nor syncs.

    Its ``access_log`` has a buffer, which Debian's has not: it is to have its best settings there as well.
    """

    name: str = "nginx"
    durable: bool = False
    remark: str = (
        "sendfile, tcp_nopush, open_file_cache, no access log (installed: combined, buffer of 64 KiB); "
        "WebDAV PUT: no hash, no fsync"
    )
    path: str = "/{address}"
    writing: Writing | None = _WRITING
    most_written: int = MOST_WRITTEN
    access_log: bool = False

    def with_access_log(self) -> Self:
        return replace(self, access_log=True)

    def missing(self) -> str | None:
        return None if find("nginx") else "apt-get install nginx-light"

    def version(self) -> str:
        return output_of([find("nginx"), "-v"]).rpartition("/")[2]

    def lay(self, folder: Path, files: Sequence[File]) -> bool:
        (folder / "files").mkdir(parents=True)
        return False

    def serving(
        self, folder: Path, port: int, workers: int, cores: Sequence[int]
    ) -> AbstractContextManager[list[psutil.Process]]:
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=port,
                workers=workers,
                access_log=f"{folder}/access.log combined buffer=64k" if self.access_log else "off",
                reuseport=" reuseport" if workers > 1 else "",
                user="user root;" if os.geteuid() == 0 else "",  # else its workers could not read the folder
            )
        )
        command = [find("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
        return running(command, folder=folder, cores=cores, ready=lambda: listens(port))

    def blobs(self, folder: Path) -> Path | None:
        return folder / "files"
