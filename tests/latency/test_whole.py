"""The latency test as a whole, on real servers, and its commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from stat7store.address import Address
from stat7store.cli import main
from stat7store.errors import Malformed
from stat7store.folder import make_folder
from stat7store.latency import LatencyTest, Plan, Report, Run
from stat7store.latency.cold import evict
from stat7store.latency.dataset import build_in_folder, image_maker, movie_maker
from stat7store.latency.report import PARTS, TOTAL
from stat7store.latency.serving import blob_paths
from storage.linux import Linux, is_begun_in_memory
from tests.disks import is_on_disk
from tests.house.project import ROOT, plain_environment
from tests.running import RunningServer

CHROMIUM = "/usr/bin/chromium"


async def carried_out(plan: Plan) -> Report:
    """The report of a plan."""
    runs: list[Run] = []
    report = await LatencyTest(plan, lambda line: None, runs.append).run()
    assert report.runs == runs
    return report


def script(name: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a script of the project did."""
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=plain_environment(COLUMNS="200"), check=False, capture_output=True, text=True
    )


async def test_every_stage_is_known(samples: Path, tmp_path: Path) -> None:
    """Every retrieval is joined with the server's record, its bytes are verified, and the parts make up the total."""
    plan = Plan(
        data=tmp_path / "data",
        workers=2,
        images=(40,),
        movies=4,
        samples=samples,
        concurrency=(1, 4),
        rates=(200.0,),
        connections=8,
        range_bytes=10_000,
        temperatures=("warm", "cold"),
        requests=60,
    )
    report = await carried_out(plan)
    assert len(report.runs) == 2 * (1 + 2 * 3)
    for run in report.runs:
        assert not run.errors
        assert run.joined == run.requests == run.stages[TOTAL].count > 0
        assert run.verified == run.requests
        parts = sum(run.stages[part].mean_ms for part in PARTS)
        assert parts == pytest.approx(run.stages[TOTAL].mean_ms, rel=1e-6)
        assert sum(run.stages[part].share or 0.0 for part in PARTS) == pytest.approx(1)
        assert run.usage.server_memory
        assert run.usage.server_cpu_s is not None
        assert sum(moment.count for moment in run.over_time) == run.requests
        if run.temperature == "cold":
            assert run.evicted is not None  # how many pages leave is the kernel's choice; what it chose is reported
            assert any("not all cold" in note for note in run.notes) == (run.evicted <= 0.99)
            assert run.requests <= run.file_count
    if is_on_disk(tmp_path):
        assert max(run.evicted or 0.0 for run in report.runs) > 0.99
    first = report.runs[0]
    assert (first.choice, first.requests, first.verified) == ("each", 40, 40)


async def test_files_leave_the_page_cache(samples: Path, tmp_path: Path) -> None:
    """The files asked for leave, all of them and no other, if nobody uses them: others may want memory or the disk."""
    if not is_on_disk(tmp_path):
        pytest.skip("the temporary folder is in memory")
    data = tmp_path / "data"
    await build_in_folder(data, image_maker(samples), 20, "image", lambda done: None)
    paths = list(blob_paths(data))
    dropped, kept = paths[:10], paths[10:]
    out = 0.0
    for _ in range(20):
        os.sync()
        assert all(path.read_bytes() for _, path in paths)
        if not all(is_resident(path) for _, path in paths):
            continue
        out = evict(data, [Address.parse(address) for address, _ in dropped])
        if out == 1.0 and not any(is_resident(path) for _, path in dropped) and is_resident(kept[0][1]):
            return
    pytest.fail(f"of the files asked for {out:.0%} left in the last try")


def is_resident(path: Path) -> bool:
    """Whether memory holds the first page of a file."""
    with path.open("rb") as file:
        return is_begun_in_memory(file.fileno())


@pytest.mark.parametrize("knows_cachestat", [True, False])
def test_what_is_in_memory_is_not_called_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_cachestat: bool
) -> None:
    """Files that nobody dropped do not count as out, also where the kernel lacks cachestat (before Linux 6.5)."""
    if not knows_cachestat:
        monkeypatch.setattr(Linux, "_lacking", lambda *_: None)
    make_folder(tmp_path / "data")
    path = tmp_path / "data" / "blobs" / "000" / f"{'0' * 64}.{'1' * 16}"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(10_000))
    monkeypatch.setattr("stat7store.latency.cold._drop", lambda path: None)
    monkeypatch.setattr("stat7store.latency.cold._WAITS_S", ())
    for _ in range(20):  # others may want the memory just then
        path.read_bytes()
        if (out := evict(tmp_path / "data", [Address.parse("0" * 64)])) == 0.0:
            return
    pytest.fail(f"{out:.0%} of what was just read counts as out")


async def test_more_than_the_server_remembers(samples: Path, tmp_path: Path) -> None:
    """A run of more requests than the server keeps records of still has the record of every one."""
    plan = Plan(
        data=tmp_path / "data",
        workers=1,
        images=(20,),
        samples=samples,
        concurrency=(16,),
        requests=10_500,
        each_first=False,
    )
    (run,) = (await carried_out(plan)).runs
    assert run.joined == run.requests == 10_500
    assert not run.errors


async def test_altered_bytes_are_errors(samples: Path, tmp_path: Path) -> None:
    """A file that was altered on the disk is told as an error, and the others are not."""
    data = tmp_path / "data"
    await build_in_folder(data, image_maker(samples), 10, "image", lambda done: None)
    _, path = next(blob_paths(data))
    altered = bytearray(path.read_bytes())
    altered[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(altered)
    plan = Plan(data=data, workers=1, images=(10,), samples=samples, concurrency=(), requests=10)
    (run,) = (await carried_out(plan)).runs
    assert run.errors == {"wrong bytes": 1}
    assert run.verified == 9


async def test_a_running_server(samples: Path, server: RunningServer) -> None:
    """Against a server whose folder is not known: files go in over HTTP or are taken from it, and cold is refused."""
    plan = Plan(
        server=server.url,
        images=(12,),
        samples=samples,
        concurrency=(2,),
        temperatures=("warm", "cold"),
        writes=30,
        requests=50,
    )
    report = await carried_out(plan)
    check, warm, cold = report.runs
    assert report.error_count == 0
    assert check.verified == 12
    assert 0 < warm.writes < 50
    assert warm.joined == 50 - warm.writes
    assert "not cold" in cold.notes[0]
    taken = await carried_out(Plan(server=server.url, from_store=1000, concurrency=(1,), requests=5))
    assert taken.runs[0].file_count == 12  # what the mixed load had uploaded is gone
    assert taken.error_count == 0


async def test_a_plan_without_files_is_refused() -> None:
    """Nothing to ask for, or no store to take it from, is told before anything is started."""
    for plan in (Plan(), Plan(from_store=5)):
        with pytest.raises(Malformed, match="no "):
            await carried_out(plan)


async def test_files_are_real_and_distinct(samples: Path, tmp_path: Path) -> None:
    """Images decode, movies have their size, no two are alike, and building again adds nothing."""
    data = tmp_path / "data"
    images = await build_in_folder(data, image_maker(samples), 300, "image", lambda done: None)
    movies = await build_in_folder(data, movie_maker(samples, 1_500_000), 3, "movie", lambda done: None)
    assert len({target.address for target in images + movies}) == 303
    assert [target.size for target in movies] == [1_500_000] * 3
    assert await build_in_folder(data, image_maker(samples), 300, "image", lambda done: None) == images
    kept = list(blob_paths(data))
    assert len(kept) == 303
    paths = dict(kept)
    for target in images[::7]:
        with Image.open(io.BytesIO(paths[str(target.address)].read_bytes())) as picture:
            picture.load()


def test_the_command(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb prints the breakdown, writes what it was asked for, and compares two reports."""
    told = tmp_path / "report.json"
    arguments = ["latency", "--images=10", f"--samples={samples}", "--concurrency=1", "--requests=20", "--workers=1"]
    outputs = [f"--json={told}", f"--html={tmp_path / 'report.html'}", f"--results={tmp_path / 'results.md'}"]
    assert main([*arguments, *outputs]) == 0
    shown = capsys.readouterr().out
    for word in ("queue", "index", "metadata", "disk", "network", "client", "total", "0 errors"):
        assert word in shown
    assert json.loads(told.read_bytes())["runs"][0]["verified"] == 10
    assert "Retrieval latency" in (tmp_path / "results.md").read_text()
    assert list((tmp_path / "results").glob("*.svg"))
    assert main(["latency", "--compare", str(told), str(told)]) == 0
    assert "same" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", ["--mix=70", "--mix=0/100", "--range=1x", "--concurrency=a", "--rate=-1", "--choice=best", "--images=0"]
)
def test_wrong_usage(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not understood is refused in one line, with exit code 2."""
    assert main(["latency", "--images=5", wrong]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_script_tells_of_errors(samples: Path, tmp_path: Path) -> None:
    """scripts/latency_test.py runs tiny, and its exit code is 1 as soon as one file came back wrong."""
    arguments = [f"--data={tmp_path / 'data'}", "--images=5", f"--samples={samples}", "--concurrency=1", "--requests=5"]
    done = script("latency_test.py", arguments)
    assert done.returncode == 0, done.stderr
    _, path = next(blob_paths(tmp_path / "data"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = script("latency_test.py", arguments)
    assert done.returncode == 1
    assert "wrong bytes: 1" in done.stdout


def test_phase1_runs_tiny(tmp_path: Path) -> None:
    """scripts/phase1_stress.py runs at a tiny scale and writes its tables and charts."""
    results = tmp_path / "results.md"
    arguments = ["--scale=200,400", "--seconds=0.05", "--parallel=1,2", f"--results={results}"]
    done = script("phase1_stress.py", arguments)
    assert done.returncode == 0, done.stderr
    text = results.read_text()
    assert "| 200 |" in text
    assert "processes: 2" in text
    assert "without its copy" in text
    assert (tmp_path / "results" / "phase1-lookups.svg").is_file()


@pytest.mark.real
def test_the_page_asks_for_nothing(samples: Path, tmp_path: Path) -> None:
    """Chromium shows the report with all its charts, asks nobody for anything, and has nothing to complain of."""
    page_path = tmp_path / "report.html"
    arguments = ["--images=5,10", f"--samples={samples}", "--concurrency=1,2", "--requests=20", f"--html={page_path}"]
    assert main(["latency", *arguments]) == 0
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            backgrounds = set()
            for scheme in ("light", "dark"):
                page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light")
                page.on("request", lambda request: asked.append(request.url))
                page.on("console", lambda message: said.append(message.text))
                page.goto(page_path.as_uri())
                assert page.locator("svg").count() == 2 * 3 + 2
                backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert len(backgrounds) == 2
        finally:
            browser.close()
    assert set(asked) == {page_path.as_uri()}
    assert said == []
