"""The Space's page in a browser: what its tests do with it again and again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

# Tests share few cores with others.
expect.set_options(timeout=30_000)

EXAMPLES = Path(__file__).parents[1] / "spaces_demo" / "examples"
# Of coins.jpg: its size, a coin, another one, and the cloth between them.
COINS_SIZE = (384, 303)
COIN, OTHER_COIN, CLOTH = (155, 50), (320, 40), (100, 10)


def demo_url(serve: Any) -> str:
    """Serve the whole page as the Space does."""
    from sam_variants.spaces_demo.guard import launch_options
    from sam_variants.spaces_demo.page import build
    from sam_variants.spaces_demo.theme import LOOK

    return serve(build(), **launch_options() | LOOK)


def take_example(page: Page, title: str = "Coins") -> None:
    """Start with an example, and wait until it is encoded."""
    page.locator("#examples").get_by_role("button", name=title).click()
    expect(page.locator("#photo-status .note-good")).to_contain_text("ready")


def open_tab(page: Page, label: str) -> None:
    page.get_by_role("tab", name=label).click()


def place(
    page: Page, canvas_id: str, pixel: tuple[int, int], size: tuple[int, int] = COINS_SIZE
) -> tuple[float, float]:
    """Where a pixel of a photo of (width, height) lies on the screen, its middle; the photo fills the canvas."""
    box = page.locator(f"#{canvas_id} canvas").first.bounding_box()
    assert box is not None
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left = box["x"] + (box["width"] - scale * size[0]) / 2
    top = box["y"] + (box["height"] - scale * size[1]) / 2
    return left + (pixel[0] + 0.5) * scale, top + (pixel[1] + 0.5) * scale


def click_pixel(page: Page, canvas_id: str, pixel: tuple[int, int], **options: Any) -> None:
    """Click on a pixel of coins.jpg."""
    page.locator(f"#{canvas_id} canvas").first.scroll_into_view_if_needed()
    page.mouse.click(*place(page, canvas_id, pixel), **options)


def number_in(locator: Locator, pattern: str) -> float:
    """The number that a pattern's first group finds in a text."""
    found = re.search(pattern, locator.inner_text())
    assert found is not None, locator.inner_text()
    return float(found[1].replace(",", ""))
