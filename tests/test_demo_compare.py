"""The tab "Compare": two models, the same prompts, and how far they agree."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
import torch
from demo_pages import COIN, EXAMPLES, OTHER_COIN, click_pixel, demo_url, number_in, open_tab, take_example
from playwright.sync_api import Page, expect

from sam_variants.spaces_demo.comparing import compare, iou
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, store
from sam_variants.spaces_demo.photos import open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.shared import COMPARE, MODELS, PROMPT, WORK
from sam_variants.spaces_demo.tab_compare import answer
from sam_variants.spaces_demo.visits import Visit

AGREEMENT = r"IoU ([\d.]+)"


@pytest.fixture(scope="module")
def demo(serve: Any) -> str:
    return demo_url(serve)


@pytest.fixture
def coins(demo: str, open_page: Any) -> Page:
    page = open_page(demo)
    take_example(page)
    open_tab(page, "Compare")
    return page


def test_both_models_answer_a_click(coins: Page) -> None:
    click_pixel(coins, "compare-left", COIN)
    panel = coins.locator("#compare-answer h2")
    expect(panel).to_contain_text("IoU")
    expected = compare(*map(store().get, (EMBEDDED, EMBEDDED_VIDEO)), open_photo(EXAMPLES / "coins.jpg"), [prompt()])
    assert number_in(panel, AGREEMENT) == pytest.approx(expected.agreement[0], abs=0.001)
    for side in ("left", "right"):
        expect(coins.locator(f"#compare-{side}-answer dt")).to_have_text(["Decode", "Encode", "Area", "Expected IoU"])


def test_one_model_agrees_with_itself(coins: Page) -> None:
    click_pixel(coins, "compare-left", OTHER_COIN)
    expect(coins.locator("#compare-answer h2")).to_contain_text("IoU")
    coins.locator("#compare-right-model input").click()
    coins.get_by_role("option", name=EMBEDDED, exact=True).click()
    expect(coins.locator("#compare-answer h2")).to_have_text("They agree: IoU 1.000")


def test_the_right_side_shows_the_same_prompts(coins: Page) -> None:
    canvas = coins.locator("#compare-right canvas").first
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    click_pixel(coins, "compare-left", COIN)
    coins.wait_for_function(
        "before => document.querySelector('#compare-right canvas').toDataURL() !== before", arg=before
    )


def test_agreement_is_the_iou() -> None:
    one, other = torch.zeros(2, 4, 6, dtype=torch.bool)
    assert iou(one, other) == 1.0
    one[:, :4] = True
    assert iou(one, other) == 0.0
    other[:, 2:] = True
    assert iou(one, other) == pytest.approx(8 / 24)


def test_without_prompts_there_is_nothing_to_compare() -> None:
    visit = Visit()
    assert answer({"photo": None}, visit, EMBEDDED, EMBEDDED) == [gr.skip()] * 5
    visit.start(open_photo(EXAMPLES / "coins.jpg"))
    assert visit.photo is not None
    value = {"photo": visit.photo.id, "version": 2, "selected": None, "objects": []}
    *_, panel = answer(value, visit, EMBEDDED, EMBEDDED)
    assert "Both models get the same prompts" in panel


def test_a_photo_that_was_put_away_says_so() -> None:
    with pytest.raises(gr.Error, match="no longer here"):
        answer({"photo": "of an hour ago"}, Visit(), EMBEDDED, EMBEDDED)


def test_clicks_do_not_wait_for_everything_or_for_models() -> None:
    lanes = [each["concurrency_id"] for each in (PROMPT, WORK, COMPARE, MODELS)]
    assert len(set(lanes)) == len(lanes)


def prompt() -> ObjectPrompts:
    return ObjectPrompts(1, "Coin", (COIN,), (1,), None, None)
