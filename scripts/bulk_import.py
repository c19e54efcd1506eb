#!/usr/bin/env python3
"""Import whole trees of images and movies into a store: `stat7store import`, from a checkout.

examples:
  scripts/bulk_import.py ~/Pictures                                 into ./stat7-data
  scripts/bulk_import.py --server http://127.0.0.1:7377 ~/Pictures  over HTTP
  scripts/bulk_import.py --help                                     all it takes

exit codes: 0 done; 1 some files failed; 2 wrong usage; 130 interrupted
"""

from __future__ import annotations

import sys

from stat7store.cli import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))
