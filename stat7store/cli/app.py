"""The verbs put together, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from stat7store.cli import (
    address,
    get,
    importing,
    info,
    latency,
    ls,
    migrate,
    put,
    rebuild,
    rm,
    serve,
    stats,
    verify,
)
from stat7store.cli.failing import report
from stat7store.cli.options import examples
from stat7store.errors import Malformed, Stat7Error

SUMMARY = """Keep images and movies by what they are, and see where the time of each retrieval goes.

A file's address is the SHA-256 of its bytes.
"""
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
    try:
        # the flags of serve are made of the settings, which take long to import
        make_app(flags_of_serve=given[:1] == ["serve"])(args=given, prog_name="stat7store")
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


def make_app(*, flags_of_serve: bool) -> typer.Typer:
    """Return the whole command; without ``flags_of_serve`` that verb takes none, and is quick to make."""
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
    serve.add_to(app, flags=flags_of_serve)
    for verb in (address, put, importing, get, info, ls, rm, stats, migrate, verify, rebuild, latency):
        verb.add_to(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stat7store {version('stat7store')}")
        raise typer.Exit


def _common(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", metavar="", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...
