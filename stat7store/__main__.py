"""``python -m stat7store``: the same as the command ``stat7store``."""

from stat7store.cli import main

raise SystemExit(main())
