"""The command line: ``stat7store VERB``, one module a verb.

What takes long to import (the HTTP client, the server, its settings) is imported by the verbs that
need it, when they run, so that ``--help`` and ``address`` answer at once.
"""

from stat7store.cli.app import main

__all__ = ["main"]
