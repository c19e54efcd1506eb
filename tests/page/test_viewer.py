"""The viewer: one file, and where the time of its retrieval went."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.page.conftest import Shop, Visitor

pytestmark = pytest.mark.real

STAGES = ["queue", "index", "metadata", "disk", "network", "other", "outside"]
DIMENSIONS = ["realm", "lineage", "adjacency", "horizon", "resonance", "velocity", "density"]
HOSTILE = "<img src=x onerror=alert(1)>.png"


def milliseconds(page: Page, row: str) -> float:
    """The duration that the waterfall shows in a row."""
    return float(page.locator(f".waterfall {row} .ms").inner_text())


def request_id(page: Page) -> str:
    """The request id that the viewer shows."""
    return page.locator("#viewer-retrieval dt", has_text="Request").locator("+ dd").inner_text()


def test_everything_known_is_shown(visitor: Visitor, shop: Shop) -> None:
    """The viewer shows the picture, address, URI, name, size, type, time, the seven coordinates and a download link."""
    address = shop.add("astronaut.png")
    visit = visitor()
    page = visit.open()
    visit.tile("astronaut.png").click()
    dialog = page.get_by_role("dialog", name="astronaut.png")
    expect(dialog).to_be_visible()
    expect(page).to_have_url(re.compile(f"#/{address}$"))
    picture = dialog.get_by_role("img", name="astronaut.png")
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("naturalWidth", 512)
    facts = page.locator("#viewer-facts")
    for fact in (address, "stat7://image/1/", "astronaut.png", "791,555 bytes", "image/png"):
        expect(facts).to_contain_text(fact)
    expect(facts.locator("time")).to_have_attribute("datetime", re.compile(r"^20.*Z$"))
    dimensions = page.locator("#viewer-coordinates dd")
    assert [dimension.get_attribute("data-dimension") for dimension in dimensions.all()] == DIMENSIONS
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "astronaut.png"
    assert download.value.path().read_bytes() == (shop.samples / "astronaut.png").read_bytes()


def test_the_waterfall_is_of_that_very_retrieval(visitor: Visitor, shop: Shop) -> None:
    """All stages are drawn with the server's own figures for the request the page made, and add up to the browser's."""
    shop.add("astronaut.png")
    visit = visitor()
    page = visit.open()
    visit.tile("astronaut.png").click()
    rows = page.locator(".waterfall tbody tr")
    expect(rows).to_have_count(len(STAGES))
    assert [row.get_attribute("data-stage") for row in rows.all()] == STAGES
    record = shop.timing(request_id(page))
    assert record["bytes"] == 791_555
    for stage in STAGES[:5]:
        assert milliseconds(page, f"[data-stage={stage}]") == pytest.approx(record[f"{stage}_ms"], abs=0.0001)
    server, browser = milliseconds(page, "[data-sum=server]"), milliseconds(page, "[data-sum=browser]")
    assert server == pytest.approx(record["total_ms"], abs=0.0001)
    legs = [milliseconds(page, f"[data-stage={stage}]") for stage in STAGES]
    assert sum(legs[:6]) == pytest.approx(server, abs=0.001)
    assert sum(legs) == pytest.approx(max(browser, server), abs=0.2)
    for bar in page.locator(".waterfall .leg").all():
        box = bar.bounding_box()
        assert box is not None
        assert box["width"] >= 3
    expect(page.locator("#viewer-retrieval")).to_contain_text("filesystem")


def test_no_time_is_negative(visitor: Visitor, shop: Shop) -> None:
    """Where the browser's clock has the end of an answer before its beginning, the rest took no time."""
    shop.add("camera.png")
    visit = visitor()
    visit.page.add_init_script(
        "Object.defineProperty(PerformanceResourceTiming.prototype, 'responseEnd', "
        "{ get() { return this.responseStart - 29.3; } });"
    )
    page = visit.open()
    visit.tile("camera.png").click()
    expect(page.locator("#viewer-retrieval")).to_contain_text("the rest took 0.0 µs")


def test_fetching_again_shows_the_change(visitor: Visitor, shop: Shop) -> None:
    """Fetching again is a new request to the server, set beside the one before; the focus stays on the button."""
    address = shop.add("astronaut.png")
    visit = visitor()
    page = visit.open(f"#/{address}")
    expect(page.locator(".waterfall")).to_be_visible()
    first, before = request_id(page), milliseconds(page, "[data-stage=network]")
    page.get_by_role("button", name="Fetch again").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".waterfall.compared tbody .change")).to_have_count(len(STAGES))
    assert request_id(page) != first
    shown = page.locator(".waterfall [data-stage=network] .change").inner_text()
    assert float(shown.replace("−", "-").replace("±", "")) == pytest.approx(
        milliseconds(page, "[data-stage=network]") - before, abs=0.006
    )
    expect(page.get_by_role("button", name="Fetch again")).to_be_focused()


def test_the_bars_can_be_drawn_to_a_true_scale(visitor: Visitor, shop: Shop) -> None:
    """By choice the widths are true to the time, and the page says which scale it draws."""
    address = shop.add("astronaut.png")
    page = visitor().open(f"#/{address}")
    expect(page.locator("#viewer-retrieval .note")).to_contain_text("cube root")
    page.get_by_role("radio", name="True bars").check(force=True)
    expect(page.locator("#viewer-retrieval .note")).to_contain_text("true to the time")
    track = page.locator(".waterfall [data-stage=outside] .track").bounding_box()
    bar = page.locator(".waterfall [data-stage=outside] .leg").bounding_box()
    assert track is not None
    assert bar is not None
    share = milliseconds(page, "[data-stage=outside]") / milliseconds(page, "[data-sum=browser]")
    assert bar["width"] / track["width"] == pytest.approx(share, abs=0.05)


def test_a_movie_is_timed_by_a_range_and_plays(visitor: Visitor, shop: Shop) -> None:
    """Of a movie the first MiB is fetched and timed, and the player plays it by its own ranges."""
    address = shop.add("bigbuckbunny.mp4")
    page = visitor().open(f"#/{address}")
    expect(page.locator("#viewer-retrieval")).to_contain_text("bytes=0-1048575")
    record = shop.timing(request_id(page))
    assert (record["status"], record["bytes"]) == (206, 1024**2)
    video = page.locator("#viewer-picture video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    expect(video).to_have_js_property("paused", False)
    expect(video).to_have_js_property("videoWidth", 1280)


def test_keyboard(visitor: Visitor, shop: Shop) -> None:
    """Enter opens, the arrows go on and back, Escape closes, and the focus is where it belongs; so does going back."""
    for name in ("camera.png", "rocket.jpg", "chelsea.png"):
        shop.add(name)
    visit = visitor()
    page = visit.open()
    visit.tile("chelsea.png").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="chelsea.png")).to_be_visible()
    expect(page.get_by_role("button", name="Previous file")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="rocket.jpg")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="camera.png")).to_be_visible()
    expect(page.get_by_role("button", name="Next file")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("dialog", name="rocket.jpg")).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(visit.tile("rocket.jpg")).to_be_focused()
    assert "#/" not in page.url
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="rocket.jpg")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_each_file_is_shown_from_its_top(visitor: Visitor, shop: Shop) -> None:
    """On a phone, where the whole viewer scrolls, the next file begins with its picture."""
    shop.add("camera.png")
    shop.add("rocket.jpg")
    visit = visitor(width=360, height=740)
    page = visit.open()
    visit.tile("rocket.jpg").click()
    expect(page.locator(".waterfall")).to_be_visible()
    page.locator("#viewer").evaluate("viewer => { viewer.scrollTop = 9999; }")
    page.keyboard.press("Escape")
    visit.tile("camera.png").click()
    expect(page.get_by_role("img", name="camera.png")).to_be_in_viewport(ratio=1)


def test_deep_link(visitor: Visitor, shop: Shop) -> None:
    """An address in the link opens that file, and closing it leads to the gallery."""
    address = shop.add("rocket.jpg")
    page = visitor().open(f"#/{address}")
    expect(page.get_by_role("dialog", name="rocket.jpg")).to_be_visible()
    expect(page).to_have_title("rocket.jpg · STAT7 Store")
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page).to_have_title("STAT7 Store")
    assert "#/" not in page.url


def test_an_unknown_address_is_told(visitor: Visitor, shop: Shop) -> None:
    """A link to what is not stored says so, and can be closed."""
    visit = visitor()
    visit.expect_complaint("404")
    page = visit.open(f"#/{'0' * 64}")
    expect(page.get_by_role("dialog", name="Not stored here")).to_contain_text("Nothing is stored under this address")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_delete_asks_first(visitor: Visitor, shop: Shop) -> None:
    """Deleting asks once more; kept, the file stays; confirmed, it is gone from store and gallery."""
    shop.add("camera.png")
    shop.add("rocket.jpg")
    visit = visitor()
    page = visit.open()
    visit.tile("rocket.jpg").click()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("button", name="Delete…")).to_be_focused()
    assert shop.count() == 2
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator(".tile .name")).to_have_text(["camera.png"])
    expect(visit.tile("camera.png")).to_be_focused()
    assert shop.names() == ["camera.png"]


def test_the_address_can_be_copied(visitor: Visitor, shop: Shop) -> None:
    """The copy button puts the whole address on the clipboard."""
    address = shop.add("camera.png")
    page = visitor(permissions=["clipboard-read", "clipboard-write"]).open(f"#/{address}")
    page.evaluate("""() => { // the text goes away after a moment, in which nobody may have looked
        window.said = new Promise((resolve) => {
            new MutationObserver((changes) => changes.forEach(({ target }) => {
                if (target.ariaLabel === "Copy address") resolve(target.textContent);
            })).observe(document.body, { childList: true, subtree: true });
            setTimeout(() => resolve("nothing"), 60000);
        });
    }""")
    page.get_by_role("button", name="Copy address").click()
    assert page.evaluate("said") == "Copied"
    assert page.evaluate("navigator.clipboard.readText()") == address


def test_closing_twice_goes_back_once(visitor: Visitor, shop: Shop) -> None:
    """Closing while the step back to the gallery is under way takes no second one, which would leave the page."""
    shop.add("camera.png")
    visit = visitor()
    page = visit.open()
    visit.tile("camera.png").click()
    expect(page.get_by_role("heading", name="camera.png")).to_be_visible()
    steps = page.evaluate("""() => {
        let steps = 0;
        const back = history.back.bind(history);
        history.back = () => { steps++; back(); };
        const close = document.getElementById("viewer-close");
        close.click();
        close.click();
        return steps;
    }""")
    assert steps == 1
    expect(page.locator("#viewer")).to_be_hidden()
    visit.tile("camera.png").click()  # and it can be closed again
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page).to_have_url(f"{visit.url}/")


def test_a_hostile_name_is_text(visitor: Visitor, shop: Shop) -> None:
    """A file name that is markup is shown letter by letter, in gallery, viewer and tray, and runs nothing."""
    shop.add("camera.png", HOSTILE)
    visit = visitor()
    page = visit.open()
    expect(page.locator(".tile .name")).to_have_text([HOSTILE])
    visit.tile(HOSTILE).click()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.locator(".waterfall")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#chooser").set_input_files(
        FilePayload(name=HOSTILE, mimeType="image/png", buffer=(shop.samples / "camera.png").read_bytes())
    )
    expect(visit.row(HOSTILE).locator(".state")).to_have_text("already here")
    assert page.locator("img[src=x]").count() == 0
