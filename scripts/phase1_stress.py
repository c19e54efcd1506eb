#!/usr/bin/env python3
"""Run Phase 1's stress test on this project's addresses and catalog, beside Phase 1's own figures.

At each scale: the time to set up, lookups through the catalog (a new transaction each) and by LMDB
alone, reads and durable writes 70/30 by 1 to 16 threads and processes, bytes an entity on disk, memory,
the start of a server. And Phase 1's own mixed test, as it was (each read copied the list of all keys)
and without that copy.

examples:
  scripts/phase1_stress.py                                           10k and 100k entities
  scripts/phase1_stress.py --scale 10k,100k,1M,10M --results docs/results.md
  scripts/phase1_stress.py --scale 1k --seconds 0.1 --parallel 1,2   tiny

exit codes: 0 done; 1 it could not be done; 2 bad usage
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from scripts.phase1_beside import measure_bare, measure_server_start, measure_starts
from stat7store.address import Address
from stat7store.errors import Stat7Error
from stat7store.folder import CATALOG
from stat7store.latency.charts import lines
from stat7store.latency.machine import this_machine
from stat7store.latency.mixed import HARNESS_LIMIT, measure_mixed
from stat7store.latency.phase1 import Phase1, Rates, Scale, Starts, measure_rates, measure_scale
from stat7store.latency.results import provenance, put_section, table, write_charts
from stat7store.opening import prepare
from stat7store.settings import Settings

PHASE1 = """Phase 1's own figures, at 100,000 entities: addresses 2.7 s, one lookup 0.0008 ms, 167 MB (1.6 KB an
entity); mixed 70/30 13,600 operations/s at 10,000 entities and 404 at 100,000. The fall was the harness's own: to
choose a key, each read copied the list of all keys, an O(n) copy with the interpreter locked. Phase 1 kept all in
memory; here every write is durable before it counts."""


async def stress(options: argparse.Namespace) -> Phase1:
    """Set every scale up in a folder of its own, then run the mixed loads on all of them, and remove them."""
    rates, starts = measure_rates(min(max(options.scale), 100_000)), measure_starts()
    scales: list[Scale] = []
    with tempfile.TemporaryDirectory(prefix="stat7-phase1-", dir=options.folder) as root:
        catalogs: dict[Path, list[Address]] = {}
        for entities in options.scale:
            show(f"{entities:,} entities: setting up")
            data = Path(root) / str(entities)
            prepare(Settings(data=data))
            folder = data / CATALOG
            scale, catalogs[folder] = await measure_scale(folder, entities)
            bare = measure_bare(folder, catalogs[folder])
            start_s = await asyncio.to_thread(measure_server_start, data)
            scales.append(replace(scale, bare=bare, start_s=start_s))
        mixed = await asyncio.to_thread(
            measure_mixed,
            catalogs,
            options.scale,
            seconds=options.seconds,
            parallel=options.parallel,
            rounds=options.rounds,
            show=show,
        )
    return Phase1(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["scripts/phase1_stress.py", *sys.argv[1:]]),
        machine=this_machine(),
        rates=rates,
        starts=starts,
        scales=scales,
        mixed=mixed,
    )


def show(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def markdown(found: Phase1) -> str:
    """What was found, as Markdown."""
    rates, scales = found.rates, found.scales
    return "\n\n".join(
        [
            "## Phase 1's stress test",
            provenance(found.command, found.machine, found.made_at),
            PHASE1,
            _rates(rates),
            _starts(found.starts),
            table(
                (
                    "entities",
                    "set up s: make",
                    "keep",
                    "LMDB alone p50 µs",
                    "lookup p50",
                    "p99",
                    "with record p50",
                    "p99",
                    "bytes an entity",
                    "memory growth MB",
                    "server's start s",
                ),
                map(_row, scales),
            ),
            "Mixed 70/30, operations a second, medians of rounds in which each load visits all scales in turn:",
            table(("", *(f"{scale.entities:,}" for scale in scales), _ratio_name(scales)), _mixed_rows(found)),
        ]
    )


def _rates(rates: Rates) -> str:
    return (
        f"Addresses of entities: {rates.addresses:,.0f} a second, {rates.addresses / rates.plain:.2f} times a plain "
        f"`json.dumps(sort_keys=True)` and SHA-256 loop ({rates.plain:,.0f}); 100,000 take "
        f"{100_000 / rates.addresses:.2f} s. Bytes of files: {rates.bytes / 1e9:.2f} GB/s, "
        f"{rates.bytes / rates.hashlib:.2f} times hashlib's own."
    )


def _starts(starts: Starts) -> str:
    python_ms, import_ms, help_ms = (value * 1000 for value in msgspec.structs.astuple(starts))
    return (
        f"Starts: importing the command takes {import_ms - python_ms:.0f} ms, its whole help {help_ms:.0f} ms, "
        f"{python_ms:.0f} ms of both Python by itself. A server over each catalog was asked until it answered."
    )


def _row(scale: Scale) -> list[str]:
    lookup, both = scale.lookup, scale.lookup_and_record
    bare_ms = math.nan if scale.bare is None else scale.bare.p50_ms
    micros = (bare_ms, lookup.p50_ms, lookup.p99_ms, both.p50_ms, both.p99_ms)
    return [
        f"{scale.entities:,}",
        f"{scale.generate_s:.1f}",
        f"{scale.store_s:.1f}",
        *(f"{value * 1000:.2f}" for value in micros),
        f"{scale.bytes_per_entity:.0f}",
        f"{scale.memory_growth / 1e6:.1f}",
        "" if scale.start_s is None else f"{scale.start_s:.2f}",
    ]


def _mixed_rows(found: Phase1) -> list[list[str]]:
    counts = [scale.entities for scale in found.scales]
    first, last = counts[0], _compared(found.scales)
    return [
        [
            name,
            *(f"{rates[count]:,.0f}" if count in rates else "–" for count in counts),
            f"{rates[last] / rates[first]:.2f}",
        ]
        for name, rates in found.mixed.items()
    ]


def _compared(scales: list[Scale]) -> int:
    """Return the largest scale up to a million: the one that the goal is stated for."""
    return max((scale.entities for scale in scales if scale.entities <= HARNESS_LIMIT), default=scales[0].entities)


def _ratio_name(scales: list[Scale]) -> str:
    return f"{_compared(scales):,} / {scales[0].entities:,}"


def charts(found: Phase1) -> list[tuple[str, str]]:
    """Lookup latency and the mixed rates by the number of entities; none for a single scale."""
    scales = found.scales
    if len(scales) < 2:
        return []
    lookups = {
        "lookup p50": [(scale.entities, scale.lookup.p50_ms * 1000) for scale in scales],
        "lookup p99": [(scale.entities, scale.lookup.p99_ms * 1000) for scale in scales],
        "with record p50": [(scale.entities, scale.lookup_and_record.p50_ms * 1000) for scale in scales],
        "with record p99": [(scale.entities, scale.lookup_and_record.p99_ms * 1000) for scale in scales],
    }
    mixed = {name.removesuffix(", durable writes"): list(rates.items()) for name, rates in found.mixed.items()}
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
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each mixed load runs")
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
            shown = write_charts(options.results, "phase1", charts(found))
            put_section(options.results, "phase1", "\n\n".join([text, *shown]))
    except (Stat7Error, OSError) as error:
        print(f"phase1_stress: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
