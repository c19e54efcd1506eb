"""A program that holds a catalog's write lock until it is killed: ``python -m tests.holder FOLDER [flood]``."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb


@contextmanager
def holder(catalog: Path, *, flood: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run the program for the length of the context; the lock is held then, by its only thread.

    A line to its standard input has it commit and begin anew; it answers with a line. With ``flood`` it
    has one transaction after the other instead, and changes nothing in any.
    """
    command = [sys.executable, "-m", "tests.holder", str(catalog), *(["flood"] if flood else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == f"{program.pid}\n"
            yield program
        finally:
            program.kill()


def commit_and_hold(program: subprocess.Popen[str]) -> None:
    """Have the program commit, and take the lock anew."""
    assert program.stdin is not None
    assert program.stdout is not None
    print("commit", file=program.stdin, flush=True)
    assert program.stdout.readline()


def main() -> None:
    """Hold the lock; commit for each line that comes."""
    with lmdb.open(sys.argv[1], max_dbs=64) as environment:
        database = environment.open_db(b"held by a test")
        if sys.argv[2:] == ["flood"]:
            print(threading.get_native_id(), flush=True)
            while True:
                with environment.begin(write=True):
                    time.sleep(random.uniform(0.0005, 0.0015))  # never in step with who looks
                time.sleep(0.01)  # so long that who looks, a hundred times in all, finds it free some time
        while True:
            with environment.begin(database, write=True) as transaction:
                transaction.put(b"a", b"b")
                print(threading.get_native_id(), flush=True)
                if not sys.stdin.readline():
                    return


if __name__ == "__main__":
    main()
