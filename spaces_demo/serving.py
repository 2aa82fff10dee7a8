"""A page of ours, served from this process until it is interrupted."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gradio as gr

from sam_variants.spaces_demo.housekeeping import own_cache

# Blocks of this many bytes are no part of the heap, which keeps what it once got. Pillow's have 16 MiB.
LARGE_BLOCK = 8 * 2**20
M_MMAP_THRESHOLD = -3  # from malloc.h


def serve_page(
    build: Callable[[], gr.Blocks],
    options: Callable[[], dict[str, Any]],
    announce: Callable[[str], Any],
    *others: Callable[[], object],
    **where: Any,
) -> None:
    """Show a page until the process is interrupted or told to end.

    Args:
        build: makes the page, when gradio's cache has its place.
        options: makes the arguments of `Blocks.launch`, then too.
        announce: called with the page's address when it is ready.
        others: called as often as the cache is looked through, as `own_cache` takes them.
        where: `server_name` and `server_port`; by default as gradio finds them in the environment.
    """
    give_memory_back()
    with own_cache(*others), ended_by_interrupts():
        page = build()
        _, url, _ = page.launch(**options() | where, share=False, quiet=True, prevent_thread_lock=True)
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
