"""What the client is told to do, and what it tells when it is done."""

from __future__ import annotations

import msgspec


class Ask(msgspec.Struct, frozen=True):
    """A request as it goes over the wire, and the answer that counts as one: its status, the bytes of its body."""

    request: bytes
    status: int
    size: int


class Writing(msgspec.Struct, frozen=True):
    """How a peer is given a file.

    ``{label}`` in ``path`` becomes a name that was never used. ``in_two_steps``: an upload is begun
    with POST at ``path``, and what its Location names is PUT with the digest, as container registries
    want it.
    """

    method: str
    path: str
    in_two_steps: bool = False


class Writes(msgspec.Struct, frozen=True):
    """Files to be written, each new: ``before``, a label of 16 digits, ``after``. Labels count up from ``first``."""

    writing: Writing
    before: bytes
    after: bytes
    first: int


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A load on 127.0.0.1. Asks are chosen at random for ``seconds``, or each is asked ``once``, in random order.

    Each connection sends its next request as soon as it has its answer.
    ``write_share`` (0 to 1) of all requests are writes. ``most`` requests end it sooner, if not 0.
    """

    port: int
    connections: int
    seconds: float
    asks: list[Ask] = []
    writes: Writes | None = None
    write_share: float = 0.0
    once: bool = False
    most: int = 0


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What an open loop tells besides: the tail of its latencies, and how late the client itself was to send.

    ``late_p99_ms`` counts from when a request was due until it was sent, or, where no connection was free for it,
    until the client looked.
    """

    p90_ms: float
    p999_ms: float
    max_ms: float
    late_p99_ms: float


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a load came to. Latencies in an open loop count from when a request was due.

    ``client_cpu_s``: CPU time of the client over ``seconds``. ``error`` says the first thing that went wrong.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_s: float
    errors: int = 0
    error: str = ""
    tail: Tail | None = None

    @property
    def per_second(self) -> float:
        """Right answers a second."""
        return self.requests / self.seconds if self.seconds else 0.0


def head(method: str, path: str, port: int, *lines: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines, "", ""]).encode()
