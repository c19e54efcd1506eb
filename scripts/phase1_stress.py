#!/usr/bin/env python3
"""Run Phase 1's stress test on this project's addresses and catalog, beside Phase 1's own figures.

At each scale: the time to set up, lookups through the catalog (a new transaction each), reads and
durable writes 70/30 by 1 to 16 threads and processes, bytes an entity on disk, memory. And Phase 1's
own mixed test, as it was (each read copied the list of all keys) and without that copy.

examples:
  scripts/phase1_stress.py                                           10k and 100k entities
  scripts/phase1_stress.py --scale 10k,100k,1M,10M --results docs/results.md
  scripts/phase1_stress.py --scale 1k --seconds 0.1 --parallel 1,2   tiny

exit codes: 0 done; 1 it could not be done; 2 bad usage
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from stat7store.errors import Stat7Error
from stat7store.latency.charts import lines
from stat7store.latency.phase1 import Phase1, Rates, Scale, measure_rates, measure_scale
from stat7store.latency.results import provenance, put_section, table, write_charts
from stat7store.latency.run import machine

HARNESS_LIMIT = 1_000_000  # beyond, the entities of a dict would fill the memory
PHASE1 = """Phase 1's own figures, at 100,000 entities: addresses 2.7 s, one lookup 0.0008 ms, 167 MB (1.6 KB an
entity); mixed 70/30 13,600 operations/s at 10,000 entities and 404 at 100,000. The fall was the harness's own: to
choose a key, each read copied the list of all keys, an O(n) copy with the interpreter locked. Phase 1 kept all in
memory; here every write is durable before it counts."""


async def stress(options: argparse.Namespace) -> Phase1:
    """Run every scale in a folder of its own, which is removed after."""
    rates = measure_rates(min(max(options.scale), 100_000))
    scales = []
    for entities in options.scale:
        folder = Path(tempfile.mkdtemp(prefix="stat7-phase1-", dir=options.folder))
        try:
            scale = await measure_scale(
                folder / "catalog",
                entities,
                seconds=options.seconds,
                parallel=options.parallel,
                harness=entities <= HARNESS_LIMIT,
                show=lambda line: print(line, file=sys.stderr, flush=True),
            )
        finally:
            shutil.rmtree(folder)
        scales.append(scale)
    return Phase1(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["scripts/phase1_stress.py", *sys.argv[1:]]),
        machine=machine(),
        rates=rates,
        scales=scales,
    )


def markdown(found: Phase1) -> str:
    """What was found, as Markdown."""
    rates, scales = found.rates, found.scales
    return "\n\n".join(
        [
            "## Phase 1's stress test",
            provenance(found.command, found.machine, found.made_at),
            PHASE1,
            _rates(rates),
            table(
                (
                    "entities",
                    "set up s: make",
                    "keep",
                    "lookup p50 µs",
                    "p99",
                    "with record p50",
                    "p99",
                    "bytes an entity",
                    "memory growth MB",
                ),
                map(_row, scales),
            ),
            "Mixed 70/30, operations a second:",
            table(("", *(f"{scale.entities:,}" for scale in scales), "last / first"), _mixed_rows(scales)),
        ]
    )


def _rates(rates: Rates) -> str:
    return (
        f"Addresses of entities: {rates.addresses:,.0f} a second, {rates.addresses / rates.plain:.2f} times a plain "
        f"`json.dumps(sort_keys=True)` and SHA-256 loop ({rates.plain:,.0f}); 100,000 take "
        f"{100_000 / rates.addresses:.2f} s. Bytes of files: {rates.bytes / 1e9:.2f} GB/s, "
        f"{rates.bytes / rates.hashlib:.2f} times hashlib's own."
    )


def _row(scale: Scale) -> list[str]:
    lookup, both = scale.lookup, scale.lookup_and_record
    micros = (lookup.p50_ms, lookup.p99_ms, both.p50_ms, both.p99_ms)
    return [
        f"{scale.entities:,}",
        f"{scale.generate_s:.1f}",
        f"{scale.store_s:.1f}",
        *(f"{value * 1000:.2f}" for value in micros),
        f"{scale.bytes_per_entity:.0f}",
        f"{scale.memory_growth / 1e6:.1f}",
    ]


def _mixed_rows(scales: list[Scale]) -> list[list[str]]:
    named: list[tuple[str, list[float | None]]] = [
        ("Phase 1's harness as it was, in memory, 4 threads", [scale.harness for scale in scales]),
        ("the same without its copy of all keys", [scale.harness_mended for scale in scales]),
    ]
    durable = "catalog, durable writes"
    named += [
        (f"{durable}, threads: {count}", [scale.threads[count] for scale in scales]) for count in scales[0].threads
    ]
    named += [
        (f"{durable}, processes: {count}", [scale.processes[count] for scale in scales])
        for count in scales[0].processes
    ]
    return [[name, *(_rate(rate) for rate in rates), _ratio(rates)] for name, rates in named]


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}"


def _ratio(rates: list[float | None]) -> str:
    known = [rate for rate in rates if rate]
    return f"{known[-1] / known[0]:.2f}" if known else "–"


def charts(scales: list[Scale]) -> list[tuple[str, str]]:
    """Lookup latency and the mixed rates by the number of entities; none for a single scale."""
    if len(scales) < 2:
        return []
    lookups = {
        "lookup p50": [(scale.entities, scale.lookup.p50_ms * 1000) for scale in scales],
        "lookup p99": [(scale.entities, scale.lookup.p99_ms * 1000) for scale in scales],
        "with record p50": [(scale.entities, scale.lookup_and_record.p50_ms * 1000) for scale in scales],
        "with record p99": [(scale.entities, scale.lookup_and_record.p99_ms * 1000) for scale in scales],
    }
    most = max(scales[0].threads)
    mixed = {
        "Phase 1's harness": [(scale.entities, scale.harness) for scale in scales if scale.harness],
        "without its copy": [(scale.entities, scale.harness_mended) for scale in scales if scale.harness_mended],
        f"catalog, {most} threads": [(scale.entities, scale.threads[most]) for scale in scales],
        f"catalog, {most} processes": [(scale.entities, scale.processes[most]) for scale in scales],
    }
    return [
        ("lookups", lines("Lookups by entities", lookups, x_name="entities", y_name="µs", logarithmic_x=True)),
        (
            "mixed",
            lines("Mixed 70/30 by entities", mixed, x_name="entities", y_name="operations/s", logarithmic_x=True),
        ),
    ]


def scale_of(text: str) -> list[int]:
    """Read ``10k,100k,1M``."""
    units = {"k": 1000, "M": 1_000_000}
    return [int(part.rstrip("kM")) * units.get(part[-1:], 1) for part in text.split(",")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=scale_of, default="10k,100k", metavar="N,…", help="numbers of entities")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long each mixed load lasts")
    parser.add_argument("--parallel", type=scale_of, default="1,2,4,8,16", metavar="N,…", help="threads and processes")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the catalogs are made; the temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write it into this Markdown file, with charts")
    options = parser.parse_args(arguments)
    try:
        found = asyncio.run(stress(options))
        text = markdown(found)
        print(text)
        if options.json is not None:
            options.json.write_bytes(msgspec.json.encode(found))
        if options.results is not None:
            shown = write_charts(options.results, "phase1", charts(found.scales))
            put_section(options.results, "phase1", "\n\n".join([text, *shown]))
    except (Stat7Error, OSError) as error:
        print(f"phase1_stress: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
