"""Starting, stopping, dying and coming back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from storage.s3_options import S3Options
from tests.media import large_mp4
from tests.running import RunningServer, wait_until

BACKENDS = ("filesystem", "s3")


def upload(url: str, data: bytes) -> int:
    """Upload over a connection of its own; return the status."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/v1/files", body=data)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def fetch(url: str, address: str) -> bytes:
    """Fetch a file whole, over a connection of its own."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", f"/v1/files/{address}")
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def workers_of(server: RunningServer) -> list[psutil.Process]:
    """The processes that serve: they say who they are."""
    return [psutil.Process(worker["pid"]) for worker in stats_of(server)["workers"]]


def stats_of(server: RunningServer) -> dict[str, Any]:
    """Ask for the statistics, over a connection of its own."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", "/v1/stats")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path, samples: Path, bucket: S3Options | None) -> None:
    """Stop, start, fetch again: the same bytes, and the exit code of a graceful stop is 0."""
    data = (samples / "astronaut.png").read_bytes()
    server = RunningServer(tmp_path / "data", bucket=bucket).start()
    assert upload(server.url, data) == 201
    assert server.stop() == 0
    with server:
        assert fetch(server.url, hashlib.sha256(data).hexdigest()) == data
        assert upload(server.url, data) == 200


async def until_refused(port: int) -> None:
    """Connect again and again until nobody listens any more."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it listened still, and did not accept any more
                continue
            writer.transport.abort()
            await asyncio.sleep(0.02)


async def test_a_graceful_stop_finishes_what_is_in_flight(
    tmp_path: Path, samples: Path, bucket: S3Options | None
) -> None:
    """SIGTERM lets a download and an upload in flight end well, and takes no new connections."""
    large_mp4(tmp_path / "clip.mp4", 40_000_000)
    clip = (tmp_path / "clip.mp4").read_bytes()
    photo = (samples / "astronaut.png").read_bytes()
    begun, halfway = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.set()  # the server has asked for it by 100 Continue: so it is in flight
        yield photo[:400_000]
        await halfway.wait()
        yield photo[400_000:]

    with RunningServer(tmp_path / "data", bucket=bucket) as server:
        assert await asyncio.to_thread(upload, server.url, clip) == 201
        async with aiohttp.ClientSession(server.url, read_bufsize=64 * 1024) as client:
            uploading = asyncio.create_task(client.post("/v1/files", data=slowly(), expect100=True))
            await begun.wait()
            async with client.get(f"/v1/files/{hashlib.sha256(clip).hexdigest()}") as response:
                received = await response.content.readexactly(1_000_000)
                server.process.send_signal(signal.SIGTERM)
                await until_refused(int(server.url.rpartition(":")[2]))
                received += await response.content.read()
            assert received == clip
            halfway.set()
            async with await uploading as response:
                assert response.status == 201
        assert await asyncio.to_thread(server.stop) == 0
    with server:
        assert await asyncio.to_thread(fetch, server.url, hashlib.sha256(photo).hexdigest()) == photo


def test_a_dead_worker_is_replaced(tmp_path: Path, samples: Path, bucket: S3Options | None) -> None:
    """A worker that is killed is replaced, and the others serve meanwhile."""
    data = (samples / "chelsea.png").read_bytes()
    with RunningServer(tmp_path / "data", workers=2, bucket=bucket) as server:
        assert upload(server.url, data) == 201
        before = workers_of(server)
        assert len(before) == 2
        before[0].kill()
        wait_until(lambda: _restarts(server) == 1)
        assert before[0] not in workers_of(server)
        for _ in range(20):
            assert fetch(server.url, hashlib.sha256(data).hexdigest()) == data
        assert '"status": "SIGKILL"' in server.log


def _restarts(server: RunningServer) -> int:
    try:
        return int(stats_of(server)["workers"][0]["restarts"])
    except OSError:  # the connection had been given to the worker that died
        return 0


def test_a_dead_janitor_is_replaced(tmp_path: Path) -> None:
    """The janitor is replaced too."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        (janitor,) = set(server.processes) - set(workers_of(server)) - {server.process}
        janitor.kill()
        wait_until(lambda: len(server.processes) == 3 and janitor not in server.processes)


def test_workers_do_not_outlive_the_supervisor(tmp_path: Path) -> None:
    """When the supervisor is killed, workers and janitor end by themselves, and the folder is free again."""
    server = RunningServer(tmp_path / "data").start()
    family = server.processes
    server.process.kill()
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert not alive
    server.kill()
    server.start()
    assert server.stop() == 0


def test_workers_at_their_start_do_not_outlive_the_supervisor(tmp_path: Path) -> None:
    """When the supervisor is killed just after it began its first processes, they end too, before they serve."""
    for number in range(3):
        command = [sys.executable, "-m", "stat7store", "serve", f"--data={tmp_path / str(number)}", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as supervisor:
            children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
            while len(children.read_text().split()) < 2:  # without a pause; one alone is the look at the catalog
                assert supervisor.poll() is None
            begun = psutil.Process(supervisor.pid).children()
            supervisor.kill()
            _, alive = psutil.wait_procs(begun, timeout=30)
            assert not alive


def serve_in_vain(*flags: str) -> str:
    """Run a server that must not start; return what it says."""
    result = subprocess.run(
        [sys.executable, "-m", "stat7store", "serve", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    """A second server on the same folder is refused and says why."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        assert "another server is running" in serve_in_vain("--data", str(server.data), "--port=0")


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    """A port that someone else listens on is refused by name, with what to do."""
    with RunningServer(tmp_path / "data", workers=1) as server:
        port = server.url.rpartition(":")[2]
        said = serve_in_vain("--data", str(tmp_path / "other"), f"--port={port}")
        assert f"port {port}" in said


def test_other_interfaces_need_open(tmp_path: Path) -> None:
    """Without --open nothing but loopback is served; with it, any host name is answered."""
    assert "--open" in serve_in_vain("--data", str(tmp_path / "data"), "--host=0.0.0.0", "--port=0")
    with RunningServer(tmp_path / "data", "--host=0.0.0.0", "--open", workers=1) as server:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connection.request("GET", "/healthz", headers={"Host": "store.example"})
        assert connection.getresponse().status == 200
        connection.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder that holds other files is refused, and nothing is put into it."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    assert "holds no STAT7 store" in serve_in_vain("--data", str(tmp_path / "photos"), "--port=0")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
