"""Long work beside the page: its progress as steps of a generator, and an end to it when nobody waits any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

SECONDS_BETWEEN_STEPS = 0.1


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
        try:
            state["result"] = work(report)
        except BaseException as error:
            state["error"] = error
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
        is_closed.set()
        thread.join()
    if "error" in state:
        raise state["error"]
    yield Result(state["result"])
