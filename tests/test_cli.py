"""The command line, against a real server: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stat7store.address import Address
from stat7store.cli import main, show
from stat7store.cli.app import VERBS, make_app
from stat7store.settings import Settings
from tests.faulty import Network, faulty
from tests.media import distinct_jpeg, distinct_mp4, sample
from tests.running import RunningServer
from tests.test_coordinates import LUCA

LUCA_ADDRESS = "bedf6aee88bcefc23bb767c9fc808b844de49d445cb62634ce66302da1396f0d"


@pytest.fixture(autouse=True)
def surroundings(
    server: RunningServer, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Each command runs in an empty folder of its own, with the module's server as its default."""
    monkeypatch.setenv("STAT7_SERVER", server.url)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    yield


class Ran:
    """What became of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """The lines of the output, each a JSON value."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command: ``run("put", path)``."""
    return Command(capsys)


def photo(number: int, name: str = "") -> Path:
    """A file in the current folder: a valid photograph that no other number has."""
    path = Path(name or f"photo {number}.jpg")
    path.write_bytes(distinct_jpeg(sample("rocket.jpg").read_bytes(), number))
    return path


def stored(run: Command, number: int) -> tuple[str, bytes]:
    """Store a photograph; return its address and bytes. The file itself is removed."""
    path = photo(number)
    data = path.read_bytes()
    address = run("put", path, "--json").json[0]["address"]
    path.unlink()
    return address, data


def test_help_has_examples(run: Command) -> None:
    """Every verb explains itself with examples, for ``-h`` and ``--help`` alike."""
    for verb in ((), *((verb,) for verb in VERBS)):
        long, short = run(*verb, "--help"), run(*verb, "-h")
        assert (long.code, short.code) == (0, 0)
        assert long.out == short.out
        assert "Examples" in long.out
        assert f"stat7store {' '.join(verb)}" in long.out


def test_wrong_usage_is_told(run: Command) -> None:
    """Unknown verbs and flags, and missing arguments, end with code 2 and say what is wrong."""
    for arguments in (("fetch",), ("put",), ("get", "--no-such-flag"), ("ls", "--lineage", "x"), ("ls", "--sort", "x")):
        ran = run(*arguments)
        assert ran.code == 2
        assert ran.err


def test_addresses_are_those_of_sha256sum(run: Command) -> None:
    """``address`` prints for files and standard input what sha256sum prints, and stores nothing."""
    path = photo(1)
    ran = run("address", path, path)
    expected = subprocess.run(["sha256sum", path, path], capture_output=True, text=True, check=True).stdout
    assert (ran.code, ran.out) == (0, expected)
    address = expected.split()[0]
    assert run("address", "--json", path).json == [{"address": address, "file": str(path), "size": path.stat().st_size}]
    assert run("info", address).code == 1


def test_the_address_of_standard_input() -> None:
    """``-`` is standard input, of files and of entities."""
    for flags, given, printed in (
        ([], b"abc", f"{Address.of(b'abc')}  -\n"),
        (["--entity"], json.dumps(LUCA).encode(), f"{LUCA_ADDRESS}  -\n  stat7://void/0/cae85551/genesis?r=1.0"),
    ):
        command = [sys.executable, "-m", "stat7store", "address", *flags, "-"]
        done = subprocess.run(command, input=given, capture_output=True, check=True)
        assert done.stdout.decode().startswith(printed)


def test_addresses_of_entities(run: Command) -> None:
    """``address --entity`` prints the address and the URI of the design's example."""
    Path("luca.json").write_text(json.dumps(LUCA))
    ran = run("address", "--entity", "luca.json")
    assert ran.out == f"{LUCA_ADDRESS}  luca.json\n  stat7://void/0/cae85551/genesis?r=1.0&v=0.0&d=0.0\n"
    assert run("address", "--entity", "--json", "luca.json").json == [
        {"address": LUCA_ADDRESS, "file": "luca.json", "uri": "stat7://void/0/cae85551/genesis?r=1.0&v=0.0&d=0.0"}
    ]


def test_one_bad_file_does_not_hide_the_others(run: Command) -> None:
    """``address`` and ``put`` go on after a file they refuse, name it, and end with code 1."""
    good, text = photo(2), Path("notes.txt")
    text.write_text("just text " * 1000)
    ran = run("address", "missing.jpg", good)
    assert (ran.code, len(ran.out.splitlines())) == (1, 1)
    assert ran.err == "error: missing.jpg: No such file or directory\n"
    Path("bad.json").write_text('{"id": 1}')
    ran = run("address", "--entity", "bad.json")
    assert (ran.code, ran.out) == (1, "")
    assert "bad.json" in ran.err
    ran = run("put", text, "missing.jpg", ".", good, "--json")
    assert ran.code == 1
    assert [file["filename"] for file in ran.json] == [str(good)]
    for told in ("notes.txt: the file was found to be text/plain", "missing.jpg: No such", ".: is a folder", "3 of 4"):
        assert told in ran.err


def test_put_tells_address_and_uri(run: Command) -> None:
    """``put`` prints where each file is and stands, and whether it is new."""
    path = photo(3)
    address = Address.of(path.read_bytes())
    first, again = run("put", path), run("put", path)
    assert first.out == f"{address}  {path}\n  stat7://image/1/cae85551/genesis?r=0.0&v=0.0&d=1.0  112.5 kB, new\n"
    assert again.out.endswith("112.5 kB, already there\n")
    assert (first.code, again.code, first.err) == (0, 0, "")


def test_put_takes_standard_input_and_a_name() -> None:
    """``put -`` stores standard input under the given name; a name is for one file only."""
    data = photo(4).read_bytes()
    command = [sys.executable, "-m", "stat7store", "put", "-", "--name", "piped.jpg", "--json"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    record = json.loads(done.stdout)
    assert (record["address"], record["filename"]) == (str(Address.of(data)), "piped.jpg")
    assert main(["put", "a", "b", "--name", "c"]) == 2


def test_get_keeps_the_stored_name(run: Command) -> None:
    """``get`` writes the file under its own name, verified, and never over another."""
    address, data = stored(run, 5)
    ran = run("get", address)
    assert (ran.code, ran.out) == (0, "photo 5.jpg  112.5 kB, verified\n")
    assert Path("photo 5.jpg").read_bytes() == data
    Path("photo 5.jpg").write_bytes(b"mine")
    ran = run("get", address)
    assert ran.code == 1
    assert "--force" in ran.err
    assert Path("photo 5.jpg").read_bytes() == b"mine"
    assert run("get", address, "--force").code == 0
    assert Path("photo 5.jpg").read_bytes() == data


def test_get_takes_addresses_in_every_form(run: Command) -> None:
    """Hex, ``sha256:`` and ``ni:`` name the same file."""
    address, data = stored(run, 6)
    for number, text in enumerate((address, f"sha256:{address}", Address.parse(address).uri)):
        assert run("get", text, "-o", f"copy {number}").code == 0
        assert Path(f"copy {number}").read_bytes() == data


def test_get_into_a_folder(run: Command) -> None:
    """A folder as output takes the stored name; a file without a name is called by its address."""
    path = photo(7)
    nameless = run("put", path, "--name", "", "--json").json[0]["address"]
    Path("folder").mkdir()
    assert run("get", nameless, "-o", "folder").code == 0
    assert os.listdir("folder") == [nameless]


def test_get_a_range(run: Command) -> None:
    """``--range`` fetches a part, and says which."""
    address, data = stored(run, 8)
    for text, part in (("0-99", data[:100]), ("100-", data[100:]), ("-7", data[-7:])):
        ran = run("get", address, "--range", text, "-o", "part", "-f")
        assert ran.code == 0
        assert Path("part").read_bytes() == part
    assert run("get", address, "--range", "9-1").code == 2
    assert run("get", address, "--range", "999999-", "-o", "never").code == 2
    assert not Path("never").exists()


def test_get_to_standard_output() -> None:
    """``-o -`` writes the bytes and nothing else to standard output."""
    path = photo(9)
    address = Address.of(path.read_bytes())
    assert main(["put", str(path)]) == 0
    command = [sys.executable, "-m", "stat7store", "get", str(address), "-o", "-", "--timings"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == path.read_bytes()
    assert b"network" in done.stderr


def test_get_shows_the_stages(run: Command) -> None:
    """``--timings`` shows each stage of that very retrieval with its share, and what the client saw."""
    address, _ = stored(run, 10)
    ran = run("get", address, "--timings")
    rows = [line.split() for line in ran.out.splitlines() if line]
    names = [row[0] for row in rows]
    assert names[2:9] == ["queue", "index", "metadata", "disk", "network", "other", "total"]
    shares = [float(row[3]) for row in rows[2:8]]
    assert abs(sum(shares) - 100) < 1
    assert "seen from here" in ran.out
    told = run("get", address, "-f", "--timings", "--json").json[0]
    assert told["address"] == told["timing"]["address"] == address
    assert told["timing"]["request_id"] == told["request_id"]


def test_an_unknown_file_is_told(run: Command) -> None:
    """An address under which nothing is stored ends with code 1, a malformed one with code 2, in one line."""
    for verb in ("get", "info"):
        for address, code in (("0" * 64, 1), ("0" * 63, 2), ("../etc/passwd", 2)):
            ran = run(verb, address)
            assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
            assert ran.err.startswith("error: ")
    assert os.listdir() == []


def test_info_tells_all(run: Command) -> None:
    """``info`` shows record and coordinates; its JSON is the record as the API has it."""
    address, data = stored(run, 11)
    out = run("info", address).out
    for told in (address, "photo 11.jpg", "image/jpeg", "genesis", "resonance", "stat7://image/1/"):
        assert told in out
    record = run("info", address, "--json").json[0]
    assert (record["address"], record["size"], record["coordinates"]["lineage"]) == (address, len(data), 1)
    assert "created" not in record


def test_ls_filters_and_pages(run: Command) -> None:
    """``ls`` takes the filters of the API, stops at its limit and says so, and with ``--all`` goes on."""
    movie = Path("listed.mp4")
    movie.write_bytes(distinct_mp4(sample("bikes.mp4").read_bytes(), 1))
    run("put", movie, photo(12, "listed 12.jpg"), photo(13, "listed 13.jpg"), photo(14, "listed 14.jpg"))
    listed = run("ls", "--name", "LISTED", "--realm", "image", "--sort", "stored_at", "--json")
    assert [file["filename"] for file in listed.json] == ["listed 12.jpg", "listed 13.jpg", "listed 14.jpg"]
    assert len(run("ls", "--name", "listed", "--media-type", "video/*", "--json").json) == 1
    few = run("ls", "--name", "listed", "-n", 2, "--json")
    assert len(few.json) == 2
    assert "--all" in few.err
    everything = run("ls", "--name", "listed", "-n", 2, "--all", "--json")
    assert len(everything.json) == 4
    assert everything.err == ""
    assert run("ls", "--name", "listed", "-n", 4).err == ""
    assert "no file matches" in run("ls", "--stored-after", "2999-01-01").err
    assert run("ls", "--stored-after", "someday").code == 2
    assert len(run("ls", "--stored-after", "2020-01-01T00:00+01:00", "--name", "listed", "--json").json) == 4


@pytest.mark.parametrize(
    "flags",
    [
        ("--horizon", "genesis"),
        ("--lineage", "1"),
        ("--resonance-min", "-1", "--resonance-max", "1"),
        ("--velocity-min", "0", "--velocity-max", "0"),
        ("--density-min", "0.5", "--density-max", "1"),
        ("--sort", "-size"),
        ("--stored-before", "2999-01-01"),
    ],
    ids=lambda flags: flags[0],
)
def test_ls_has_every_filter(run: Command, flags: tuple[str, ...]) -> None:
    """Each filter of the API has its flag, and the server takes what the flag sends."""
    run("put", photo(15, "filtered.jpg"))
    assert len(run("ls", "--name", "filtered", *flags, "--json").json) == 1


def test_ls_shows_whole_addresses(run: Command) -> None:
    """In wide and narrow terminals and in pipes, a listed address can be copied whole."""
    path = photo(16, f"{'long name ' * 9}.jpg")
    address = run("put", path, "--json").json[0]["address"]
    for width in (40, 80, 120, 131, 132, 200):
        shown = Console(width=width, file=io.StringIO(), force_terminal=True, highlight=False)
        from stat7store.client.answers import StoredFile, decoded

        file = decoded(run("info", address, "--json").out.encode(), StoredFile)
        show.print_files(shown, [file])
        assert isinstance(shown.file, io.StringIO)
        assert address in shown.file.getvalue() or width < 64
    assert address in run("ls").out


def test_rm_asks_first(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """``rm`` deletes after a yes, and nothing after a no or without anyone to ask."""
    address, _ = stored(run, 17)
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        ran = run("rm", address)
        assert ran.code == 1
        assert "--yes" in ran.err
        assert run("info", address).code == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("rm", address).code == 0
    assert run("info", address).code == 1


def test_rm_goes_on(run: Command) -> None:
    """``rm --yes`` deletes what is there, tells what is not, and refuses malformed addresses beforehand."""
    address, _ = stored(run, 18)
    assert run("rm", "--yes", address, "nonsense").code == 2
    ran = run("rm", "--yes", "0" * 64, address)
    assert ran.code == 1
    assert address in ran.out
    assert "0" * 64 in ran.err
    assert run("info", address).code == 1


def test_stats_has_every_stage(run: Command) -> None:
    """``stats`` shows totals and the percentiles of every stage; ``--json`` the answer of the API."""
    address, _ = stored(run, 19)
    run("get", address)
    out = run("stats").out
    for told in ("realm", "image", "queue", "index", "metadata", "disk", "network", "total", "p99.9"):
        assert told in out
    assert run("stats", "--json").json[0]["stages"]["since_start"]["total"]["count"] >= 1


def test_no_server_is_one_clear_line(run: Command) -> None:
    """Without a server each verb ends with code 1 and one line that says what would help."""
    path = photo(20)
    for arguments in (
        ("put", path),
        ("get", "0" * 64),
        ("info", "0" * 64),
        ("ls",),
        ("rm", "-y", "0" * 64),
        ("stats",),
    ):
        ran = run(*arguments, "--server", "http://127.0.0.1:1")
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "stat7store serve" in ran.err
    assert run("stats", "--server", "localhost:7377").code == 2


def test_serve_has_a_flag_for_each_setting(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is a flag of ``serve``, with its description; one that is on is turned off by its flag."""
    monkeypatch.setenv("COLUMNS", "400")
    shown = run("serve", "--help").out
    for name, field in Settings.model_fields.items():
        assert f"--{'no-' if field.default is True else ''}{name.replace('_', '-')} " in shown
        assert (field.description or "")[1:] in shown


def test_serve_refuses_bad_settings(run: Command) -> None:
    """A bad setting ends with code 2 and names the flag; a server that cannot start ends with code 1."""
    ran = run("serve", "--port", "99999999")
    assert (ran.code, "--port" in ran.err) == (2, True)
    Path("taken").mkdir()
    Path("taken/other.txt").write_text("not a store")
    ran = run("serve", "--data", "taken", "--port", "0")
    assert ran.code == 1
    assert "taken" in ran.err
    assert run("serve", "--config", "missing.toml").code == 2


def test_serve_passes_flags_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given as flags reaches the server as settings, switches in both directions included."""
    from stat7store.server import supervisor

    seen: list[Settings] = []

    def note(settings: Settings) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(supervisor, "serve", note)
    flags = ["--open", "--no-access-log", "--accept", "image/*,audio/*", "--max-upload-size", "1GiB", "--port=8000"]
    assert main(["serve", *flags, "--data", "elsewhere"]) == 0
    assert main(["serve"]) == 0
    given, default = seen
    assert (given.open, given.access_log, given.accept) == (True, False, ["image/*", "audio/*"])
    assert (given.max_upload_size, given.port, given.data) == (2**30, 8000, Path("elsewhere"))
    assert (default.open, default.access_log) == (False, True)


SLOW = {"aiohttp", "aiofiles", "boto3", "hdrh", "lmdb", "PIL", "pydantic_settings", "structlog", "stat7store.settings"}
SLOW_TO_HELP = {*SLOW, "pydantic"}  # which typer itself loads to read what a verb was given
SLOW_TO_BEGIN = {*SLOW_TO_HELP, "rich", "msgspec", "asyncio", "importlib.metadata", "stat7store.record"}


@pytest.mark.parametrize(
    ("program", "slow"),
    [
        ("import stat7store.cli", SLOW_TO_BEGIN),
        ("from stat7store.cli import main; main(['--help'])", SLOW_TO_HELP),
        ("from stat7store.cli import main; main(['put', '--help'])", SLOW),
        (f"from stat7store.cli import main; main(['address', {sys.executable!r}])", SLOW),
        ("import stat7store.server.supervisor", {"rich", "pygments", "boto3"}),
    ],
)
def test_quick_verbs_import_little(program: str, slow: set[str]) -> None:
    """Importing the command loads hardly anything; help and ``address`` load nothing of client, server or settings,
    and a server no colours.
    """
    asked = f"import sys; {program}; print(sorted({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version(run: Command) -> None:
    """``--version`` prints the version of the installed package."""
    ran = run("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "stat7store")
    assert ran.out.split()[1][0].isdigit()


def test_progress_stays_out_of_the_output(tmp_path: Path) -> None:
    """On a terminal progress is shown on standard error, and standard output holds the results alone."""
    path = photo(21)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "stat7store", "put", str(path)]
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(_read_all, leader)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, check=True)
        os.close(follower)
        shown = reading.result(60)
    os.close(leader)
    assert done.stdout.startswith(str(Address.of(path.read_bytes())).encode())
    assert "━".encode() in shown
    assert b"\x1b[" not in done.stdout


def _read_all(leader: int) -> bytes:
    """What is written to a terminal until nobody has it open: a terminal holds 4 KiB, and then its writers wait."""
    shown = b""
    with suppress(OSError):  # EIO is the end
        while data := os.read(leader, 65536):
            shown += data
    return shown


def test_a_terminal_gets_no_binary(tmp_path: Path) -> None:
    """Bytes are not written to a terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "stat7store", "get", "0" * 64, "-o", "-"]
    done = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, check=False)
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


async def test_an_interrupted_get_cleans_up(server: RunningServer, tmp_path: Path) -> None:
    """Ctrl-C ends a retrieval with code 130, without a traceback, and takes its temporary file with it."""
    movie = tmp_path / "movie.mp4"
    movie.write_bytes(distinct_mp4(sample("bigbuckbunny.mp4").read_bytes(), 2))
    address = str(Address.of(movie.read_bytes()))
    put = await asyncio.create_subprocess_exec(sys.executable, "-m", "stat7store", "put", str(movie), stdout=-3)
    assert await put.wait() == 0
    target = tmp_path / "folder"
    target.mkdir()
    network = Network(stall=300_000)
    async with faulty(server.url, network) as url:
        get = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stat7store", "get", address, "--server", url, "-o", str(target)), stderr=-1
        )
        await network.stalled.wait()
        assert len(os.listdir(target)) == 1
        get.send_signal(signal.SIGINT)
        _, err = await get.communicate()
    assert get.returncode == 130
    assert b"Traceback" not in err
    assert os.listdir(target) == []


async def test_altered_bytes_are_refused(server: RunningServer, tmp_path: Path) -> None:
    """A file whose bytes were altered on the way is not kept, and the command fails."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(distinct_jpeg(sample("rocket.jpg").read_bytes(), 22))
    address = Address.of(path.read_bytes())
    put = await asyncio.create_subprocess_exec(sys.executable, "-m", "stat7store", "put", str(path), stdout=-3)
    assert await put.wait() == 0
    async with faulty(server.url, Network(flip=60_000)) as url:
        get = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stat7store", "get", str(address), "--server", url, "-o", "copy.jpg"), stderr=-1
        )
        _, err = await get.communicate()
    assert get.returncode == 1
    assert b"not those of the address" in err
    assert os.listdir(tmp_path) == ["photo.jpg"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (791555, "791.6 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (10**18, "1000.0 PB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    """Sizes are written with one decimal in the unit that fits."""
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0013, "0.0013 ms"), (0.21, "0.210 ms"), (1.31, "1.31 ms"), (12.44, "12.4 ms"), (3210, "3.21 s")],
)
def test_durations(value: float | None, text: str) -> None:
    """Durations are written with the digits that count."""
    assert show.milliseconds(value) == text


def test_the_flags_of_serve_are_made_on_demand() -> None:
    """The whole command is made without them; the verb alone has them."""
    (alone,) = make_app("serve").registered_commands
    whole = make_app().registered_commands
    assert [command.name for command in whole] == list(VERBS)
    assert (alone.name, whole[0].name) == ("serve", "serve")
    assert alone.callback is not None and whole[0].callback is not None
    assert "port" in inspect.signature(alone.callback).parameters
    assert "port" not in inspect.signature(whole[0].callback).parameters


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_can_be_made_alone(verb: str) -> None:
    """Every verb is in the module that the table names, and needs no other."""
    assert [command.name for command in make_app(verb).registered_commands] == [verb]
