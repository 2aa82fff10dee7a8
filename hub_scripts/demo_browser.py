"""A visitor of the Space with a browser: Chromium without a window, where Playwright and one are installed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# It runs as root in containers, draws without a GPU, and calls nobody of its own accord.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
UPLOAD, STATUS, CANVAS, ANSWER = "#photo-upload input[type=file]", "#photo-status", "#click-canvas", "#click-answer"
READY = "ready"
# The answer's text comes with the masks; two frames later both are on the screen.
WATCH = """(selector) => {
  const times = window.clickTimes = {down: 0, answered: 0};
  window.addEventListener('pointerdown', () => { times.down = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
    times.answered = performance.now();
  }))).observe(document.querySelector(selector), {childList: true, subtree: true, characterData: true});
}"""
ANSWERED = "() => window.clickTimes.answered > window.clickTimes.down"
TOOK = "() => window.clickTimes.answered - window.clickTimes.down"
MILLISECONDS = 60_000


def found_browser() -> str | None:
    """The browser's program, or None where it or Playwright is missing."""
    if find_spec("playwright") is None:
        return None
    return next(filter(None, map(shutil.which, EXECUTABLES)), None)


@contextmanager
def browser_page(executable: str, url: str) -> Iterator[Any]:
    """The Space in a window that nobody sees, loaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(MILLISECONDS)
            page.goto(url)
            page.wait_for_selector(f"{CANVAS} canvas")
            page.evaluate(WATCH, ANSWER)
            yield page
        finally:
            browser.close()


def open_and_click(page: Any, photo: Path, places: list[tuple[float, float]]) -> tuple[float, list[float]]:
    """Upload a photo and click, each click when the one before is answered.

    Args:
        page: from `browser_page`.
        photo: a file.
        places: of the clicks, as shares of the photo's width and height.

    Returns:
        Seconds from the upload to the first mask, and from each further click to its mask.
    """
    begin = time.perf_counter()
    page.set_input_files(UPLOAD, photo)
    page.wait_for_function(
        "([selector, word]) => document.querySelector(selector).textContent.includes(word)", arg=[STATUS, READY]
    )
    surface = page.locator(f"{CANVAS} canvas").first
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    seconds, first = [], 0.0
    for number, (x, y) in enumerate(places):
        # Within the middle half, which the photo fills whatever its shape.
        page.mouse.click(box["x"] + box["width"] * (0.25 + x / 2), box["y"] + box["height"] * (0.25 + y / 2))
        page.wait_for_function(ANSWERED)
        if number:
            seconds.append(page.evaluate(TOOK) / 1000)
        else:
            first = time.perf_counter() - begin
    return first, seconds
