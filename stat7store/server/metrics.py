"""``GET /metrics``: what Prometheus, and whatever understands its text, may know of the node.

Every worker tells of the whole node, whichever of them is asked; the counters of other processes are
at most a second old. Counters begin at 0 when the node starts, and outlive a worker that dies.
"""

from __future__ import annotations

import asyncio
import platform
import resource
from collections.abc import Iterator
from importlib.metadata import version

from aiohttp import web

from stat7store.catalog.base import Counters
from stat7store.server.exposition import CONTENT_TYPE, Family, Sample, counter, distribution, exposition, gauge
from stat7store.server.housekeeping import DEEDS
from stat7store.server.node import NODE, Node
from stat7store.server.processes import usage
from stat7store.timing import STAGES

_SHORTEST, _LONGEST = 8, 36  # powers of two in nanoseconds: 256 ns to 69 s, each twice the one before
# counter of a backend → what is counted; see ``S3Counts`` and ``CacheCounts``
_BACKENDS = {
    "s3_requests": ("stat7_s3_requests_total", "Requests sent to S3, retries included."),
    "s3_retries": ("stat7_s3_retries_total", "Requests that were sent to S3 again."),
    "s3_errors": ("stat7_s3_errors_total", "Requests to S3 that failed, but for missing objects."),
    "s3_throttled": ("stat7_s3_throttled_total", "Requests that S3 turned away for being too many."),
    "s3_resumed": ("stat7_s3_resumed_total", "Bodies from S3 that broke off and were gone on with."),
    "s3_bytes_in": ("stat7_s3_received_bytes_total", "Bytes of blobs received from S3."),
    "s3_bytes_out": ("stat7_s3_sent_bytes_total", "Bytes of blobs sent to S3."),
    "cache_hits": ("stat7_cache_hits_total", "Blobs opened that the cache held."),
    "cache_misses": ("stat7_cache_misses_total", "Blobs opened that the cache did not hold."),
    "cache_fills": ("stat7_cache_fills_total", "Blobs admitted to the cache."),
    "cache_bytes_served": ("stat7_cache_served_bytes_total", "Bytes that the cache was asked for and held."),
    "cache_evictions": ("stat7_cache_evictions_total", "Blobs that made room for others in the cache."),
    "cache_errors": ("stat7_cache_errors_total", "Damaged files in the cache, and failures of its disk."),
}


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics of the whole node."""
    node = request.app[NODE]
    totals = await node.store.counters()
    node.tallies.tell(node.store.counts())
    # some milliseconds, which no other request should wait for
    text = await asyncio.to_thread(lambda: exposition(_families(node, totals)))
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


def _families(node: Node, totals: Counters) -> Iterator[Family]:
    yield from _about_the_node(node)
    yield from _about_requests(node)
    yield from _about_stages(node)
    yield from _about_the_store(node, totals)
    yield from _about_counters(node)
    yield from _about_processes(node)


def _about_the_node(node: Node) -> Iterator[Family]:
    facts = {"version": version("stat7store"), "python": platform.python_version(), "backend": node.store.backend}
    yield gauge("stat7_build_info", "What runs here; always 1.", Sample(1, facts))
    summary = node.board.summary()
    yield gauge("stat7_uptime_seconds", "Seconds since the node started.", Sample(summary["since_start"].seconds))
    yield gauge("stat7_workers", "Worker processes.", Sample(len(summary["workers"])))


def _about_requests(node: Node) -> Iterator[Family]:
    board = node.board
    counters = board.summary()["counters"]
    yield counter(
        "stat7_requests_total",
        "Requests answered, by method and status; 499: the client went away.",
        *(
            Sample(count, {"method": method, "status": str(status)})
            for (method, status), count in sorted(board.requests().items())
        ),
    )
    known = counters["uploads_known"]
    yield counter(
        "stat7_uploads_total",
        "Files uploaded and acknowledged; deduplicated: their bytes were here already.",
        Sample(counters["uploads"] - known, {"outcome": "created"}),
        Sample(known, {"outcome": "deduplicated"}),
    )
    simple = (
        ("stat7_received_bytes_total", "Bytes of files uploaded and acknowledged.", "bytes_received"),
        ("stat7_sent_bytes_total", "Bytes of files sent to clients.", "bytes_sent"),
        ("stat7_errors_total", "Requests that failed by a fault of the server (5xx).", "errors"),
        ("stat7_damaged_requests_total", "Requests for files that were found damaged, and refused.", "damaged"),
        (
            "stat7_log_lines_dropped_total",
            "Lines that the log lost, since standard error took them too slowly.",
            "log_lines_dropped",
        ),
        ("stat7_fast_lane_total", "Retrievals answered ahead of the framework.", "fast_lane"),
        (
            "stat7_fast_lane_waits_total",
            "Retrievals that would have been, had their bytes been in memory.",
            "fast_lane_waits",
        ),
    )
    for name, meaning, counted in simple:
        yield counter(name, meaning, Sample(counters[counted]))
    yield gauge(
        "stat7_connections",
        "Open connections of clients.",
        *(Sample(number, {"worker": str(worker)}) for worker, number in board.connections_of_all().items()),
    )


def _about_stages(node: Node) -> Iterator[Family]:
    durations = node.board.durations()

    def samples(stage: str, labels: dict[str, str]) -> list[Sample]:
        counted = durations[stage]
        bounds = ((2**power / 1e9, counted.below[power]) for power in range(_SHORTEST, _LONGEST + 1))
        return distribution(labels, bounds, counted.count, counted.sum_ns / 1e9)

    backend = node.store.backend
    yield Family(
        "stat7_stage_seconds",
        "histogram",
        "Time that retrievals spent in each stage; backend is the one for new files.",
        [sample for stage in STAGES for sample in samples(stage, {"stage": stage, "backend": backend})],
    )
    yield Family(
        "stat7_retrieval_seconds",
        "histogram",
        "Time of whole retrievals, from the last byte of the request to the last byte sent.",
        samples("total", {"backend": backend}),
    )


def _about_the_store(node: Node, totals: Counters) -> Iterator[Family]:
    by_realm = sorted(totals.by_realm.items())
    yield gauge(
        "stat7_files", "Files stored, by realm.", *(Sample(files, {"realm": realm}) for realm, (files, _) in by_realm)
    )
    yield gauge(
        "stat7_file_bytes", "Bytes of files stored.", *(Sample(size, {"realm": realm}) for realm, (_, size) in by_realm)
    )
    yield gauge("stat7_garbage_blobs", "Blobs that wait to be deleted.", Sample(totals.garbage))
    yield gauge("stat7_damaged_files", "Files known to be damaged, and so not served.", Sample(totals.damaged))
    use = node.store.map_use()
    if use is not None:
        yield gauge("stat7_catalog_map_bytes", "Size of the catalog's memory map.", Sample(use.map_bytes))
        yield gauge("stat7_catalog_used_bytes", "Bytes of the map that were ever used.", Sample(use.used_bytes))
    yield gauge(
        "stat7_free_bytes",
        "Room left on the filesystem that a folder of the store is on.",
        *(Sample(free, {"folder": folder}) for folder, free in node.store.free_bytes().items()),
    )


def _about_counters(node: Node) -> Iterator[Family]:
    counted = node.tallies.total()
    for deed in DEEDS:
        yield counter(f"stat7_{deed.name}_total", deed.meaning, Sample(counted.get(deed.name, 0)))
    for name, (metric, meaning) in _BACKENDS.items():
        if name in counted:
            yield counter(metric, meaning, Sample(counted[name]))


def _about_processes(node: Node) -> Iterator[Family]:
    used = {name: usage(pid) for name, pid in node.tallies.processes().items()}
    living = [({"process": name}, each) for name, each in used.items() if each is not None]
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield counter(
        "stat7_process_cpu_seconds_total",
        "Processor time taken.",
        *(Sample(each.cpu_s, labels) for labels, each in living),
    )
    yield gauge(
        "stat7_process_resident_memory_bytes",
        "Memory in use.",
        *(Sample(each.resident_bytes, labels) for labels, each in living),
    )
    yield gauge("stat7_process_open_fds", "Open files.", *(Sample(each.open_files, labels) for labels, each in living))
    yield gauge("stat7_process_max_fds", "Most files that a process may open.", Sample(most))
    yield gauge("stat7_process_threads", "Threads.", *(Sample(each.threads, labels) for labels, each in living))
