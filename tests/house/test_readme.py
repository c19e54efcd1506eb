"""README.md tells the truth: what it names exists, and what it shows is run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from scripts import settings_table
from stat7store.settings import Settings
from tests.house.project import BIN, ROOT, plain_environment, read
from tests.house.readme import Readme
from tests.house.test_makefile import targets
from tests.running import RunningServer

EXAMPLE = """# Example

<!-- run -->
```sh
curl -s localhost:7377/healthz > answer
```

Then `make serve` or `make test`, see [design](docs/design.md#picture) and [there](https://example.org/x).

```sh
stat7store put photo.jpg   # not run; writes storage/base.py
```

<!-- run -->

```sh
cat answer
```
"""


@pytest.fixture(scope="module")
def readme() -> Readme:
    """The project's README.md."""
    return Readme(read("README.md"))


def help_of(*words: str) -> str:
    """What `stat7store … --help` prints, wide enough for nothing to be cut."""
    done = subprocess.run(
        [BIN / "stat7store", *words, "--help"],
        env=plain_environment(COLUMNS="400", NO_COLOR="1", TERM="dumb"),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_how_a_readme_is_read() -> None:
    """Marked blocks become one script in order; names are taken from code and links alone."""
    example = Readme(EXAMPLE)
    assert example.script == "curl -s localhost:7377/healthz > answer\n\ncat answer\n"
    assert example.targets == {"serve", "test"}
    assert example.verbs == {"put"}
    assert example.paths == {"docs/design.md", "storage/base.py"}


def test_a_mark_without_a_block_is_an_error() -> None:
    """A mark that nothing runnable follows is noticed rather than passed over."""
    for text in ("<!-- run -->\nSee:\n```sh\ntrue\n```\n", "<!-- run -->\n```json\n{}\n```\n"):
        with pytest.raises(ValueError, match="directly before"):
            _ = Readme(text).script


def test_the_table_of_settings_is_replaced_between_its_marks() -> None:
    """Writing the table leaves the rest of the file alone, and a file without marks is refused."""
    marked = f"before\n{settings_table.START}old\n{settings_table.END}after\n"
    written = settings_table.put_into(marked)
    assert written == f"before\n{settings_table.START}\n{settings_table.table()}\n{settings_table.END}after\n"
    assert settings_table.put_into(written) == written
    with pytest.raises(ValueError, match="there is not one"):
        settings_table.put_into("no marks")


def test_every_setting_has_its_row() -> None:
    """The table has each setting once, with flag, variable, key, default and a sentence."""
    rows = [line.strip("| \n").split(" | ") for line in settings_table.table().splitlines()[2:]]
    assert [row[2] for row in rows] == [f"`{name}`" for name in Settings.model_fields]
    assert [row[1] for row in rows] == [f"`STAT7_{name.upper()}`" for name in Settings.model_fields]
    for row in rows:
        assert len(row) == 5
        assert row[4].endswith(".")


def test_every_setting_is_a_flag() -> None:
    """`stat7store serve` takes each setting as the flag that the table names."""
    told = help_of("serve")
    for name, field in Settings.model_fields.items():
        flag = settings_table.flag(name, field)
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", told), flag


def test_the_readme_has_the_table(readme: Readme) -> None:
    """README.md has the table of settings as they are; `scripts/settings_table.py --write README.md` mends it."""
    assert settings_table.put_into(readme.text) == readme.text


def test_what_the_readme_names_exists(readme: Readme) -> None:
    """Every make target, every verb of the command, every path and every link in README.md is real."""
    assert readme.targets - targets().keys() == set()
    assert [path for path in sorted(readme.paths) if not (ROOT / path).exists()] == []
    commands = help_of()
    assert [verb for verb in sorted(readme.verbs) if not re.search(rf"^\W+{verb}\b", commands, re.MULTILINE)] == []


def test_the_readme_has_both_commands(readme: Readme) -> None:
    """A newcomer finds how to run it and how to test it."""
    assert {"serve", "test"} <= readme.targets


@pytest.mark.real
def test_what_the_readme_shows_works(readme: Readme, tmp_path: Path) -> None:
    """The blocks marked `<!-- run -->` run, in order, against a fresh server."""
    assert readme.script
    home = tmp_path / "home"
    home.mkdir()
    # an error that the server answers is a failure here, unless it goes away: 503 says to come again
    (home / ".curlrc").write_text("fail-with-body\nretry=5\nretry-all-errors\n")
    for name in (".venv", ".cache", "scripts"):
        (home / name).symlink_to(ROOT / name)
    with RunningServer(tmp_path / "data") as server:
        port = server.url.rpartition(":")[2]
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", readme.script.replace("7377", port)],
            cwd=home,
            env=plain_environment(PATH=f"{BIN}:{os.environ['PATH']}", HOME=str(home)),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout
