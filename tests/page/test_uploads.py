"""Uploads by the page: how files come to it, and what it says becomes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import CDPSession, expect

from tests.media import distinct_png
from tests.page.conftest import Shop, Visitor

pytestmark = pytest.mark.real

STATE = ".state"


def test_a_chosen_file_is_stored_and_shown(visitor: Visitor, shop: Shop) -> None:
    """A file that was chosen ends as stored, stands in the gallery and in the totals, and is in the store."""
    visit = visitor()
    page = visit.open()
    expect(page.get_by_role("heading", name="Nothing is stored yet")).to_be_visible()
    visit.upload(shop.samples / "astronaut.png")
    expect(visit.row("astronaut.png").locator(STATE)).to_have_text("stored")
    expect(visit.tile("astronaut.png")).to_be_visible()
    expect(page.get_by_role("heading", name="Nothing is stored yet")).to_be_hidden()
    expect(page.locator("#totals")).to_have_text("1 file · 792 KB")
    assert shop.names() == ["astronaut.png"]


def test_the_same_bytes_again_are_already_here(visitor: Visitor, shop: Shop, tmp_path: Path) -> None:
    """A second upload of the same bytes under another name says so, and stores nothing."""
    shop.add("chelsea.png")
    copy = tmp_path / "cat.png"
    copy.write_bytes((shop.samples / "chelsea.png").read_bytes())
    visit = visitor()
    visit.open()
    visit.upload(copy)
    expect(visit.row("cat.png").locator(STATE)).to_have_text("already here")
    expect(visit.page.locator(".tile")).to_have_count(1)
    assert shop.names() == ["chelsea.png"]


def test_a_text_file_is_refused_with_the_reason(visitor: Visitor, shop: Shop, tmp_path: Path) -> None:
    """What is no image or movie is refused, and what it was found to be is said beside it and aloud."""
    text = tmp_path / "notes.txt"
    text.write_text("no picture\n")
    visit = visitor()
    visit.expect_complaint("415")
    page = visit.open()
    visit.upload(text, shop.samples / "camera.png")
    expect(visit.row("notes.txt").locator(STATE)).to_have_text("refused")
    expect(visit.row("notes.txt").locator(".reason")).to_contain_text("text/plain")
    expect(visit.row("camera.png").locator(STATE)).to_have_text("stored")
    expect(page.locator("#tray-title")).to_have_text("1 stored · 1 refused")
    expect(page.locator("#announcer")).to_contain_text("notes.txt was not stored")
    assert shop.names() == ["camera.png"]


def test_dropped_files_and_folders_are_walked(visitor: Visitor, shop: Shop, tmp_path: Path) -> None:
    """A drop stores the files in it and those in its folders, however deep; hidden ones are left out and counted."""
    photo = (shop.samples / "camera.png").read_bytes()
    deep = tmp_path / "holiday" / "day 1" / "beach"
    deep.mkdir(parents=True)
    (deep / "sea.png").write_bytes(distinct_png(photo, 1))
    (tmp_path / "holiday" / "map.png").write_bytes(distinct_png(photo, 2))
    (tmp_path / "holiday" / ".DS_Store").write_bytes(b"hidden")
    visit = visitor()
    page = visit.open()
    visit.drop(shop.samples / "rocket.jpg", tmp_path / "holiday")
    expect(page.locator("#tray-title")).to_have_text("3 stored · 1 hidden left out")
    assert sorted(shop.names()) == ["map.png", "rocket.jpg", "sea.png"]


def test_a_drop_on_an_open_viewer_closes_it(visitor: Visitor, shop: Shop) -> None:
    """Files may be dropped anywhere: the viewer makes way for the tray."""
    address = shop.add("camera.png")
    visit = visitor()
    page = visit.open(f"#/{address}")
    expect(page.locator(".waterfall")).to_be_visible()
    visit.drop(shop.samples / "rocket.jpg")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(visit.row("rocket.jpg").locator(STATE)).to_have_text("stored")


def test_a_pasted_image_is_stored(visitor: Visitor, shop: Shop) -> None:
    """An image that is pasted is stored like one that is dropped."""
    visit = visitor()
    page = visit.open()
    page.evaluate(
        """async () => {
            const canvas = document.createElement("canvas");
            const blob = await new Promise((resolve) => canvas.toBlob(resolve));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], "image.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }"""
    )
    expect(visit.row("image.png").locator(STATE)).to_have_text("stored")
    assert shop.names() == ["image.png"]


def test_progress_cancel_and_retry(visitor: Visitor, shop: Shop) -> None:
    """On a slow line a file shows bytes, rate and share; cancelled, nothing of it is kept; retried, it is stored."""
    visit = visitor()
    page = visit.open()
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    line.send("Network.emulateNetworkConditions", slow)
    visit.upload(shop.samples / "bigbuckbunny.mp4")
    row = visit.row("bigbuckbunny.mp4")
    expect(row.locator(STATE)).to_have_text(re.compile(r"^[\d.]+ [KM]?B of 1\.06 MB · [\d.]+ [KM]?B/s · \d+ %$"))
    expect(row.get_by_role("progressbar")).to_be_visible()
    row.get_by_role("button", name="Cancel bigbuckbunny.mp4").click()
    expect(row.locator(STATE)).to_have_text("cancelled")
    assert shop.count() == 0
    line.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    row.get_by_role("button", name="Retry bigbuckbunny.mp4").click()
    expect(row.locator(STATE)).to_have_text("stored")
    assert shop.names() == ["bigbuckbunny.mp4"]


def test_a_broken_connection_is_told_and_can_be_retried(visitor: Visitor, shop: Shop) -> None:
    """When the connection breaks, the file says that it was not acknowledged, and a retry stores it."""
    visit = visitor()
    visit.expect_complaint("ERR_INTERNET_DISCONNECTED")
    page = visit.open()
    page.context.set_offline(True)
    visit.upload(shop.samples / "camera.png")
    row = visit.row("camera.png")
    expect(row.locator(STATE)).to_have_text("failed")
    expect(row.locator(".reason")).to_contain_text("not acknowledged")
    page.context.set_offline(False)
    row.get_by_role("button", name="Retry camera.png").click()
    expect(row.locator(STATE)).to_have_text("stored")


@pytest.mark.slow
def test_a_thousand_files_at_once(visitor: Visitor, shop: Shop, tmp_path: Path) -> None:
    """1,000 files are all stored, never more than 3 at a time, while the page can be used."""
    tiny = (shop.samples / "no_time_for_that_tiny.gif").read_bytes()
    files = [tmp_path / f"{n:04}.gif" for n in range(1000)]
    for n, file in enumerate(files):
        file.write_bytes(tiny + b"%d" % n)  # what follows a GIF's end is no part of the picture
    visit = visitor()
    page = visit.open()
    under_way: list[int] = []
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def upload(some: list[Path]) -> float:
        """Upload files; return the processor time for each."""
        before_s = _processor_s(session)
        visit.upload(*some)
        expect(page.locator("#tray-cancel")).to_be_visible()
        while page.locator("#tray-cancel").is_visible():
            under_way.append(page.locator(".upload[data-state=sending], .upload[data-state=saving]").count())
            page.wait_for_timeout(200)
        return (_processor_s(session) - before_s) / len(some)

    one_of_few_s = upload(files[:200])
    one_of_many_s = upload(files[200:])
    expect(page.locator("#tray-title")).to_have_text("1,000 stored")
    assert shop.count() == 1000
    assert max(under_way) <= 3
    # if each step of a file drew all others it would be four times as much
    assert one_of_many_s < 2.5 * one_of_few_s


def _processor_s(session: CDPSession) -> float:
    """Processor time of the page's main thread: time in which others had the processor is not the page's."""
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime"))
