"""The Space: `python app.py` there, or `python -m sam_variants.spaces_demo.app` where the package is installed."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

# First: where GPUs are lent, it imports `spaces`, which has to come before torch and so before the package.
import gradio  # noqa: F401

from sam_variants.spaces_demo.guard import launch_options
from sam_variants.spaces_demo.housekeeping import own_cache
from sam_variants.spaces_demo.page import build
from sam_variants.spaces_demo.theme import LOOK
from sam_variants.spaces_demo.video_jobs import OPEN_JOBS

# Blocks of this many bytes are no part of the heap, which keeps what it once got. Pillow's have 16 MiB.
LARGE_BLOCK = 8 * 2**20
M_MMAP_THRESHOLD = -3  # from malloc.h


def print_address(url: str) -> None:
    print(f"The Space is at {url}", flush=True)


def serve(announce: Callable[[str], Any] = print_address, **where: Any) -> None:
    """Show the page until the process is interrupted or told to end.

    Args:
        announce: called with the page's address when it is ready.
        where: `server_name` and `server_port`; by default as gradio finds them in the environment.
    """
    give_memory_back()
    with own_cache(OPEN_JOBS.put_old_away), ended_by_interrupts():
        page = build()
        options = launch_options() | LOOK | where
        _, url, _ = page.launch(**options, share=False, quiet=True, prevent_thread_lock=True)
        announce(url)
        page.block_thread()


def give_memory_back() -> None:
    """Let the pixels of large photos go back to the system when they are freed, where that can be said (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """SIGTERM, with which services are stopped, ends as Ctrl+C does: in order, and leaving nothing behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    serve()
