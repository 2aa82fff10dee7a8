"""Long work beside the page: its progress as steps of a generator, and an end to it when nobody waits any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from sam_variants.spaces_demo import limits

SECONDS_BETWEEN_STEPS = 0.1
TOO_LONG = f"This took longer than {limits.WORK_SECONDS // 60} minutes, and others wait. Ask for less at once."
# What is cancelled ends at its next report, and keeps its place until then.
_PLACES = threading.BoundedSemaphore(limits.MAX_BACKGROUND)


class NobodyWaitsError(Exception):
    """Raised inside the work when the visitor has cancelled it."""


@dataclass(frozen=True)
class Step:
    """How far the work is.

    Attributes:
        fraction: 0..1.
        text: what is being done.
    """

    fraction: float
    text: str


@dataclass(frozen=True)
class Result:
    """What the work gave, the last of the steps."""

    value: Any


def in_steps(work: Callable[[Callable[[float, str], None]], Any]) -> Generator[Step | Result]:
    """Run something in a thread of its own and yield how far it is, at the end its result.

    Closing the generator, as gradio does for a cancelled event, raises `NobodyWaitsError` at the work's next report.

    Args:
        work: called with a function that it tells a fraction and a text.

    Raises:
        Exception: what the work raises.
    """
    state: dict[str, Any] = {}
    news, is_closed = threading.Event(), threading.Event()

    def report(fraction: float, text: str) -> None:
        if is_closed.is_set():
            raise NobodyWaitsError
        state["step"] = Step(fraction, text)

    def run() -> None:
        while not _PLACES.acquire(timeout=SECONDS_BETWEEN_STEPS):
            if is_closed.is_set():
                return
        try:
            if not is_closed.is_set():
                state["result"] = work(report)
        except BaseException as error:
            state["error"] = error
        finally:
            _PLACES.release()
            news.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    shown: Step | None = None
    try:
        while not news.wait(SECONDS_BETWEEN_STEPS):
            step: Step | None = state.get("step")
            if step is not None and step is not shown:
                shown = step
                yield step
    finally:
        # Not waited for: gradio closes generators where it answers all visitors.
        is_closed.set()
    if "error" in state:
        raise state["error"]
    yield Result(state["result"])


def end_of_patience() -> Callable[[], None]:
    """A check for work that is done in steps, in the thread in which gradio began it or in another.

    Returns:
        A function that raises gr.Error when the work has taken `limits.WORK_SECONDS`, and `NobodyWaitsError` when the
        caller has gone.
    """
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = None if blocks is None or event_id is None else blocks._queue.event_ids_to_events.get(event_id)
    end = time.monotonic() + limits.WORK_SECONDS

    def check() -> None:
        if event is not None and not event.alive:
            raise NobodyWaitsError
        if time.monotonic() > end:
            raise gr.Error(TOO_LONG, print_exception=False)

    return check
