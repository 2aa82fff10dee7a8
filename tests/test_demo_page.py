"""The Space's page: one photo and one model for all tabs, any screen, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from browser import DESKTOP, PHONE, axe
from demo_pages import COIN, EXAMPLES, click_pixel, demo_url, open_tab, take_example
from local_hub import LocalHub
from playwright.sync_api import Page, expect

from sam_variants.spaces_demo import example_strip, models, page_parts
from sam_variants.spaces_demo.example_strip import PHOTO_SUFFIXES, VIDEO_SUFFIXES, examples, taken
from sam_variants.spaces_demo.page import TABS
from sam_variants.spaces_demo.theme import LOOK
from tests.tiny import save_tiny

SCREENS: list[dict[str, Any]] = [
    {"viewport": DESKTOP},
    {"viewport": DESKTOP, "dark": True},
    {"viewport": PHONE, "touch": True},
]


@pytest.fixture(scope="module")
def demo(serve: Any) -> str:
    return demo_url(serve)


def width_beyond_screen(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("screen", SCREENS, ids=["light", "dark", "phone"])
def test_every_tab_fits_the_screen_and_is_accessible(demo: str, open_page: Any, screen: dict[str, Any]) -> None:
    page = open_page(demo, **screen)
    take_example(page)
    for label in TABS:
        open_tab(page, label)
        expect(page.get_by_role("tabpanel").filter(visible=True)).to_have_count(1)
        assert width_beyond_screen(page) <= 0, label
        assert axe(page) == [], label


def test_one_photo_reaches_the_canvases_of_all_tabs(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    page.locator("#photo-upload input[type=file]").set_input_files(EXAMPLES / "cat.jpg")
    expect(page.locator("#photo-status")).to_contain_text("cat, ")
    expect(page.locator("#photo-status .note-good")).to_contain_text("ready")
    for label, answer in (("Click", "click"), ("Everything", "everything"), ("Compare", "compare")):
        open_tab(page, label)
        expect(page.locator(f"#{answer}-answer .card-empty")).not_to_contain_text("Open a photo")


def test_the_page_tells_about_its_api(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    page.get_by_role("button", name="Use via API").click()
    for name in ("models", "segment", "everything", "track", "compare"):
        expect(page.locator(".api-docs")).to_contain_text(name)


def test_the_photo_row_leaves_the_video_tab_alone(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    expect(page.locator("#photo-row")).to_be_visible()
    open_tab(page, "Video")
    expect(page.locator("#photo-row")).to_be_hidden()


def test_what_is_no_photo_is_refused_with_advice(demo: str, open_page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "holiday.jpg"
    broken.write_bytes(b"not a photo")
    page = open_page(demo)
    page.locator("#photo-upload input[type=file]").set_input_files(broken)
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("JPEG")
    expect(page.get_by_role("button", name="Clear", exact=True)).to_have_count(0)
    assert str(tmp_path) not in page.content()
    assert "Traceback" not in page.content()


def test_another_model_is_loaded_and_encodes_the_photo_again(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    take_example(page)
    choose_model(page, models.EMBEDDED_VIDEO)
    expect(page.locator("#model-line")).to_contain_text("photos and video")
    expect(page.locator("#photo-status .note-good")).to_contain_text("ready")


def test_a_model_that_cannot_be_had_leaves_the_one_before(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    choose_model(page, "../../etc/passwd")
    expect(page.get_by_test_id("toast-body")).to_contain_text("owner/name")
    expect(page.locator("#model-picker input")).to_have_value(models.EMBEDDED)
    expect(page.locator("#model-line")).to_contain_text("2.4 M parameters")


def test_an_exact_name_is_taken_though_a_longer_one_is_chosen(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    choose_model(page, models.EMBEDDED_VIDEO)
    expect(page.locator("#model-line")).to_contain_text("photos and video")
    choose_model(page, models.EMBEDDED)
    expect(page.locator("#model-line")).to_contain_text("2.4 M parameters")
    expect(page.locator("#model-picker input")).to_have_value(models.EMBEDDED)


def test_arrow_keys_choose_among_what_the_text_leaves(demo: str, open_page: Any) -> None:
    page = open_page(demo)
    box = page.locator("#model-picker input")
    box.click()
    box.press("Control+a")
    box.press_sequentially(models.EMBEDDED)
    box.press("ArrowDown")
    box.press("Enter")
    expect(page.locator("#model-line")).to_contain_text("photos and video")


def choose_model(page: Page, choice: str) -> None:
    """Type a model's name as a visitor does."""
    box = page.locator("#model-picker input")
    box.click()
    box.fill(choice)
    box.press("Enter")


def test_the_look_names_no_other_server() -> None:
    look = LOOK["theme"]._get_theme_css() + LOOK["css"] + LOOK["head"]
    # The name of a format, not an address that is asked.
    assert "//" not in look.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in look
    assert look.count("system-ui") > 0


def test_events_of_the_page_are_no_endpoints() -> None:
    from sam_variants.spaces_demo.page import build

    named = set(build().get_api_info()["named_endpoints"])
    assert named == {"/models", "/segment", "/everything", "/track", "/compare"}


def test_examples_are_the_files_that_are_there() -> None:
    offered = examples(PHOTO_SUFFIXES) + examples(VIDEO_SUFFIXES)
    assert {example.path for example in offered} == set(EXAMPLES.resolve().iterdir()) - {EXAMPLES / "examples.json"}
    assert all(example.title and example.credit for example in offered)
    assert all(example_strip.thumbnail(example.path).startswith("data:image/jpeg;base64,") for example in offered)


@pytest.mark.parametrize("index", [-1, 99, "0", None, 1.0, True])
def test_only_offered_examples_are_taken(index: Any) -> None:
    event = gr.EventData(None, {"index": index})
    with pytest.raises(gr.Error, match="no such example"):
        taken(event, examples())


def test_what_visitors_write_is_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    for made in (
        page_parts.note(evil),
        page_parts.card(evil),
        page_parts.empty(evil, evil),
        page_parts.facts([(evil, evil)]),
        page_parts.progress_bar(0.5, evil),
        page_parts.split_bar([(evil, 1.0)]),
        page_parts.heading(evil),
    ):
        assert "<img" not in made


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (61.24, "61.2 s")]
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert page_parts.seconds_text(seconds) == text


def test_a_model_from_the_hub_is_named_fetched_and_used(
    demo: str, open_page: Any, hub: LocalHub, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "tiny", "tiny_vit", seed=7)
    hub.put("me/picked", {path.name: path.read_bytes() for path in folder.iterdir()})
    page = open_page(demo)
    picker, line = page.locator("#model-picker input"), page.locator("#model-line")
    before = line.inner_text()
    picker.fill("me/picked")
    picker.press("Enter")
    expect(line).not_to_have_text(before)
    expect(line).to_contain_text("parameters")
    take_example(page)
    click_pixel(page, "click-canvas", COIN)
    expect(page.locator("#click-answer")).to_contain_text("expected IoU")
    picker.fill("me/missing")
    picker.press("Enter")
    expect(page.get_by_test_id("toast-body")).to_contain_text("me/missing")
    expect(picker).to_have_value("me/picked")
