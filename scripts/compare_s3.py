#!/usr/bin/env python3
"""Measure uploads and downloads through a server whose blobs are on S3, beside boto3's own transfers.

One movie goes up and comes down in turns: by `upload_fileobj` and `download_fileobj` of boto3, straight
to the bucket, and by HTTP through `stat7store serve --blobs s3://...` with one worker, on this machine.
The server hashes, keeps, records and compares besides. Its memory is the most it ever had, over that
after its start. Then, with --cached, wrk fetches files of 64 KiB from the cache before the bucket and from
a server without S3, in turns. Credentials are found as boto3 finds them. The bucket must exist; all that is
put there is below a new prefix, and removed.

examples:
  scripts/compare_s3.py s3://bucket --endpoint http://127.0.0.1:7480
  scripts/compare_s3.py s3://bucket/prefix --endpoint http://127.0.0.1:7480 --mebibytes 1024 --rounds 3
  scripts/compare_s3.py s3://bucket --endpoint http://127.0.0.1:7480 --cached --results docs/results.md

exit codes: 0 done; 1 it could not be done; 2 bad usage
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import boto3
import psutil
from botocore.exceptions import BotoCoreError, ClientError

from scripts.peers.client import wrk
from scripts.peers.processes import cpu_seconds
from scripts.peers.work import Ask
from stat7store.errors import Unavailable
from stat7store.latency.machine import this_machine
from stat7store.latency.results import provenance, put_section, table
from stat7store.media.copies import padded_mp4
from storage.s3_options import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_BLOCK = 1 << 20
_SMALL, _FILES = 64 * 1024, 200
_CONNECTIONS, _SECONDS = 16, 2
_CONDITIONS = (
    "Client, server and S3 server are on this one machine: what one computes, the others wait for. An upload is hashed "
    "for its address before it goes to S3, a download is compared with its address; boto3 does neither."
)
_HEAD = bytes.fromhex("0000001c667479706d703432000000006d70343269736f6d61766331")  # an MP4's first box


class Server(NamedTuple):
    """A server that was started, and its process."""

    host: str
    process: psutil.Process

    def peak_bytes(self) -> int:
        """Return the most memory that one of its processes ever had, in bytes."""
        return max(_peak_bytes(process.pid) for process in [self.process, *self.process.children(recursive=True)])


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


@contextmanager
def serving(folder: Path, flags: list[str]) -> Iterator[Server]:
    """Run a server with one worker on a free port for the length of the context."""
    command = [sys.executable, "-m", "stat7store", "serve", f"--data={folder}", "--workers=1", "--port=0"]
    process = subprocess.Popen(
        [*command, "--no-access-log", "--log-level=warning", *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://(\S+?)/ ", process.stdout.readline())
        if found is None:
            raise OSError("the server did not start")
        yield Server(found[1], psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def upload(server: Server, movie: Path) -> str:
    """Upload a movie through the server; return its address."""
    with movie.open("rb") as body:
        return put(server, body, movie.stat().st_size)


def put(server: Server, body: BinaryIO | bytes, size: int) -> str:
    """Upload a file through the server; return its address."""
    connection = http.client.HTTPConnection(server.host, blocksize=_BLOCK)
    connection.request("POST", "/v1/files", body, {"Content-Length": str(size)})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status not in (200, 201):
        raise OSError(f"the server answered {answer.status}: {said[:500].decode()}")
    return str(json.loads(said)["address"])


def download(server: Server, address: str) -> int:
    """Download a movie from the server; return its size in bytes."""
    connection = http.client.HTTPConnection(server.host)
    connection.request("GET", f"/v1/files/{address}")
    answer = connection.getresponse()
    buffer, size = bytearray(_BLOCK), 0
    while count := answer.readinto(buffer):
        size += count
    connection.close()
    return size


def remove(server: Server, address: str) -> None:
    """Delete a movie, so that the next upload of it is one."""
    connection = http.client.HTTPConnection(server.host)
    connection.request("DELETE", f"/v1/files/{address}")
    connection.getresponse().read()
    connection.close()


class Took(NamedTuple):
    """How long a transfer took, and the CPU time of those who made it: this process, and the server's if it did."""

    seconds: float
    cpu_s: float


def timed(work: Callable[[], object], server: Server | None = None) -> Took:
    """Return what this took; ``server`` is the one that takes part."""

    def cpu_s() -> float:
        return time.process_time() + (cpu_seconds([server.process]) if server else 0.0)

    began, cpu = time.perf_counter(), cpu_s()
    work()
    return Took(time.perf_counter() - began, cpu_s() - cpu)


class Round(NamedTuple):
    """The transfers of one round."""

    boto_up: Took
    our_up: Took
    boto_down: Took
    our_down: Took


def one_round(client: S3Client, options: S3Options, server: Server, movie: Path) -> Round:
    """Measure each transfer once, in turns; leaves nothing."""
    key = f"{options.folder}compare-s3"
    addresses: list[str] = []

    def boto_up() -> None:
        with movie.open("rb") as body:
            client.upload_fileobj(body, options.bucket, key)

    def boto_down() -> None:
        with Path(os.devnull).open("wb") as nowhere:
            client.download_fileobj(options.bucket, key, nowhere)

    def our_down() -> None:
        if download(server, addresses[0]) != movie.stat().st_size:
            raise OSError("the download ended early")

    try:
        first = timed(boto_up)
        second = timed(lambda: addresses.append(upload(server, movie)), server)
        result = Round(first, second, timed(boto_down), timed(our_down, server))
    finally:
        client.delete_object(Bucket=options.bucket, Key=key)
    remove(server, addresses[0])
    return result


def written(rounds: list[Round], size: int, memory: int) -> str:
    """Return the table of what was measured: medians, and their ratio."""

    def row(name: str, boto: list[Took], ours: list[Took]) -> list[str]:
        theirs, mine = (size / median(took.seconds for took in each) / 1e6 for each in (boto, ours))
        cpu = (f"{median(took.cpu_s for took in each):.2f}" for each in (boto, ours))
        return [name, f"{theirs:.0f}", f"{mine:.0f}", f"{mine / theirs:.2f}", *cpu]

    rows = [
        row("upload", [each.boto_up for each in rounds], [each.our_up for each in rounds]),
        row("download", [each.boto_down for each in rounds], [each.our_down for each in rounds]),
    ]
    rates = ["boto3, MB/s", "through the server, MB/s", "ratio"]
    head = [f"{size / 1e6:.0f} MB, {len(rounds)} rounds", *rates, "CPU s: boto3", "client and server"]
    return f"{table(head, rows)}\n\nThe server's memory grew by {memory / 1e6:.0f} MB at most."


def compare(arguments: argparse.Namespace) -> str:
    """Do all rounds; return what is to be printed."""
    url = f"{arguments.url.rstrip('/')}/compare-{secrets.token_hex(8)}"
    options = S3Options.parse(url)
    flags = [f"--s3-region={arguments.region}"] if arguments.region else []
    if arguments.endpoint:
        flags += [f"--s3-endpoint={arguments.endpoint}", "--s3-path-style"]
    client: S3Client = boto3.session.Session(region_name=arguments.region).client(
        "s3", endpoint_url=arguments.endpoint or None
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        movie = Path(name) / "movie.mp4"
        with movie.open("wb") as file:
            for piece in padded_mp4(_HEAD, arguments.mebibytes << 20):
                file.write(piece)
        with serving(Path(name) / "data", [*flags, f"--blobs={url}/movies"]) as server:
            before = server.peak_bytes()
            rounds = [one_round(client, options, server, movie) for _ in range(arguments.rounds)]
            memory = server.peak_bytes() - before
        told = written(rounds, arguments.mebibytes << 20, memory)
        if arguments.cached:
            told += cached_gets(Path(name), [*flags, f"--blobs={url}/images"], arguments.rounds)
    for entry in client.list_objects_v2(Bucket=options.bucket, Prefix=options.folder).get("Contents", ()):
        client.delete_object(Bucket=options.bucket, Key=entry["Key"])
    client.close()
    return told


def cached_gets(folder: Path, flags: list[str], rounds: int) -> str:
    """Fetch files of 64 KiB from the cache and from the filesystem in turns; return what is to be printed."""
    files = [b"".join(padded_mp4(_HEAD, _SMALL, number)) for number in range(_FILES)]
    core = min(os.sched_getaffinity(0))
    cached = [*flags, f"--cache-dir={folder / 'cache'}"]
    with serving(folder / "files", []) as plain, serving(folder / "cached", cached) as before_s3:
        rates: dict[Server, list[float]] = {plain: [], before_s3: []}
        cpu_us: dict[Server, list[float]] = {plain: [], before_s3: []}
        asks: dict[Server, list[Ask]] = {}
        for server in rates:
            addresses = [put(server, data, len(data)) for data in files]
            for address in addresses * 2:  # the first brings it into the cache
                if download(server, address) != _SMALL:
                    raise OSError("a download ended early")
            asks[server] = [
                Ask(f"GET /v1/files/{address} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode(), 200, _SMALL)
                for address in addresses
            ]
        for _ in range(rounds):
            for server, found in rates.items():
                cpu = cpu_seconds([server.process])
                done = wrk(asks[server], int(server.host.rpartition(":")[2]), _CONNECTIONS, _SECONDS, core)
                found.append(done.requests / done.seconds)
                cpu_us[server].append((cpu_seconds([server.process]) - cpu) / done.requests * 1e6)
    ratio = median(mine / theirs for mine, theirs in zip(rates[before_s3], rates[plain], strict=True))
    return (
        f"\n\nGET of 64 KiB, {_CONNECTIONS} connections, a second: {median(rates[before_s3]):,.0f} from the cache, "
        f"{median(rates[plain]):,.0f} from the filesystem backend; ratio {ratio:.2f} "
        f"({min(rates[before_s3]) / max(rates[plain]):.2f} to {max(rates[before_s3]) / min(rates[plain]):.2f}). "
        f"The server's CPU for each: {median(cpu_us[before_s3]):.1f} µs and {median(cpu_us[plain]):.1f} µs."
    )


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument("--endpoint", default="", help="URL of the S3 server; AWS if not given")
    parser.add_argument("--region", default=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the movie (256)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is done; medians are shown (3)")
    parser.add_argument("--cached", action="store_true", help="compare GETs of 64 KiB from the cache as well (wrk)")
    parser.add_argument("--folder", type=Path, help="where the movie and the server's folder are made")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the section of docs/results.md")
    arguments = parser.parse_args()
    try:
        told = compare(arguments)
        print(told)
        if arguments.results is not None:
            command = shlex.join(["scripts/compare_s3.py", *sys.argv[1:]])
            where = provenance(command, this_machine(), datetime.now(UTC).isoformat(timespec="seconds"))
            put_section(arguments.results, "s3", f"## S3\n\n{where}\n\n{told}\n\n{_CONDITIONS}")
    except (OSError, ValueError, BotoCoreError, ClientError, Unavailable) as error:
        print(f"compare_s3: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
