"""A real browser on a real server, and the watch that every visit of the page is under."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect, sync_playwright

from tests.running import RunningServer, wait_until

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 60_000  # on a busy machine; what comes sooner is not waited for
expect.set_options(timeout=_PATIENCE_MS)


class Shop:
    """The server's files as seen by a client that is not the page."""

    def __init__(self, server: RunningServer, samples: Path) -> None:
        self.url = server.url
        self.samples = samples

    def add(self, name: str, called: str | None = None) -> str:
        """Store a sample under a file name; return its address."""
        return self.add_bytes((self.samples / name).read_bytes(), called or name)

    def add_bytes(self, body: bytes, called: str) -> str:
        """Store these bytes under a file name; return their address."""
        head = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(called, safe='')}"}
        answer = json.loads(self._ask("POST", "/v1/files", body, head))
        return str(answer["address"])

    def names(self) -> list[str]:
        """The names of all files, newest first (at most 1,000)."""
        return [file["filename"] for file in self._files()]

    def addresses(self) -> list[str]:
        """The addresses of all files, newest first (at most 1,000)."""
        return [file["address"] for file in self._files()]

    def count(self) -> int:
        """How many files there are."""
        return int(json.loads(self._ask("GET", "/v1/stats"))["files"])

    def timing(self, request_id: str) -> dict[str, object]:
        """The server's record of one retrieval, which is there a moment after its last byte has come."""
        record: dict[str, object] = {}

        def is_there() -> bool:
            try:
                record.update(json.loads(self._ask("GET", f"/v1/timings/{request_id}")))
            except HTTPError as error:
                if error.code != 404:
                    raise
            return bool(record)

        wait_until(is_there)
        return record

    def clear(self) -> None:
        """Delete everything."""
        while addresses := self.addresses():
            for address in addresses:
                self._ask("DELETE", f"/v1/files/{address}")

    def _files(self) -> list[dict[str, str]]:
        files: list[dict[str, str]] = json.loads(self._ask("GET", "/v1/files?limit=1000"))["files"]
        return files

    def _ask(self, method: str, path: str, body: bytes | None = None, head: dict[str, str] | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, head or {}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())


class Visit:
    """One visit of the page in a fresh browser profile, watched for errors and for foreign requests."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.allowed: tuple[str, ...] = ()
        self.asked: list[str] = []
        self._complaints: list[str] = []
        self.page.set_default_timeout(_PATIENCE_MS)
        self.page.on("console", lambda said: self._complaints.append(said.text) if said.type != "log" else None)
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _dismiss(self, dialog: Dialog) -> None:
        self._complaints.append(f"a dialog ({dialog.type}): {dialog.message}")
        dialog.dismiss()

    def open(self, fragment: str = "") -> Page:
        """Go to the page and wait until it shows the list or says that there is none."""
        self.page.goto(f"{self.url}/{fragment}")
        self.page.locator("#grid:not([aria-busy]):not(:empty), #empty:visible, #unmatched:visible").first.wait_for(
            state="attached"
        )
        return self.page

    def upload(self, *files: Path | str) -> None:
        """Choose files by the file chooser that the button opens."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Add files").click()
        chooser.value.set_files([str(file) for file in files])

    def drop(self, *files: Path) -> None:
        """Drag real files or folders from outside onto the page and let go of them there."""
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": step, "x": 200, "y": 300, "data": data})
        session.detach()

    def row(self, name: str) -> Locator:
        """The tray's row of an upload."""
        return self.page.locator(".upload").filter(has=self.page.get_by_text(name, exact=True))

    def tile(self, name: str) -> Locator:
        """The link of a file in the gallery."""
        return self.page.locator(".tile a").filter(has=self.page.get_by_text(name, exact=True))

    def expect_complaint(self, *parts: str) -> None:
        """Allow console messages that contain one of these: the browser logs every failed request itself."""
        self.allowed = parts

    def check(self) -> None:
        """Fail if the console complained or anything was asked of another host."""
        unexpected = [text for text in self._complaints if not any(part in text for part in self.allowed)]
        assert not unexpected, unexpected
        host = urlsplit(self.url).netloc
        assert {urlsplit(url).netloc for url in self.asked if not url.startswith("blob:")} <= {host}


class Visitor:
    """Opens visits, and checks all of them at the end."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._visits: list[tuple[Visit, BrowserContext]] = []

    def __call__(
        self, width: int = 1280, height: int = 800, scheme: Literal["light", "dark"] = "light", **more: list[str]
    ) -> Visit:
        """Begin a visit in a window of that size (CSS pixels)."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            permissions=more.get("permissions"),
            reduced_motion="reduce",
        )
        visit = Visit(context, self._url)
        self._visits.append((visit, context))
        return visit

    def close(self) -> None:
        """End all visits; fail if one saw what must not be."""
        for _, context in self._visits:
            context.close()
        for visit, _ in self._visits:
            visit.check()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. One a module: the driver's event loop must not outlive the tests that use it."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS, timeout=2 * _PATIENCE_MS)
        yield chromium
        chromium.close()


@pytest.fixture
def shop(server: RunningServer, samples: Path) -> Shop:
    """The module's server, emptied."""
    shop = Shop(server, samples)
    shop.clear()
    return shop


@pytest.fixture
def visitor(browser: Browser, shop: Shop) -> Iterator[Visitor]:
    """Opens watched visits of the page."""
    visitor = Visitor(browser, shop.url)
    yield visitor
    visitor.close()
