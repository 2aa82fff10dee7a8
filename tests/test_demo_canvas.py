"""The canvas in a real browser, before a server that answers with plain shapes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from browser import PHONE, Pages, Served, axe
from canvas_driver import HEIGHT, SHOWN, WIDTH, Driven, shapes_page
from PIL import Image

from sam_variants import Masks
from sam_variants.spaces_demo.canvas import as_png, canvas, cropped, mask_props
from sam_variants.spaces_demo.theme import LOOK


@pytest.fixture(scope="module")
def url(serve: Served, tmp_path_factory: pytest.TempPathFactory) -> str:
    shown = tmp_path_factory.mktemp("canvas") / "photo.png"
    Image.radial_gradient("L").resize(SHOWN).save(shown)
    return serve(shapes_page(f"/gradio_api/file={shown}"), allowed_paths=[str(shown.parent)], **LOOK)


Opener = Callable[..., Driven]


@pytest.fixture
def opened(open_page: Pages, url: str) -> Opener:
    def open_it(**how: Any) -> Driven:
        page = open_page(url, **how)
        driven = Driven(page)
        page.get_by_role("button", name="Show", exact=True).click()
        page.wait_for_selector("#main [data-photo=a]")
        page.wait_for_selector("#picker [data-masks='1 2']")
        return driven

    return open_it


def close(points: list[list[int]], wanted: list[tuple[int, int]], slack: float) -> bool:
    """Mouse events come in whole CSS pixels: a place is known to `slack` pixels of the original."""
    return len(points) == len(wanted) and bool(np.abs(np.array(points) - np.array(wanted)).max() <= slack)


def test_no_click_is_lost_however_fast(opened: Opener) -> None:
    driven = opened()
    wanted = [(100 + 40 * i, 200 + 15 * i) for i in range(30)]
    places = [driven.at(*point) for point in wanted]
    for place in places:
        driven.page.mouse.click(*place)
    driven.wait(lambda: len(driven.objects[0]["points"]) == 30)
    assert close(driven.objects[0]["points"], wanted, 2)
    driven.wait_for_answer()
    assert driven.read("masks") == "1"
    assert len(driven.sent) < 30  # those in between were passed over


@pytest.mark.parametrize("scale", [1, 2])
def test_places_are_exact_at_every_zoom(opened: Opener, scale: float) -> None:
    driven = opened(scale=scale)
    page, zoom_text = driven.page, driven.page.locator("#main .zoom")
    middle = (WIDTH // 2, HEIGHT // 2)
    left, top = driven.at(*middle)
    box = driven.surface.bounding_box()
    fit = min(box["width"] / WIDTH, box["height"] / HEIGHT)
    driven.surface.focus()
    now = 1.0
    for zoom in (1, 2, 4):
        page.mouse.move(left, top)
        while now < zoom:
            page.mouse.wheel(0, -60)
            now = float(zoom_text.inner_text().rstrip("%")) / 100
        # A pixel of the screen, which is what a mouse points at, has this many of the photo.
        slack = 1 + 1 / (fit * now)
        for dx, dy in ((0, 0), (137, -71), (-160, 93)):
            page.mouse.click(left + dx, top + dy)
            expected = np.array(middle) + np.array([dx, dy]) / (fit * now)
            assert np.abs(np.array(latest(driven)) - expected).max() <= slack, (zoom, dx, dy)
    page.keyboard.down("Space")
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left - 80, top - 50, steps=3)
    page.mouse.up()
    page.keyboard.up("Space")
    page.mouse.click(left - 80, top - 50)
    assert np.abs(np.array(latest(driven)) - np.array(middle)).max() <= slack


def latest(driven: Driven) -> tuple[int, int]:
    """The last point, as the page itself says it."""
    driven.page.wait_for_function("/^Include \\d+, \\d+/.test(document.querySelector('#main [role=status]').innerText)")
    words = driven.status.split(",")
    return int(words[0].split()[1]), int(words[1])


def test_prompts_of_every_kind(opened: Opener) -> None:
    driven = opened()
    page = driven.page
    driven.click(400, 400)
    page.keyboard.down("Shift")
    driven.click(500, 300)
    page.keyboard.up("Shift")
    page.mouse.click(*driven.at(520, 320), button="right")
    driven.button("Exclude").click()
    driven.click(300, 200)
    driven.drag((1600 - 1, 500), (1300, 906))  # from the edge, and backwards
    driven.wait_for_masks("1")
    driven.wait(lambda: driven.objects[0]["box"])
    (item,) = driven.objects
    assert item["labels"] == [1, 0, 0, 0]
    assert close([item["box"][:2], item["box"][2:]], [(1300, 500), (1600, 907)], 2)
    driven.button("Undo").click()
    driven.wait(lambda: driven.objects[0]["box"] is None)
    page.keyboard.press("Tab")
    driven.surface.focus()
    page.keyboard.press("Control+Shift+z")
    driven.wait(lambda: driven.objects[0]["box"])
    page.locator("#main select").select_option("1")
    driven.wait(lambda: driven.objects[0]["candidate"] == 1)
    driven.button("Clear the selected").click()
    driven.wait(lambda: len(driven.objects[0]["points"]) == 0)
    driven.wait_for_masks("")
    assert driven.objects[0]["box"] is None


def test_a_drag_beyond_the_edge_ends_at_it(opened: Opener) -> None:
    driven = opened()
    driven.drag((1500, 850), (1700, 1000))
    driven.wait(lambda: driven.objects[0]["box"])
    assert driven.objects[0]["box"][2:] == [WIDTH, HEIGHT]


def test_objects_are_added_named_selected_and_deleted(opened: Opener) -> None:
    driven = opened()
    page = driven.page
    driven.click(200, 200)
    driven.button("New object").click()
    driven.click(900, 500)
    driven.wait_for_masks("1 2")
    driven.button("Rename Object 1").click()
    page.keyboard.type("  a coin <b>  ")
    page.keyboard.press("Enter")
    row = page.locator("#main .chips li").first
    assert row.locator(".name span").inner_text() == "a coin <b>"
    row.locator(".name").click()
    driven.click(260, 200)
    driven.wait(lambda: len(driven.objects[0]["points"]) == 2)
    assert [item["name"] for item in driven.objects] == ["a coin <b>", "Object 2"]
    driven.button("Delete a coin").click()
    driven.wait_for_masks("2")
    driven.button("New object").click()
    driven.click(1300, 300)
    driven.wait_for_masks("2 3")  # no number is used twice
    driven.surface.focus()
    for _ in range(3):
        page.keyboard.press("Control+z")
    driven.wait_for_masks("1 2")


def test_an_older_answer_is_not_drawn_over_a_newer_one(opened: Opener) -> None:
    driven = opened()
    for x in (200, 400, 600):
        driven.click(x, 300)
    driven.wait(lambda: len(driven.objects[0]["points"]) == 3)
    driven.wait_for_answer()
    version = driven.read("version")
    size = driven.page.locator("#main .chips small").inner_text()
    driven.page.get_by_role("button", name="Late", exact=True).click()
    driven.page.wait_for_load_state("networkidle")
    assert driven.read("version") == version
    assert driven.page.locator("#main .chips small").inner_text() == size != "81 px"


def test_another_photo_brings_its_own_objects(opened: Opener) -> None:
    driven = opened()
    driven.click(200, 200)
    driven.wait_for_masks("1")
    driven.page.get_by_role("button", name="Other", exact=True).click()
    driven.page.wait_for_selector("#main [data-photo=b]")
    assert driven.read("masks") == ""
    assert driven.page.locator("#main .chips .name span").all_inner_texts() == ["Seven"]
    driven.button("New object").click()
    driven.click(500, 500)
    driven.wait_for_masks("7 8")


def test_the_keyboard_does_it_all(opened: Opener) -> None:
    driven = opened()
    page = driven.page
    driven.surface.focus()
    for key in ("Enter", "ArrowRight", "ArrowRight", "Enter", "ArrowDown", "Shift+Enter"):
        page.keyboard.press(key)
    driven.wait(lambda: len(driven.objects[0]["labels"]) == 2)
    (item,) = driven.objects
    assert item["labels"] == [1, 0]
    (x, y), (x2, y2) = item["points"]
    assert y == HEIGHT // 2
    assert x > WIDTH // 2
    assert (x2, y2 > y) == (x, True)
    for key in ("n", "b", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    driven.wait_for_masks("1 2")
    box = driven.objects[1]["box"]
    assert box[0] == x
    assert box[2] > box[0] + 50
    page.keyboard.press("+")
    assert page.locator("#main .zoom").inner_text() == "150%"
    page.keyboard.press("0")
    assert page.locator("#main .zoom").inner_text() == "100%"
    page.keyboard.press("Delete")
    driven.wait_for_masks("1")


def test_fingers_tap_pan_and_pinch(opened: Opener) -> None:
    driven = opened(touch=True, viewport=PHONE, scale=2)
    page = driven.page
    page.touchscreen.tap(*driven.at(400, 400))
    driven.wait_for_masks("1")
    assert close(driven.objects[0]["points"], [(400, 400)], 5)
    session = page.context.new_cdp_session(page)
    x, y = driven.at(800, 450)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": left, "y": top, "id": i} for i, (left, top) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", (x - 20, y), (x + 20, y))
    for spread in (30, 40, 60):
        fingers("touchMove", (x - spread, y), (x + spread, y))
    fingers("touchEnd")
    assert page.locator("#main .zoom").inner_text() == "300%"
    assert len(driven.objects[0]["points"]) == 1  # no finger of it was a click
    page.touchscreen.tap(x, y)
    driven.wait(lambda: len(driven.objects[0]["points"]) == 2)
    assert close(driven.objects[0]["points"][1:], [(800, 450)], 8)
    driven.button("Box").click()
    fingers("touchStart", (x - 60, y - 40))
    fingers("touchMove", (x, y))
    fingers("touchMove", (x + 60, y + 40))
    fingers("touchEnd")
    driven.wait(lambda: driven.objects[0]["box"])
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_pick_finds_the_smallest_mask(opened: Opener) -> None:
    driven = Driven(opened().page, "picker")
    page = driven.page
    hint = page.locator("#picker .hint")
    for place, wanted in (((700, 400), "2"), ((300, 700), "1"), ((50, 50), "")):
        page.mouse.move(*driven.at(*place))
        page.wait_for_function("id => document.querySelector('#picker .canvas').dataset.hovered === id", arg=wanted)
        assert hint.is_visible() == bool(wanted)
    page.mouse.move(*driven.at(700, 400))
    assert hint.inner_text() == "Mask 2: 60,000 px"
    driven.click(700, 400)
    page.wait_for_function("document.querySelector('#heard textarea, #heard input').value === '2'")
    driven.click(50, 50)
    page.wait_for_function("document.querySelector('#heard textarea, #heard input').value === 'None'")
    driven.click(300, 700)
    page.wait_for_function("document.querySelector('#heard textarea, #heard input').value === '1'")


def test_what_is_dropped_or_pasted_goes_to_the_upload(open_page: Pages, url: str) -> None:
    page = open_page(url)
    page.wait_for_selector("#main .stage")
    hand_over = """([name, kind, where]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array([1, 2, 3])], name, { type: 'image/png' }));
      const target = document.querySelector(where);
      target.dispatchEvent(kind === 'drop' ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true })
        : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }));
    }"""
    for name, kind, where in (
        ("dropped.png", "drop", "#main .stage"),
        ("pasted.png", "paste", "#main .stage"),
        ("beside.png", "drop", "#heard"),
    ):
        page.evaluate(hand_over, [name, kind, where])
        page.wait_for_function(
            "name => document.querySelector('#heard textarea, #heard input').value === name", arg=name
        )
    with page.expect_file_chooser():
        page.get_by_role("button", name="Drop a photo here").first.click()


@pytest.mark.parametrize(
    "how", [{}, {"dark": True}, {"viewport": PHONE, "touch": True}], ids=["light", "dark", "phone"]
)
def test_everybody_can_use_it(opened: Opener, how: dict[str, Any]) -> None:
    driven = opened(**how)
    driven.surface.focus()
    driven.page.keyboard.press("Enter")
    driven.page.keyboard.press("Enter")
    driven.wait_for_masks("1")
    for name in ("main", "picker", "viewer"):
        assert axe(driven.page, f"#{name}") == []


def test_masks_are_cropped_and_scaled() -> None:
    pixels = torch.zeros(2, 60, 40, dtype=torch.bool)
    pixels[0, 10:30, 5:25] = True
    pixels[0, 12, 7] = False
    props = mask_props(Masks(pixels, scores=[0.5, 0.25]), [3, 9], photo="p", version=4, size=(120, 120))
    first, second = props["objects"]
    assert (props["photo"], props["version"]) == ("p", 4)
    assert (first["id"], first["score"], second["id"]) == (3, 0.5, 9)
    assert (first["x"], first["y"], first["width"], first["height"]) == (15, 20, 60, 40)
    assert first["area"] == (20 * 20 - 1) * 6
    assert second["area"] == 0
    picture = Image.open(io.BytesIO(base64.b64decode(first["png"]))).convert("RGBA")
    opaque = np.asarray(picture)[..., 3] > 0
    assert (opaque == pixels[0, 10:30, 5:25].numpy()).all()


def test_large_answers_are_reduced() -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(as_png(np.ones((5000, 3001), bool), 0.2))))
    assert picture.size == (600, 1000)
    noise = np.random.default_rng(0).uniform(size=(3, 1500, 2000)) > 0.5
    props = mask_props(Masks(torch.from_numpy(noise)), [1, 2, 3], photo="p", version=0, size=(3000, 4000))
    assert sum(len(item["png"]) for item in props["objects"]) < 900_000
    assert [item["area"] for item in props["objects"]] == [4 * int(mask.sum()) for mask in noise]
    assert (
        mask_props(Masks(torch.zeros(0, 5, 5, dtype=torch.bool)), [], photo="p", version=0, size=(5, 5))["objects"]
        == []
    )
    empty, box = cropped(Masks(torch.zeros(1, 5, 5, dtype=torch.bool)))
    assert (empty.any(), box) == (False, (0, 0, 1, 1))
    with pytest.raises(ValueError, match="mode='draw'"):
        canvas("x", elem_id="x", mode="draw")


def test_a_name_can_be_typed_while_answers_arrive(opened: Opener) -> None:
    driven = opened()
    driven.click(200, 200)
    driven.button("Rename Object 1").click()
    driven.page.keyboard.type("my ")
    driven.wait_for_answer()
    driven.page.keyboard.press("Enter")
    driven.button("Rename my").click()
    driven.page.keyboard.type("coin")
    driven.page.keyboard.press("Escape")
    assert driven.page.locator("#main .chips .name span").inner_text() == "my"
    driven.page.keyboard.press("Control+z")  # the focus is back in the list
    driven.wait(lambda: driven.objects[0]["name"] == "Object 1")


def test_what_is_no_photo_is_said_so(open_page: Pages, url: str) -> None:
    page = open_page(url)
    page.wait_for_selector("#main .stage")
    page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(['x'], 'x.txt', { type: 'text/plain' }));
      const dropped = new DragEvent('drop', { dataTransfer: transfer, bubbles: true });
      document.querySelector('#main .stage').dispatchEvent(dropped);
    }""")
    assert page.locator("#main .notice").inner_text() == "That is no photo."


def test_there_is_room_for_so_many_objects(opened: Opener) -> None:
    driven = opened()
    for number in range(4):
        driven.button("New object").click()
        driven.click(200 + 300 * number, 300)
    driven.wait_for_masks("1 2 3 4")
    driven.button("New object").click()
    assert "4 objects are the most" in driven.page.locator("#main .notice").inner_text()
    driven.button("Delete Object 2").click()
    driven.button("New object").click()
    assert not driven.page.locator("#main .notice").is_visible()
    driven.click(900, 700)
    driven.wait_for_masks("1 3 4 5")
