"""The page of a labeled dataset in Chromium: turned, filtered, opened and marked, with the keyboard too."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from browse_examples import disc_image, write_dataset
from browser import DESKTOP, PHONE, axe
from playwright.sync_api import Locator, Page, expect

from sam_variants.spaces_demo.browse_finding import Query
from sam_variants.spaces_demo.browse_library import Library, View
from sam_variants.spaces_demo.browse_page import build, look
from sam_variants.spaces_demo.browse_server import browse_options

expect.set_options(timeout=30_000)
NUM_IMAGES = 30  # two pages


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    images = [disc_image(number) for number in range(NUM_IMAGES)]
    broken = images[1].item
    images[1] = type(images[1])(type(broken)(broken.key, b"no picture"), images[1].size, images[1].annotations)
    return Library(write_dataset(tmp_path_factory.mktemp("page") / "discs", [images]))


@pytest.fixture(scope="module")
def url(serve: Any, library: Library) -> str:
    return serve(build(library), **browse_options(library) | look())


@pytest.fixture
def page(url: str, open_page: Any, library: Library) -> Page:
    """The gallery, nothing marked."""
    library.marks.path.unlink(missing_ok=True)
    library.marks.read()
    return arrived(open_page(url))


def arrived(page: Page) -> Page:
    expect(tiles(page).locator("img.there")).to_have_count(24)
    return page


def tiles(page: Page) -> Locator:
    return page.locator("#gallery .tile")


def tile(page: Page, number: int) -> Locator:
    return page.locator(f'#gallery .tile[data-key="folder/{number:04d}.jpg"]')


def expect_open(page: Page, number: int) -> None:
    expect(page.locator("#image-title")).to_have_text(f"folder/{number:04d}.jpg")
    expect(page.locator("#image-canvas [data-photo]")).to_have_attribute("data-photo", f"{stamp(page)}-{number}")


def stamp(page: Page) -> str:
    return page.locator("#gallery .tile img").first.evaluate("image => image.src.split('/').at(-2)")


def lines(library: Library) -> list[dict[str, Any]]:
    return [json.loads(line) for line in library.marks.path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "screen",
    [{"viewport": DESKTOP}, {"viewport": DESKTOP, "dark": True}, {"viewport": PHONE, "touch": True}],
    ids=["light", "dark", "phone"],
)
def test_it_fits_the_screen_and_is_accessible(url: str, open_page: Any, screen: dict[str, Any]) -> None:
    page = arrived(open_page(url, **screen))
    page.get_by_role("button", name="More filters").click()
    expect(page.get_by_label("Mask area, px, from")).to_be_visible()
    for is_image in (False, True):
        if is_image:
            tile(page, 3).click()
            expect_open(page, 3)
            expect(tiles(page).first).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert axe(page) == []


def test_keys_turn_pages_walk_over_tiles_and_mark_them(page: Page, library: Library) -> None:
    page.keyboard.press("ArrowRight")
    expect(tiles(page)).to_have_count(6)
    expect(page.get_by_role("spinbutton", name="Page").first).to_have_value("2")
    page.keyboard.press("ArrowLeft")
    expect(tiles(page)).to_have_count(24)
    tile(page, 23).focus()
    page.keyboard.press("ArrowRight")
    expect(tile(page, 24)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(tile(page, 23)).to_be_focused()
    top = tile(page, 23).bounding_box()
    page.keyboard.press("ArrowUp")
    focused = page.locator("#gallery .tile:focus").bounding_box()
    assert top is not None
    assert focused is not None
    assert focused["y"] + focused["height"] < top["y"]
    key = page.locator("#gallery .tile:focus").get_attribute("data-key")
    page.keyboard.press("b")
    expect(page.locator("#gallery .tile.bad:focus .badge")).to_have_text("Bad")
    page.keyboard.press("b")
    expect(page.locator("#gallery .tile.bad")).to_have_count(0)
    assert lines(library) == [{"key": key, "bad": True}, {"key": key, "bad": False}]
    page.locator("#search input, #search textarea").focus()
    page.keyboard.type("b")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#gallery .card-empty")).to_contain_text("No image fits the filters.")
    assert len(lines(library)) == 2


def test_images_and_masks_are_marked_and_it_stays(page: Page, library: Library, url: str, open_page: Any) -> None:
    tile(page, 2).click()
    expect_open(page, 2)
    page.keyboard.press("ArrowRight")
    expect_open(page, 3)
    expect(page.locator("#image-canvas .canvas")).to_have_attribute("data-masks", "1 2 3 4 5")
    page.keyboard.press("b")
    expect(page.locator("#image-mark")).to_contain_text("take back")
    page.locator("#image-table tbody tr").nth(1).hover()
    page.keyboard.press("m")
    row = page.locator("#image-table tr.bad")
    expect(row).to_have_attribute("data-id", "2")
    expect(page.locator("#image-facts")).to_contain_text("mask 2")
    page.locator("#image-table tbody tr").nth(4).get_by_role("button", name="is bad").click()
    expect(row).to_have_count(2)
    # What is bad is off the picture, but under the pointer.
    picture = page.locator("#image-canvas canvas").first
    page.locator("#image-title").hover()
    marked = picture.evaluate("canvas => canvas.toDataURL()")
    row.last.get_by_role("button", name="is bad").click()
    expect(row).to_have_count(1)
    page.locator("#image-title").hover()
    page.wait_for_function(
        "before => document.querySelector('#image-canvas canvas').toDataURL() !== before", arg=marked
    )
    key = "folder/0003.jpg"
    assert lines(library) == [
        {"key": key, "bad": True},
        {"key": key, "mask": 2, "bad": True},
        {"key": key, "mask": 5, "bad": True},
        {"key": key, "mask": 5, "bad": False},
    ]
    page.keyboard.press("Escape")
    expect(tile(page, 3)).to_be_focused()
    expect(tile(page, 3).locator("small")).to_have_text("5 masks, 1 bad")
    again = arrived(open_page(url))
    expect(tile(again, 3)).to_have_class("tile bad")
    expect(again.locator("#status")).to_contain_text("1 image and 1 mask marked bad")


def test_a_click_on_a_mask_lights_its_row_and_arrows_still_turn(page: Page) -> None:
    tile(page, 3).click()
    expect_open(page, 3)
    box = page.locator("#image-canvas canvas").first.bounding_box()
    assert box is not None
    scale = min(box["width"] / 128, box["height"] / 128)
    middle = [box[corner] + box[side] / 2 for corner, side in (("x", "width"), ("y", "height"))]
    # The third disc of the image: at (70, 54) of 128 × 128.
    page.mouse.click(middle[0] + (70.5 - 64) * scale, middle[1] + (54.5 - 64) * scale)
    expect(page.locator("#image-table tr.lit")).to_have_attribute("data-id", "3")
    page.keyboard.press("ArrowLeft")
    expect_open(page, 2)


def test_filters_leave_images_and_masks(page: Page, library: Library) -> None:
    count = page.locator(".gallery-bar p")
    expect(count).to_have_text("30 images · 66 masks")
    page.locator("#search input, #search textarea").fill("/001")
    expect(count).to_have_text("10 of 30 images · 22 masks")
    page.get_by_role("button", name="More filters").click()
    at_least = page.get_by_role("spinbutton", name="Expected IoU")
    at_least.click()  # waits until the filters have slid open; nobody types before
    at_least.fill("0.7")
    expect(count).to_have_text("10 of 30 images · 8 masks")
    page.get_by_label("Masks in an image, from").fill("3")
    page.keyboard.press("Tab")
    expect(count).to_have_text("2 of 30 images · 6 masks")
    page.get_by_label("Masks in an image, to").fill("few")
    expect(page.locator("#status .note-warning")).to_contain_text("'few' is no number")
    page.get_by_label("Masks in an image, to").fill("")
    expect(page.locator("#status .note-warning")).to_have_count(0)
    tile(page, 13).click()
    expect(page.locator("#image-canvas .canvas")).to_have_attribute("data-masks", "3 4 5")
    expect(page.locator("#image-facts")).to_contain_text("3 of 5")
    page.keyboard.press("b")
    expect(page.locator("#image-mark")).to_contain_text("take back")
    page.locator("#image-back").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download keys").click()
    assert download.value.suggested_filename == "good_keys.txt"
    assert Path(download.value.path()).read_text(encoding="utf-8") == "folder/0018.jpg\n"
    page.locator("#reset").click()
    expect(count).to_have_text("30 images · 66 masks")
    expect(page.get_by_label("Masks in an image, from")).to_have_value("")
    page.get_by_label("Show").click()
    page.get_by_role("option", name="Marked bad").click()
    expect(count).to_have_text("1 of 30 images · 5 masks")


@pytest.mark.parametrize("asked", ["filter", "open"])
def test_what_is_asked_while_the_page_is_loaded_counts(
    asked: str, url: str, open_page: Any, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, begun, may_end = library.look, threading.Event(), threading.Event()

    def slow_at_first(query: Query) -> View:
        if not begun.is_set():
            begun.set()
            assert may_end.wait(30)
        return look(query)

    monkeypatch.setattr(library, "look", slow_at_first)
    page = open_page(url)
    assert begun.wait(30)
    if asked == "filter":
        page.locator("#search input, #search textarea").fill("/001")
    else:
        tile(page, 3).click()
    page.wait_for_timeout(500)
    with page.expect_response(lambda response: response.request.method == "POST"):
        may_end.set()
    page.wait_for_timeout(200)
    if asked == "filter":
        expect(page.locator(".gallery-bar p")).to_have_text("10 of 30 images · 22 masks")
    else:
        expect_open(page, 3)
        expect(tiles(page).first).to_be_hidden()


def test_a_dataset_that_grows_is_shown_as_it_is_now(serve: Any, open_page: Any, tmp_path: Path) -> None:
    parts = [[disc_image(number)] for number in range(3)]
    grown = Library(write_dataset(tmp_path / "out", parts, done=1))
    address = serve(build(grown), **browse_options(grown) | look())
    write_dataset(tmp_path / "out", parts, done=2)
    # The second page's server has forgotten the dataset that it was started with.
    for _ in range(2):
        page = open_page(address)
        expect(tiles(page).locator("img.there")).to_have_count(2)
        expect(page.locator("#status")).to_contain_text("2 of 3 parts")


def test_a_mark_that_cannot_be_kept_is_told(page: Page, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(mark: Any) -> None:
        raise OSError(28, "No space left on device", "marks.jsonl")

    monkeypatch.setattr(library.marks, "put", refuse)
    tile(page, 0).focus()
    page.keyboard.press("b")
    expect(page.locator("#status .note-warning")).to_contain_text("No space left on device")
    expect(page.locator("#gallery .tile.bad")).to_have_count(0)


def test_a_picture_that_is_none_says_so(page: Page, url: str) -> None:
    assert tile(page, 1).locator("img").evaluate("image => image.naturalWidth") == 120
    answer = httpx.get(tile(page, 1).locator("img").evaluate("image => image.src"))
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert "can't be read" in answer.text.replace("&#x27;", "'")
    tile(page, 1).click()
    expect_open(page, 1)


def test_other_requests_are_the_guards(url: str, library: Library) -> None:
    address = f"{url}pictures/{library.current.stamp}"
    plain = httpx.get(f"{address}/0")
    assert plain.headers["content-type"] == "image/jpeg"
    assert "immutable" in plain.headers["cache-control"]
    assert len(plain.content) > 500
    for other in (
        f"{address}/30",
        f"{address}/0?score=x",
        f"{url}pictures/00000000/0",
        f"{url}pictures/../marks.jsonl",
    ):
        assert httpx.get(other).status_code == 404
    assert httpx.get(f"{url}gradio_api/mcp/schema").status_code == 404
    assert httpx.post(f"{address}/0").status_code == 404
