"""The tab "Click and draw": a click is answered at once, by a decode, with what the package's pipeline says."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import gradio as gr
import pytest
from demo_pages import CLOTH, COIN, EXAMPLES, OTHER_COIN, click_pixel, demo_url, number_in, take_example
from playwright.sync_api import Page, expect

import sam_variants
from sam_variants.spaces_demo import segmenting, tab_click
from sam_variants.spaces_demo.caches import BoundedCache
from sam_variants.spaces_demo.models import EMBEDDED
from sam_variants.spaces_demo.photos import open_photo
from sam_variants.spaces_demo.visits import Visit

CANVAS = "click-canvas"
AREA = r"([\d,]+) px"
# Of a click until the answer is on the page, in Chromium on one slow core. A person calls 100 ms at once.
SECONDS_TO_ANSWER = 1.0


@pytest.fixture(scope="module")
def demo(serve: Any) -> str:
    return demo_url(serve)


@pytest.fixture
def coins(demo: str, open_page: Any) -> Page:
    page = open_page(demo)
    take_example(page)
    return page


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the photos that are encoded meanwhile."""
    names: list[str] = []
    real = segmenting._encode
    monkeypatch.setattr(segmenting, "_encode", lambda *given: names.append("photo") or real(*given))
    return names


def test_a_click_gives_the_mask_of_the_pipeline(coins: Page) -> None:
    click_pixel(coins, CANVAS, COIN)
    answer = coins.locator("#click-answer")
    expect(answer.locator(".objects li")).to_have_count(1)
    pipeline = sam_variants.PromptableSegmentationPipeline(
        sam_variants.load_checkpoint(sam_variants.default_checkpoint()).fuse()
    )
    expected = pipeline(str(EXAMPLES / "coins.jpg"), points=[COIN])
    assert number_in(answer, AREA) == int(expected.areas[0])
    assert number_in(answer, r"IoU ([\d.]+)") == round(float(expected.scores[0]), 2)


def test_excluding_takes_away_and_undo_brings_back(coins: Page) -> None:
    answer = coins.locator("#click-answer")
    click_pixel(coins, CANVAS, COIN)
    expect(answer.locator(".objects li")).to_have_count(1)
    one = answer.locator(".objects li span").inner_text()
    coins.keyboard.down("Shift")
    click_pixel(coins, CANVAS, CLOTH)
    coins.keyboard.up("Shift")
    expect(answer.locator(".objects li span")).not_to_have_text(one)
    coins.locator(f"#{CANVAS} canvas").first.focus()
    coins.keyboard.press("Control+z")
    expect(answer.locator(".objects li span")).to_have_text(one)


def test_clicks_cost_no_encoding(coins: Page, encoded: list[str]) -> None:
    answer = coins.locator("#click-answer .objects li")
    seconds = []
    for count, pixel in enumerate((COIN, OTHER_COIN), 1):
        start = perf_counter()
        click_pixel(coins, CANVAS, pixel)
        expect(answer.locator("span")).to_contain_text("px")
        seconds.append(perf_counter() - start)
        coins.keyboard.press("n")
        assert count == len(seconds)
    assert encoded == []
    assert statistics.median(seconds) < SECONDS_TO_ANSWER


def test_the_same_photo_is_encoded_once_for_all(
    demo: str, open_page: Any, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = segmenting._EMBEDDINGS  # perhaps from another test
    monkeypatch.setattr(segmenting, "_EMBEDDINGS", BoundedCache(kept.capacity, kept.size_of))
    for _ in range(2):
        page = open_page(demo)
        take_example(page, "Tiles")
    assert encoded == ["photo"]


def test_only_excluding_says_what_is_missing(coins: Page) -> None:
    coins.keyboard.down("Shift")
    click_pixel(coins, CANVAS, CLOTH)
    coins.keyboard.up("Shift")
    expect(coins.locator("#click-answer")).to_contain_text("Click on the thing itself too")


def test_prompts_of_another_photo_are_not_answered() -> None:
    visit = Visit()
    value = {"photo": "another", "version": 1, "selected": None, "objects": []}
    assert tab_click.answer(value | {"photo": None}, visit, EMBEDDED) == (gr.skip(), gr.skip())
    visit.start(open_photo(EXAMPLES / "coins.jpg"))
    assert tab_click.answer(value, visit, EMBEDDED) == (gr.skip(), gr.skip())


@pytest.mark.parametrize("ask", [tab_click.answer, tab_click.to_save, tab_click.to_python])
def test_a_photo_that_was_put_away_says_so(ask: Any) -> None:
    value = {"photo": "of an hour ago", "version": 1, "selected": None, "objects": []}
    with pytest.raises(gr.Error, match="no longer here"):
        ask(value, Visit(), EMBEDDED)


def test_nothing_to_save_says_so() -> None:
    with pytest.raises(gr.Error, match="no photo yet"):
        tab_click.to_save({}, Visit(), EMBEDDED)


def test_what_is_saved_has_the_size_of_the_photo_and_the_names() -> None:
    visit = Visit()
    visit.start(open_photo(EXAMPLES / "coins.jpg"))
    assert visit.photo is not None
    named = {"id": 3, "name": "Drachma", "points": [list(COIN)], "labels": [1], "box": None, "candidate": None}
    found = tab_click.to_save({"photo": visit.photo.id, "version": 1, "objects": [named]}, visit, EMBEDDED)
    assert found.masks.size == visit.photo.size
    assert found.names == ["Drachma"]
