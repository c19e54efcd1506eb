"""The command line: ``stat7store VERB``, one module a verb.

A verb's module is imported when that verb is asked for. What takes long to import (the HTTP client,
the server, its settings) is imported when a verb that needs it runs, so that ``--help`` and
``address`` answer at once.
"""

from stat7store.cli.app import main

__all__ = ["main"]
