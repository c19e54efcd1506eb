"""The verbs put together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from stat7store.cli.failing import report
from stat7store.cli.options import examples
from stat7store.errors import Malformed, Stat7Error
from storage import compiled

SUMMARY = """Keep images and movies by what they are, and see where the time of each retrieval goes.

A file's address is the SHA-256 of its bytes.
"""
# each verb's module, in the order of the help
VERBS = {
    "serve": "serve",
    "address": "address",
    "put": "put",
    "import": "importing",
    "get": "get",
    "info": "info",
    "ls": "ls",
    "rm": "rm",
    "stats": "stats",
    "migrate": "migrate",
    "verify": "verify",
    "rebuild": "rebuild",
    "backup": "backup",
    "restore": "restore",
    "latency": "latency",
}
EXAMPLES = {
    "stat7store serve": "serve ./stat7-data",
    "stat7store put photo.jpg clip.mp4": "store files",
    "stat7store get ADDRESS -o copy.jpg --timings": "fetch, verify, show the stages",
    "stat7store ls --realm image --sort -size": "list files",
    "stat7store VERB --help": "more about a verb",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # pydantic would look for plugins among all that is installed, which takes as long as many a verb
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        make_app(given[0] if given else "")(args=given, prog_name="stat7store")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except Malformed as error:  # what was typed is not what is taken
        report(error)
        return 2
    except (Stat7Error, OSError) as error:
        report(error)
        return 1
    except Exception as error:  # a bug: still no traceback for the person at the terminal
        report(RuntimeError(f"this should not have happened ({type(error).__name__}: {error}); please report it"))
        return 1
    return 0


def make_app(verb: str = "") -> typer.Typer:
    """Return the command with that verb alone, or with all of them if there is none of that name.

    What the other verbs import is not waited for. ``serve`` has its flags only when it is alone.
    """
    app = typer.Typer(
        help=SUMMARY,
        epilog=examples(EXAMPLES),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    for name in [verb] if verb in VERBS else VERBS:
        module = import_module(f"stat7store.cli.{VERBS[name]}")
        if verb == "serve":
            module.add_with_flags(app)
        else:
            module.add_to(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - takes as long to import as all of the help

        missing = compiled.missing()
        without = f" (without its compiled parts: {', '.join(missing)})" if missing else ""
        print(f"stat7store {version('stat7store')}{without}")
        raise typer.Exit


def _common(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", metavar="", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...
