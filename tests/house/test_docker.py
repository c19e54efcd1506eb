"""The image and the compose file, held against the project; the image's steps run without an engine.

They read docker/Dockerfile and docker/compose.yml, make the very build context that an
engine would be sent, run the build stage's own commands in it, and start what comes out with the
image's own environment, health check and stop signal.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from stat7store.settings import DEFAULT_PORT, Settings, load_settings
from tests.house.dockerfile import Stage, is_sent, parse
from tests.house.project import BIN, ROOT, fetch, free_port, pip, plain_environment, read, running

IGNORED = read("docker/Dockerfile.dockerignore")
PREFIX = "/opt/stat7store"


@pytest.fixture(scope="module")
def build() -> Stage:
    """The stage in which the wheel is built."""
    return parse(read("docker/Dockerfile"))[0]


@pytest.fixture(scope="module")
def image() -> Stage:
    """The stage that becomes the image."""
    return parse(read("docker/Dockerfile"))[-1]


@pytest.fixture(scope="module")
def service() -> dict[str, object]:
    """The one service of the compose file."""
    services: dict[str, dict[str, object]] = yaml.safe_load(read("docker/compose.yml"))["services"]
    (only,) = services.values()
    return only


def project_files() -> list[str]:
    """Every file that git knows, or would if asked."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(build: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage carried out: its COPYs from what is sent, then its RUNs; returns what stands for PREFIX."""
    source = tmp_path_factory.mktemp("source")
    prefix = tmp_path_factory.mktemp("image") / "stat7store"
    sent = [name for name in project_files() if is_sent(name, IGNORED)]
    environment = plain_environment(PATH=f"{BIN}:{os.environ['PATH']}", PIP=shlex.join(pip()))
    for keyword, arguments in build.instructions:
        if keyword == "COPY":
            *sources, target = shlex.split(arguments)
            copy(sent, sources, source / target)
        elif keyword == "RUN":
            command = arguments.replace(PREFIX, shlex.quote(str(prefix)))
            subprocess.run(["/bin/sh", "-c", command], cwd=source, env=environment, check=True)
    return prefix


def copy(sent: list[str], sources: list[str], target: Path) -> None:
    """What COPY does: files go into the target folder, and of folders their contents."""
    for name in sources:
        for file in sent:
            if file == name:
                place = target / Path(file).name
            elif file.startswith(f"{name}/"):
                place = target / file.removeprefix(f"{name}/")
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place)


def test_what_is_copied_exists_and_is_sent(build: Stage, image: Stage) -> None:
    """Every COPY source is a file or folder of the project that .dockerignore lets through."""
    sent = [name for name in project_files() if is_sent(name, IGNORED)]
    for stage in (build, image):
        for sources, _ in stage.copies():
            for source in sources:
                assert any(file == source or file.startswith(f"{source}/") for file in sent), source


def test_nothing_else_is_sent(build: Stage) -> None:
    """Neither the environment, nor stored data, nor caches, nor anything uncopied go into the build context."""
    for name in (
        ".venv/bin/python",
        "stat7-data/index",
        ".git/HEAD",
        "tests/media.py",
        "storage/__pycache__/a.pyc",
        "storage/_a.cpython.so",
    ):
        assert not is_sent(name, IGNORED), name
    copied = [source for sources, _ in build.copies() for source in sources]
    for name in filter(lambda name: is_sent(name, IGNORED), project_files()):
        assert any(name == source or name.startswith(f"{source}/") for source in copied) or name.endswith(".lock"), name


def test_python_is_one_the_project_wants(build: Stage, image: Stage) -> None:
    """Both stages stand on the same Python, and it is one that pyproject.toml and the tests allow."""
    assert build.base == image.base
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", image.base)
    assert found is not None
    assert found[1] in SpecifierSet(tomllib.loads(read("pyproject.toml"))["project"]["requires-python"])


def test_the_image_has_what_was_built(build: Stage, image: Stage) -> None:
    """The folder that the build stage fills is the one that is copied, and its programs come first on PATH."""
    assert f"--from={build.name} {PREFIX} {PREFIX}" in image.all("COPY")
    assert image.environment()["PATH"].startswith(f"{PREFIX}/bin:")
    assert [PREFIX in command for command in build.all("RUN")] == [False, True, True]  # the compiler stays behind


def test_it_runs_without_root(image: Stage) -> None:
    """The server runs as a fixed user, by number, who owns the data folder."""
    user = image.one("USER")
    assert re.fullmatch(r"([1-9]\d{3,}):\1", user)
    (made,) = image.all("RUN")
    assert f"--uid {user.partition(':')[0]} " in made
    assert f"install --directory --owner=stat7 --group=stat7 {image.one('VOLUME')}" in made


def test_ports_and_folders_are_one(image: Stage) -> None:
    """The port exposed is the one listened on, and the default; the volume is where the data go."""
    environment = image.environment()
    assert image.one("EXPOSE") == environment["STAT7_PORT"] == str(DEFAULT_PORT)
    assert image.one("VOLUME") == environment["STAT7_DATA"]


def test_every_variable_is_a_setting(
    image: Stage, service: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each STAT7_ variable of the image and the compose file is a setting, and takes the value given."""
    given = image.environment() | dict(yaml.safe_load(yaml.safe_dump(service["environment"])))
    given = {name: value for name, value in given.items() if name.startswith("STAT7_")}
    known = {f"STAT7_{name.upper()}" for name in Settings.model_fields}
    assert given.keys() <= known
    monkeypatch.chdir(tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.open) == ("0.0.0.0", True)


def test_it_is_started_and_stopped_without_a_shell(image: Stage) -> None:
    """Entry point and command are in exec form, so that the stop signal reaches the server itself."""
    assert image.one("ENTRYPOINT") == '["stat7store"]'
    assert image.one("CMD") == '["serve"]'
    assert image.one("STOPSIGNAL") == "SIGTERM"
    scripts = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    assert "stat7store" in scripts


def test_the_stages_run(built: Path, image: Stage, tmp_path: Path) -> None:
    """What the stages build serves from an empty folder, is found healthy, shows the page, and stops when told."""
    port = free_port()
    changed = {"STAT7_HOST": "127.0.0.1", "STAT7_PORT": str(port), "STAT7_DATA": str(tmp_path / "data")}
    assert changed.keys() <= image.environment().keys()
    environment = plain_environment(**image.environment() | changed)
    environment["PATH"] = f"{built}/bin:{os.environ['PATH']}"
    command = [*yaml.safe_load(image.one("ENTRYPOINT")), *yaml.safe_load(image.one("CMD"))]
    command[0] = str(built / "bin" / command[0])
    health = [str(built / "bin" / "python"), *image.health_command()[1:]]
    with running(command, port, tmp_path, environment):
        subprocess.run(health, cwd=tmp_path, env=environment, check=True)
        assert fetch(port, "/")[0] == 200
        static = ROOT / "stat7store" / "server" / "static"
        for name in (file.name for file in static.iterdir() if file.is_file()):
            assert fetch(port, f"/static/{name}") == (200, (static / name).read_bytes()), name
    assert subprocess.run(health, cwd=tmp_path, env=environment, check=False, capture_output=True).returncode != 0


def test_nothing_of_the_checkout_is_used(built: Path, tmp_path: Path) -> None:
    """What was built imports from its own folder, compiled parts too, and holds only locked packages."""
    program = (
        "import importlib, stat7store, storage; from storage.compiled import PARTS;"
        "print(stat7store.__file__, storage.__file__, *[importlib.import_module(part).__file__ for part in PARTS])"
    )
    done = subprocess.run(
        [built / "bin" / "python", "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert all(path.startswith(f"{built}/lib/") for path in done.stdout.split())
    installed = subprocess.run(
        [*pip(), "--python", str(built / "bin" / "python"), "check"], check=False, capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stdout


def test_compose_builds_this_project(service: dict[str, object]) -> None:
    """The context and the Dockerfile that the compose file names are this project's."""
    build = service["build"]
    assert isinstance(build, dict)
    context = (ROOT / "docker" / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()


def test_compose_publishes_to_this_machine_only(service: dict[str, object]) -> None:
    """The one port goes to loopback, since nobody is asked who they are."""
    assert service["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]


def test_compose_keeps_the_data(image: Stage, service: dict[str, object]) -> None:
    """The image's volume is a named one, so that it outlives the container."""
    volumes = yaml.safe_load(read("docker/compose.yml"))["volumes"]
    (mounted,) = service["volumes"] if isinstance(service["volumes"], list) else []
    name, _, target = mounted.partition(":")
    assert name in volumes
    assert target == image.one("VOLUME")


def test_compose_lets_the_server_drain(service: dict[str, object]) -> None:
    """The engine waits longer for the server to stop than the server waits for what is in flight."""
    environment = service["environment"]
    assert isinstance(environment, dict)
    grace = re.fullmatch(r"(\d+)s", str(service["stop_grace_period"]))
    assert grace is not None
    assert int(grace[1]) >= float(environment["STAT7_DRAIN_TIMEOUT"]) + 10
    assert float(environment["STAT7_DRAIN_TIMEOUT"]) == Settings.model_fields["drain_timeout"].default


def test_compose_gives_no_rights_away(service: dict[str, object]) -> None:
    """No capability, no new privileges, nothing writable but the data and /tmp; enough files may be open."""
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"nofile": 65536}
    assert service["restart"] == "unless-stopped"
