"""What is stored, as the page lists it."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import expect

from tests.media import distinct_png
from tests.page.conftest import Shop, Visitor

pytestmark = pytest.mark.real

# Contrast (WCAG 2.2, 1.4.3) of every text that is visible, against the nearest ground that is not see-through.
_POOR_CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => colour.slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const groundOf = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] > 250) return colour;
        }
        throw new Error("no ground");
    };
    const poor = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = texts.nextNode(); node; node = texts.nextNode()) {
        const element = node.parentElement;
        const seen = element.checkVisibility() && !element.closest(".unseen, template, :disabled, .badge");
        if (!seen || !node.data.trim()) continue;
        const [a, b] = [rgba(getComputedStyle(element).color), groundOf(element)].map(luminance);
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) poor.push(`${node.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return poor;
}"""


def test_newest_first(visitor: Visitor, shop: Shop) -> None:
    """The gallery lists the files, the newest first, each with its picture."""
    for name in ("camera.png", "rocket.jpg", "bikes.mp4"):
        shop.add(name)
    page = visitor().open()
    expect(page.locator(".tile .name")).to_have_text(["bikes.mp4", "rocket.jpg", "camera.png"])
    expect(page.locator(".tile img")).to_have_count(2)
    for image in page.locator(".tile img").all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
    expect(page.locator(".tile video")).to_have_attribute("preload", "metadata")


def test_filter_by_realm(visitor: Visitor, shop: Shop) -> None:
    """Images and movies can be looked at apart, with the count of each."""
    shop.add("camera.png")
    shop.add("rocket.jpg")
    shop.add("bikes.mp4")
    page = visitor().open()
    page.get_by_role("radio", name="Movies 1").check(force=True)
    expect(page.locator(".tile .name")).to_have_text(["bikes.mp4"])
    page.get_by_role("radio", name="Images 2").check(force=True)
    expect(page.locator(".tile .name")).to_have_text(["rocket.jpg", "camera.png"])
    page.get_by_role("radio", name="All 3").check(force=True)
    expect(page.locator(".tile")).to_have_count(3)


def test_search_by_name(visitor: Visitor, shop: Shop) -> None:
    """A part of the name finds the file; when nothing has it, the page says so and offers the way back."""
    shop.add("camera.png", "Old Camera.png")
    shop.add("rocket.jpg")
    page = visitor().open()
    page.get_by_role("searchbox", name="Search by name").fill("camera")
    expect(page.locator(".tile .name")).to_have_text(["Old Camera.png"])
    page.get_by_role("searchbox").fill("nowhere")
    expect(page.get_by_role("heading", name="No file has “nowhere” in its name")).to_be_visible()
    page.get_by_role("button", name="Show everything").click()
    expect(page.locator(".tile")).to_have_count(2)


def test_more_files_come_on_scrolling(visitor: Visitor, shop: Shop) -> None:
    """A long list comes page by page as it is scrolled, without one missing or doubled."""
    photo = (shop.samples / "camera.png").read_bytes()
    for n in range(130):
        shop.add_bytes(distinct_png(photo, n), f"{n:03}.png")
    page = visitor().open()
    expect(page.locator(".tile")).not_to_have_count(130)
    for _ in range(100):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
        if page.locator(".tile").count() >= 130:
            break
    expect(page.locator(".tile .name")).to_have_text([f"{n:03}.png" for n in reversed(range(130))])
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_a_list_that_cannot_be_had_is_told(visitor: Visitor, shop: Shop) -> None:
    """When the server cannot be reached the page says so in the list's place, and trying again mends it."""
    shop.add("camera.png")
    visit = visitor()
    visit.expect_complaint("ERR_INTERNET_DISCONNECTED")
    page = visit.open()
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("cam")
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("No answer from the server.")
    page.context.set_offline(False)
    trouble.get_by_role("button", name="Try again").click()
    expect(trouble).to_be_hidden()
    expect(page.locator(".tile .name")).to_have_text(["camera.png"])


def test_live_figures(visitor: Visitor, shop: Shop) -> None:
    """The live panel names the six stages with the p50 and p99 of the last minute."""
    shop.add("camera.png")
    page = visitor().open()
    stages = ["queue", "index", "metadata", "disk", "network", "total"]
    expect(page.locator("#live thead th[data-stage]")).to_have_text(stages)
    expect(page.locator("#live-note")).to_contain_text("in the last minute")
    for row in ("#live-p50", "#live-p99"):
        for stage in stages:
            expect(page.locator(f"{row} [data-stage={stage}]")).to_contain_text("s")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_wide_without_sideways_scrolling(
    visitor: Visitor, shop: Shop, scheme: Literal["light", "dark"]
) -> None:
    """From 360 to 1,600 pixels, gallery, tray and viewer fit the window's width, and every text has AA contrast."""
    for name in ("camera.png", "rocket.jpg", "bikes.mp4"):
        shop.add(name)
    shop.add("chelsea.png", f"{'a very long name without end ' * 6}.png")
    for width in (360, 768, 1600):
        visit = visitor(width=width, scheme=scheme)
        page = visit.open()
        page.locator("#live").evaluate("live => { live.open = true; }")
        visit.upload(shop.samples / "retina.jpg")
        expect(page.locator("#tray-title")).to_contain_text("1 ")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(_POOR_CONTRAST) == []
        visit.tile("rocket.jpg").evaluate("tile => tile.click()")
        expect(page.locator(".waterfall")).to_be_visible()
        page.get_by_role("button", name="Fetch again").click()
        expect(page.locator(".waterfall.compared")).to_be_visible()
        assert page.locator("#viewer").evaluate("viewer => viewer.scrollWidth") <= width
        assert page.locator("#viewer-panel").evaluate("panel => panel.scrollWidth - panel.clientWidth") <= 0
        assert page.evaluate(_POOR_CONTRAST) == []
