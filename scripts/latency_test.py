#!/usr/bin/env python3
r"""Load a server and tell, stage by stage, where the time of its retrievals went.

The same as `stat7store latency`; --help lists every option.

examples:
  scripts/latency_test.py --images 1000 --html report.html
  scripts/latency_test.py --images 100000 --cold --results docs/results.md --section images
  scripts/latency_test.py --movies 1000 --movie-size 4MiB --range 256KiB --cold --results docs/results.md \
    --section movies

exit codes: 0 no request failed; 1 one did, or it could not be tested; 2 bad usage
"""

from __future__ import annotations

import sys

from stat7store.cli import main

if __name__ == "__main__":
    sys.exit(main(["latency", *sys.argv[1:]]))
