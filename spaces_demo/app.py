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
from sam_variants.spaces_demo.serving import serve_page
from sam_variants.spaces_demo.theme import LOOK
from sam_variants.spaces_demo.video_jobs import OPEN_JOBS


def print_address(url: str) -> None:
    print(f"The Space is at {url}", flush=True)


def serve(announce: Callable[[str], Any] = print_address, **where: Any) -> None:
    """Show the page until the process is interrupted or told to end.

    Args:
        announce: called with the page's address when it is ready.
        where: `server_name` and `server_port`; by default as gradio finds them in the environment.
    """
    serve_page(build, lambda: launch_options() | LOOK, announce, OPEN_JOBS.put_old_away, **where)


if __name__ == "__main__":
    serve()
