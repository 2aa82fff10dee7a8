"""The tab "Everything": what is found, as picture and table that light up each other, with the time it took."""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr
import pytest
from demo_pages import COIN, demo_url, number_in, open_tab, place, take_example
from playwright.sync_api import Page, expect

from sam_variants.spaces_demo import tab_everything
from sam_variants.spaces_demo.background import NobodyWaitsError, Result, Step, in_steps
from sam_variants.spaces_demo.everything import EverythingOptions, suiting_options
from sam_variants.spaces_demo.models import EMBEDDED, store
from sam_variants.spaces_demo.visits import Visit

CANVAS = "everything-canvas"
ROWS = "#everything-table tbody tr"


@pytest.fixture(scope="module")
def demo(serve: Any) -> str:
    return demo_url(serve)


@pytest.fixture
def found(demo: str, open_page: Any) -> Page:
    """Everything in the coins, with a coarse grid."""
    page = open_page(demo)
    take_example(page)
    open_tab(page, "Everything")
    density = page.get_by_role("spinbutton", name="Points per side")
    density.fill("10")
    density.press("Tab")
    find(page)
    return page


def find(page: Page) -> None:
    page.get_by_role("button", name="Find everything").click()
    expect(page.locator("#everything-answer h2")).to_contain_text("masks in")


def highlighted(page: Page) -> Any:
    """The row that is lit."""
    return page.locator(f"{ROWS}.lit")


def test_table_and_time_split_say_what_was_found(found: Page) -> None:
    count = number_in(found.locator("#everything-answer h2"), r"(\d+) masks")
    assert count > 15
    expect(found.locator(ROWS)).to_have_count(int(count))
    legend = found.locator("#everything-answer .legend").inner_text()
    assert all(stage in legend for stage in ("encode", "decode", "post-processing"))


def test_columns_sort(found: Page) -> None:
    found.locator("#everything-table").get_by_role("button", name="Area").click()
    areas = [int(text.replace(",", "")) for text in found.locator(f"{ROWS} td:nth-child(2)").all_inner_texts()]
    assert areas == sorted(areas, reverse=True)
    found.locator("#everything-table").get_by_role("button", name="Area").click()
    again = [int(text.replace(",", "")) for text in found.locator(f"{ROWS} td:nth-child(2)").all_inner_texts()]
    assert again == areas[::-1]


def test_the_table_begins_right_below_the_picture(found: Page) -> None:
    stage = found.locator(f"#{CANVAS} .stage").bounding_box()
    table = found.locator("#everything-table").bounding_box()
    assert stage is not None
    assert table is not None
    assert table["y"] - (stage["y"] + stage["height"]) < 30


def test_a_row_lights_its_mask_up(found: Page) -> None:
    before = pixels(found)
    found.locator(ROWS).nth(2).hover()
    expect(highlighted(found)).to_have_count(1)
    found.wait_for_function(f"before => ({PIXELS}) !== before", arg=before)
    found.locator("#everything-answer").hover()
    expect(highlighted(found)).to_have_count(0)
    found.wait_for_function(f"before => ({PIXELS}) === before", arg=before)


# The canvas as the visitor sees it.
PIXELS = f"document.querySelector('#{CANVAS} canvas').toDataURL()"


def pixels(page: Page) -> str:
    """The canvas when it has come to rest."""
    page.wait_for_function("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(PIXELS)


def test_clicking_a_mask_chooses_its_row(found: Page) -> None:
    found.locator(f"#{CANVAS} canvas").first.scroll_into_view_if_needed()
    found.mouse.click(*place(found, CANVAS, COIN))
    expect(highlighted(found)).to_have_count(1)
    left, top, right, bottom = map(int, highlighted(found).locator("td").last.inner_text().split(", "))
    assert left <= COIN[0] < right
    assert top <= COIN[1] < bottom


def test_rows_can_be_walked_with_the_keyboard(found: Page) -> None:
    found.locator(f"{ROWS} button").first.focus()
    found.keyboard.press("ArrowDown")
    expect(found.locator(ROWS).nth(1)).to_have_class("lit")


def test_stricter_thresholds_find_less(found: Page) -> None:
    before = found.locator(ROWS).count()
    score = found.get_by_role("spinbutton", name="Expected IoU")
    score.fill("0.9")
    score.press("Tab")
    find(found)
    expect(found.locator(ROWS)).not_to_have_count(before)
    assert found.locator(ROWS).count() < before


def test_without_a_photo_it_says_what_to_do(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    open_tab(page, "Everything")
    page.get_by_role("button", name="Find everything").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("no photo yet")
    expect(page.get_by_role("button", name="Find everything")).to_be_enabled()


def test_a_new_photo_forgets_what_was_found(found: Page) -> None:
    take_example(found, "Tiles")
    expect(found.locator(ROWS)).to_have_count(0)
    expect(found.locator("#everything-answer")).to_contain_text("Find everything")


def test_stop_leaves_nothing_running(found: Page) -> None:
    rows = found.locator(ROWS).count()
    slow(found)
    found.get_by_role("button", name="Find everything").click()
    expect(found.locator(f"#{CANVAS} .busy")).to_be_visible()
    expect(found.locator("#everything-answer .progress")).to_be_visible()
    found.locator("#tab-everything").get_by_role("button", name="Stop").click()
    expect(found.locator("#everything-answer")).to_contain_text("Stopped")
    expect(found.locator(f"#{CANVAS} .busy")).to_be_hidden()
    expect(found.get_by_role("button", name="Find everything")).to_be_enabled()
    assert found.locator(ROWS).count() == rows


def slow(page: Page) -> None:
    density = page.get_by_role("spinbutton", name="Points per side")
    density.fill("64")
    density.press("Tab")


@pytest.mark.parametrize("tab", ["Everything", "Click"])
def test_a_new_photo_ends_what_runs_for_the_one_before(found: Page, tab: str) -> None:
    slow(found)
    found.get_by_role("button", name="Find everything").click()
    expect(found.locator("#everything-answer .progress")).to_be_visible()
    open_tab(found, tab)
    take_example(found, "Tiles")
    open_tab(found, "Everything")
    expect(found.get_by_role("button", name="Find everything")).to_be_enabled()
    expect(found.locator("#everything-answer")).to_contain_text("a grid of points")
    expect(found.locator(f"#{CANVAS} .busy")).to_be_hidden()
    expect(found.locator(ROWS)).to_have_count(0)


def test_what_breaks_off_can_be_tried_again(found: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*given: Any) -> None:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(tab_everything, "find_everything", breaks)
    start = found.get_by_role("button", name="Find everything")
    start.click()
    expect(found.get_by_test_id("toast-body")).to_contain_text("Try again")
    expect(start).to_be_enabled()
    expect(found.locator(f"#{CANVAS} .busy")).to_be_hidden()
    assert "secret" not in found.content()


def test_options_have_the_models_thresholds_and_are_checked() -> None:
    options = suiting_options(store().get(EMBEDDED))
    assert (options.pred_iou_thresh, options.stability_score_thresh) == (0.6, 0.9)
    with pytest.raises(gr.Error, match="points_per_side"):
        EverythingOptions(points_per_side=65)
    with pytest.raises(gr.Error, match="stability_score_thresh"):
        EverythingOptions(stability_score_thresh=2.0)


def test_nothing_to_save_says_so() -> None:
    with pytest.raises(gr.Error, match="Find everything first"):
        tab_everything.to_save(Visit())


def test_steps_come_before_the_result() -> None:
    go_on = threading.Event()

    def work(report: Any) -> str:
        report(0.5, "half")
        assert go_on.wait(10)
        return "done"

    steps = in_steps(work)
    assert next(steps) == Step(0.5, "half")
    go_on.set()
    assert list(steps) == [Result("done")]


def test_work_that_nobody_waits_for_ends() -> None:
    ended, closing = threading.Event(), threading.Event()

    def work(report: Any) -> None:
        report(0.0, "begin")
        assert closing.wait(10)
        try:
            while True:
                report(0.5, "on and on")
        except NobodyWaitsError:
            ended.set()
            raise

    steps = in_steps(work)
    next(steps)
    closing.set()
    steps.close()
    assert ended.wait(10)


def test_what_the_work_raises_is_raised() -> None:
    def work(report: Any) -> None:
        raise gr.Error("no such model")

    with pytest.raises(gr.Error, match="no such model"):
        list(in_steps(work))
