"""Fixtures that tests of every package share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings

from storage.s3_options import S3Options
from tests.faults.reliability import Reliability
from tests.leftovers import Leftovers
from tests.running import RunningServer
from tests.s3_servers import S3Server, moto, rgw

ROOT = Path(__file__).parent.parent
RGW_TIMEOUT_S = 1800

settings.register_profile("shared machine", deadline=None)  # other load must not fail an example
settings.load_profile("shared machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or Ctrl-C would reach none of the programs tested


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--soak``, and ``--reliability`` for its report."""
    parser.addoption("--soak", action="store_true", help="run the long forms of the tests, at their full numbers")
    parser.addoption(
        "--reliability", type=Path, help="keep what the fault plan found in this file, a line for each row"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Have the folders of tests that passed deleted."""
    config.pluginmanager.register(Leftovers())


def uses_rgw(item: pytest.Item) -> bool:
    """Whether a test talks to a RADOS Gateway: the first one in each process also waits for its start."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return "rgw_server" in getattr(item, "fixturenames", ()) or parameters.get("s3_server") == "rgw"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a RADOS Gateway time to start. In CI, run a test that talks to real programs or takes long once more.

    That is if it fails; every rerun is listed.
    """
    for item in items:
        if uses_rgw(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(RGW_TIMEOUT_S))
    if os.environ.get("CI") == "true":
        for item in items:
            if item.get_closest_marker("real") or item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that failed once and passed when run again: each is a defect of the test, to be mended."""
    if rerun := terminalreporter.getreports("rerun"):
        terminalreporter.section("run again, to be mended")
        for report in rerun:
            terminalreporter.line(f"RERUN {report.nodeid}")
            terminalreporter.line(report.longreprtext)
            for title, text in report.sections:
                terminalreporter.line(f"{title}\n{text}")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No cyclic garbage is collected during the test: what earlier ones left would count as its own."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full numbers."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def reliability(request: pytest.FixtureRequest) -> Reliability:
    """Where the fault plan's tests put their rows."""
    return Reliability(request.config.getoption("--reliability"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real photographs and clips (``make samples``)."""
    subprocess.run([sys.executable, str(ROOT / "scripts" / "fetch_samples.py")], check=True, stdout=subprocess.DEVNULL)
    return ROOT / ".cache" / "samples"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module once for each of its ``BACKENDS``, if it names some and they use a server."""
    backends = getattr(metafunc.module, "BACKENDS", None)
    scopes: tuple[tuple[str, Literal["module", "function"]], ...] = (("server", "module"), ("bucket", "function"))
    for name, scope in scopes:
        if backends and name in metafunc.fixturenames:
            metafunc.parametrize(name, backends, indirect=True, scope=scope)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server with two workers, shared by the tests of one module."""
    data = tmp_path_factory.mktemp("server") / "data"
    with bucket_on(request) as bucket, RunningServer(data, bucket=bucket) as running:
        yield running


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Iterator[S3Options | None]:
    """Where a server of the test's own is to put its blobs: a new bucket, or None for files."""
    with bucket_on(request) as bucket:
        yield bucket


@contextmanager
def bucket_on(request: pytest.FixtureRequest) -> Iterator[S3Options | None]:
    """Make a bucket if the fixture's parameter is ``s3``."""
    if getattr(request, "param", "filesystem") == "filesystem":
        yield None
        return
    moto: S3Server = request.getfixturevalue("moto_server")
    with moto.bucket() as bucket:
        yield bucket


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto's S3 server."""
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def rgw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A RADOS Gateway; each process that runs tests has its own."""
    with rgw(tmp_path_factory.mktemp("rgw") / "cluster") as server:
        yield server


@pytest.fixture(params=["moto", pytest.param("rgw", marks=pytest.mark.real)], scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the S3 servers."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server
