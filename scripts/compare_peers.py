#!/usr/bin/env python3
r"""Compare this store with other servers of files: the same files, the same requests, in one run.

Peers, `--peers`, the first of which the others are held against:
  stat7                     this tree's `stat7store serve`
  stat7-without-fast-path   the same with --no-fast-path, to tell what that is worth
  stat7-without-timing      the same with the timing of retrievals taken out, to tell what that costs
  nginx, registry, rgw      Debian's nginx, docker-registry, RADOS Gateway (started by scripts/rgw.sh)
  hashfs, disk-objectstore  Python libraries behind a minimal aiohttp server
  starlette                 its FileResponse under uvicorn
What is missing is said with the command that brings it, and left out; `--install` brings it.
Writes also stand beside two floors without a server: grouped syncs, and the syncs of one upload in their order.
The cases installed-* have the access logs of this store and of nginx on, all others have none.

The server is pinned to the first core (or the first two, for two workers), the client to the next. Reads
are asked for by wrk (on Debian: apt-get install wrk); writes by a client of raw sockets; the open loop by a
program in C, compiled when it is needed (apt-get install gcc libc6-dev).

examples:
  scripts/compare_peers.py --install                                    bring the peers, and compare nothing
  scripts/compare_peers.py --results docs/results.md                    all of it, some 45 minutes
  scripts/compare_peers.py --peers stat7,nginx --cases 'get-*' --seconds 1
  scripts/compare_peers.py --peers stat7,stat7-without-fast-path --cases get-4KiB,open-4KiB
  scripts/compare_peers.py --peers stat7,stat7-without-timing --cases 'get-*,head-*'
  scripts/compare_peers.py --cases 'get-*,installed-*' --congestion cubic,bbr    each case once under each (root)
  scripts/compare_peers.py --cases 'put-*' --resume .cache/puts.json    interrupted, and run again, it goes on
  scripts/compare_peers.py --scale 10k,1M                               the same files among few and many others
  scripts/compare_peers.py --quick                                      tiny, to see that it works
  scripts/compare_peers.py --list                                       the cases, and what is missing

exit codes: 0 done; 1 it could not be done, not in all, or an answer was wrong; 2 bad usage; 130 interrupted
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from scripts.peers.cases import FILES, QUICK_FILES, Case, Kind, all_cases, chosen, under_each
from scripts.peers.compare import Plan, compare
from scripts.peers.congestion import enter_own_network
from scripts.peers.gateway import Gateway
from scripts.peers.install import find, install
from scripts.peers.nginx import Nginx
from scripts.peers.open_loop import COMPILER, program
from scripts.peers.peer import Peer
from scripts.peers.processes import CHECKOUT
from scripts.peers.python_peers import HASHFS, OBJECTSTORE, STARLETTE
from scripts.peers.registry import Registry
from scripts.peers.report import Comparison
from scripts.peers.stat7 import Stat7
from scripts.peers.tables import terminal, write_results
from stat7store.errors import Malformed, Stat7Error, Unavailable

WRK = "apt-get install wrk"
DEFAULT_PEERS = "stat7,nginx,registry,rgw,hashfs,disk-objectstore,starlette"
QUICK_CASES = (
    "get-4KiB",
    "range-*",
    "head-*",
    "not-modified-*",
    "open-4KiB",
    "installed-4KiB",
    "cold-64KiB",
    "put-4KiB-16",
    "mixed-*",
)
SCALE_CASES = ("get-4KiB", "get-64KiB", "open-4KiB")


def known_peers() -> list[Peer]:
    """Return every peer there is."""
    return [
        Stat7(),
        Stat7("stat7-without-fast-path", without="fast_path"),
        Stat7("stat7-without-timing", module="scripts.peers.untimed", remark="nothing timed, nothing recorded"),
        Nginx(),
        Registry(),
        Gateway(),
        HASHFS,
        OBJECTSTORE,
        STARLETTE,
    ]


def plan_of(options: argparse.Namespace, command: str) -> Plan:
    """Return what the options ask for. Raises ``Malformed``, and ``Unavailable`` if nothing can be compared."""
    quick = options.quick
    patterns = options.cases or (SCALE_CASES if options.scale else QUICK_CASES if quick else ("*",))
    congestion = options.congestion or []
    cases = under_each(chosen(all_cases(), patterns), congestion)
    if not cases:
        raise Malformed(f"no case is called {', '.join(patterns)}; --list names them")
    if not find("wrk"):
        raise Unavailable(f"wrk is missing: {WRK}")
    if any(case.kind is Kind.OPEN for case in cases):
        program()  # better now than when all is loaded
    left_out: list[str] = []
    if options.scale:
        peers: list[Peer] = [Stat7(f"stat7, {entries:,} entries", entries=entries) for entries in options.scale]
    else:
        peers = _able(options.peers or ("stat7,nginx" if quick else DEFAULT_PEERS).split(","), left_out)
    if not peers:
        raise Unavailable(f"none of the peers can run: {'; '.join(left_out)}")
    return Plan(
        peers=peers,
        cases=cases,
        samples=options.samples,
        counts=QUICK_FILES if quick else FILES,
        command=command,
        folder=options.folder,
        workers=options.workers or ([1] if quick or options.scale else [1, 2]),
        rounds=options.rounds or (1 if quick else 5),
        seconds=options.seconds or (0.3 if quick else 2.0),
        raw=not options.scale,
        own_network=bool(congestion),
        kept=options.resume,
        left_out=left_out,
    )


def bring(names: Sequence[str]) -> None:
    """Install what these peers miss, wrk, and a compiler. Raises ``Unavailable`` if that fails."""
    for tool, command in (("wrk", WRK), ("cc", COMPILER)):
        if not find(tool):
            install(command)
    for peer in _named(names):
        missing = peer.missing()
        if missing is not None:
            print(f"{peer.name}: {missing}", file=sys.stderr, flush=True)
            install(missing)


def _able(names: Sequence[str], left_out: list[str]) -> list[Peer]:
    able = []
    for peer in _named(names):
        missing = peer.missing()
        if missing is None:
            able.append(peer)
        else:
            print(f"compare_peers: {peer.name} is left out: {missing}", file=sys.stderr)
            left_out.append(f"{peer.name}: {missing}")
    return able


def _named(names: Sequence[str]) -> list[Peer]:
    known = {peer.name: peer for peer in known_peers()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Malformed(f"no peer is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names]


def _list(cases: Sequence[Case]) -> None:
    print("cases:", ", ".join(case.name for case in cases))
    for peer in known_peers():
        missing = peer.missing()
        print(f"{peer.name}: {f'missing: {missing}' if missing else peer.version()}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    units = {"k": 1000, "M": 1_000_000}
    return [int(word.rstrip("kM")) * units.get(word[-1], 1) for word in _words(text)]


def parser() -> argparse.ArgumentParser:
    """Return what reads the options."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    options = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--peers", type=_words, metavar="NAME,…", help=f"who is compared [{DEFAULT_PEERS}]")
    options.add_argument("--cases", type=_words, metavar="NAME,…", help="cases, also as patterns (get-*) [all]")
    options.add_argument("--workers", type=_numbers, metavar="N,…", help="worker processes of each server [1,2]")
    options.add_argument("--rounds", type=int, metavar="N", help="rounds of each case on each peer, in turns [5]")
    options.add_argument("--seconds", type=float, metavar="S", help="how long a round lasts [2]; wrk: whole seconds")
    options.add_argument(
        "--congestion",
        type=_words,
        metavar="NAME,…",
        help="cases that only read: once under each TCP congestion control, in a network of their own; as root "
        "[once, under the kernel's own]",
    )
    options.add_argument(
        "--scale", type=_numbers, metavar="N,…", help="instead: this store among so many other entries"
    )
    options.add_argument(
        "--folder", type=Path, metavar="DIR", help="where all is kept, on a real disk [temporary folder]"
    )
    samples = CHECKOUT / ".cache" / "samples"
    options.add_argument(
        "--samples", type=Path, metavar="DIR", default=samples, help="pictures and clips to make files of"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    options.add_argument("--results", type=Path, metavar="FILE", help="write it into this Markdown file, with charts")
    options.add_argument("--section", default="peers", metavar="NAME", help="the section of that file [peers]")
    options.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep what is measured there after each case; the same command goes on from it, and removes it at the end",
    )
    options.add_argument("--quick", action="store_true", help="tiny: few files, one short round")
    options.add_argument("--install", action="store_true", help="install what the peers miss, and compare nothing")
    options.add_argument("--list", action="store_true", help="name cases and peers, and compare nothing")
    return options


def _write(found: Comparison, options: argparse.Namespace) -> None:
    Console(width=None if sys.stdout.isatty() else 190).print(terminal(found))
    for line in (*found.notes, *(f"Left out: {each}" for each in (*found.left_out, *found.broken))):
        print(f"{line}.")
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if options.results is not None:
        write_results(found, options.results, options.section)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    try:
        if options.list:
            _list(all_cases())
        elif options.install:
            bring(options.peers or DEFAULT_PEERS.split(","))
        else:
            plan = plan_of(options, shlex.join(["scripts/compare_peers.py", *given]))
            if plan.own_network:
                enter_own_network(options.congestion)
            found = compare(plan, lambda line: print(line, file=sys.stderr, flush=True))
            _write(found, options)
            if found.broken:
                return 1
            if plan.kept is not None:
                plan.kept.unlink(missing_ok=True)
    except (Stat7Error, OSError) as error:
        print(f"compare_peers: {error}", file=sys.stderr)
        return 2 if isinstance(error, Malformed) else 1
    except KeyboardInterrupt:
        print("compare_peers: interrupted; all that ran is stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it in order, as Ctrl-C does
    sys.exit(main())
