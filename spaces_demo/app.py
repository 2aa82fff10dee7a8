"""The Space: `python app.py` there, or `python -m sam_variants.spaces_demo.app` where the package is installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

# First: where GPUs are lent, it imports `spaces`, which has to come before torch and so before the package.
import gradio  # noqa: F401

from sam_variants.spaces_demo.guard import launch_options
from sam_variants.spaces_demo.page import build
from sam_variants.spaces_demo.theme import LOOK


def print_address(url: str) -> None:
    print(f"The Space is at {url}", flush=True)


def serve(announce: Callable[[str], Any] = print_address, **where: Any) -> None:
    """Show the page until the process is interrupted.

    Args:
        announce: called with the page's address when it is ready.
        where: `server_name` and `server_port`; by default as gradio finds them in the environment.
    """
    page = build()
    options = launch_options() | LOOK | where
    _, url, _ = page.launch(**options, share=False, quiet=True, prevent_thread_lock=True)
    announce(url)
    page.block_thread()


if __name__ == "__main__":
    serve()
