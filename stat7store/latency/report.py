"""What a latency test found, as values and as JSON. Durations in milliseconds, sizes in bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from stat7store.errors import Malformed
from stat7store.timing import STAGES

FORMAT = 1
CLIENT = "client"
"""All that the server's clock does not see: the kernel's queues before a worker reads, and the client."""
OTHER = "other"
"""What the server did besides the stages: parsing, headers, its event loop."""
SCHEDULE = "schedule"
"""Open loop: from a request's intended start until a connection was free to send it."""
TOTAL = "total"
PARTS = (SCHEDULE, *STAGES, OTHER, CLIENT)
"""The parts that add up to the total, in the order in which they happen (roughly)."""


class Summary(msgspec.Struct, frozen=True):
    """How long one stage took. ``share`` is its mean's part of the total's mean; None outside of it.

    ``histogram`` is the HDR histogram (nanoseconds, V2 encoding in base64), for merging.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    share: float | None = None
    histogram: str = ""


class Moment(msgspec.Struct, frozen=True):
    """One slice of a run's time: when it began, how many retrievals ended in it, and how long they took."""

    at_s: float
    count: int
    p50_ms: float
    p99_ms: float


class Usage(msgspec.Struct, frozen=True):
    """What a run cost the server's processes and the client's; None where it could not be read.

    ``memory`` is the server's proportional set size at the end, its shared pages counted once;
    that includes the pages of the catalog it has mapped. CPU in seconds.
    """

    server_cpu_s: float | None = None
    server_memory: int | None = None
    client_cpu_s: float | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one set of files.

    ``requests`` counts those that ended, of which ``writes`` were uploads; ``joined`` those
    retrievals whose record the server still had; ``verified`` those whose bytes were hashed and had
    the address asked for, or, for a range, were those of the whole file at that place. ``seconds``
    is the time under load. ``sources`` counts where the server says it read from. ``evicted`` is
    the part of the files' bytes that was out of the page cache at the start; None for a warm run.
    """

    name: str
    files: str
    file_count: int
    load: str
    concurrency: int
    rate: float | None
    choice: str
    shape: str
    temperature: str
    mix: str
    requests: int
    writes: int
    joined: int
    verified: int
    bytes: int
    seconds: float
    errors: dict[str, int]
    stages: dict[str, Summary]
    sources: dict[str, int]
    percentiles: list[tuple[float, float]]
    over_time: list[Moment]
    usage: Usage
    evicted: float | None = None
    notes: list[str] = []

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def error_count(self) -> int:
        """How many requests failed."""
        return sum(self.errors.values())


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    system: str
    processor: str
    cores: int
    memory: int
    python: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole test. ``made_at`` in RFC 3339, UTC."""

    format: int = FORMAT
    version: str
    made_at: str
    command: str
    machine: Machine
    server: str
    built: list[str]
    runs: list[Run]

    @property
    def error_count(self) -> int:
        """How many requests failed in all runs."""
        return sum(run.error_count for run in self.runs)


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read_report(path: Path) -> Report:
    """Read what ``write_report`` wrote. Raises ``Malformed``, and ``OSError``."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise Malformed(f"{path} is no report of a latency test: {error}") from error
    if report.format != FORMAT:
        raise Malformed(f"{path} is of format {report.format}; this version reads format {FORMAT}")
    return report
