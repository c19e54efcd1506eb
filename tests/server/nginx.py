"""A real nginx for tests: Debian's, on a free loopback port, serving one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {scratch}/pid;
error_log {scratch}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    default_type {media_type};
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    {directives}
    server {{
        listen 127.0.0.1:{port};
        root {files};
    }}
}}
"""


@contextmanager
def running_nginx(
    files: Path, scratch: Path, media_type: str = "application/octet-stream", directives: str = ""
) -> Iterator[str]:
    """Serve ``files`` while the context lasts; the value is the server's URL, without a slash at its end.

    ``scratch`` is an empty folder for nginx's own use, ``directives`` more of its ``http`` block.
    Raises ``FileNotFoundError`` if nginx is not installed.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("nginx is not installed; on Debian: apt-get install nginx-light")
    # nginx inherits the socket, so the port cannot be lost to another, and it accepts at once
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        configuration = scratch / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                user="user root;" if os.geteuid() == 0 else "",
                scratch=scratch,
                files=files,
                media_type=media_type,
                directives=directives,
                port=port,
            )
        )
        process = subprocess.Popen(
            [program, "-e", f"{scratch}/error.log", "-c", str(configuration)],
            pass_fds=[listener.fileno()],
            env={"NGINX": f"{listener.fileno()};"},
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
