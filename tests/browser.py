"""Pages of ours in a real Chromium: opened by Playwright, watched for errors and for anything from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sam_variants.hub_scripts.demo_browser import ARGUMENTS, EXECUTABLES, found_browser

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP, PHONE = (1280, 900), (390, 844)
TIMEOUT_MS = 30_000
# What axe-core calls the two upper of its four levels.
SERIOUS = ("serious", "critical")


def skip_or_fail(reason: str) -> None:
    """Browser tests need what pip does not install: without it they are left out, but not unnoticed in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium of this machine."""
    executable = found_browser()
    if executable is None:
        skip_or_fail(f"no Chromium: none of {EXECUTABLES} is installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Served:
    """Pages that are served by this process, until they are closed."""

    def __init__(self) -> None:
        self.running: list[gr.Blocks] = []

    def __call__(self, blocks: gr.Blocks, **launch: Any) -> str:
        """Serve a page on a free port of loopback; returns its address."""
        _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **launch)
        self.running.append(blocks)
        return url

    def close(self) -> None:
        for blocks in self.running:
            blocks.close(verbose=False)


class Pages:
    """Opens pages, and keeps what they complain about and whom they call."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def __call__(
        self,
        url: str,
        *,
        viewport: tuple[int, int] = DESKTOP,
        dark: bool = False,
        touch: bool = False,
        scale: float = 1,
        clipboard: bool = False,
    ) -> Page:
        """Open an address in a new context, as a new visitor.

        Args:
            url: the address.
            viewport: width and height in CSS pixels.
            dark: what the visitor prefers.
            touch: a screen that is touched, without a mouse.
            scale: device pixels per CSS pixel.
            clipboard: whether scripts may read and write it.
        """
        context = self.browser.new_context(
            viewport={"width": viewport[0], "height": viewport[1]},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            is_mobile=touch,
            device_scale_factor=scale,
            accept_downloads=True,
        )
        if clipboard:
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", self._request)
        page.on("response", self._response)
        page.goto(url)
        return page

    def _console(self, message: Any) -> None:
        # A failed request is told better by its response.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname not in ("127.0.0.1", "localhost"):
            self.problems.append(f"request that leaves this machine: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status} for {response.url}")

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def axe(page: Page, include: str = "body") -> list[str]:
    """What axe-core finds serious or critical in a page: rule, help and the elements."""
    if not AXE.is_file():
        skip_or_fail("no axe-core: run `npm ci --prefix tests`")
    page.add_script_tag(path=AXE)
    found = page.evaluate("selector => axe.run(selector, {resultTypes: ['violations']})", include)
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'][:160] for node in violation['nodes']]}"
        for violation in found["violations"]
        if violation["impact"] in SERIOUS
    ]
