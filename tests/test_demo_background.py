"""Long work beside the page: it never holds up the others, ends when nobody waits, and does not pile up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from demo_server import JSON, call, running_space, upload
from gradio.context import LocalContext

from sam_variants.spaces_demo import api_calls, background, everything, limits
from sam_variants.spaces_demo.background import NobodyWaitsError, Result, end_of_patience, in_steps
from sam_variants.spaces_demo.video_tracking import HeldSessions

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
SECONDS = 20.0


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORK_SECONDS", 0)


@pytest.fixture
def may_go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_steps_and_the_result_are_given() -> None:
    def work(report: Callable[[float, str], None]) -> int:
        report(0.5, "half")
        time.sleep(3 * background.SECONDS_BETWEEN_STEPS)
        return 7

    *steps, last = in_steps(work)
    assert [step.fraction for step in steps] == [0.5]
    assert last == Result(7)


def test_leaving_waits_for_nothing(may_go_on: threading.Event) -> None:
    """Gradio closes generators in its event loop: whoever waits there holds up all visitors."""
    told = threading.Event()

    def work(report: Callable[[float, str], None]) -> None:
        report(0.1, "begun")
        may_go_on.wait(SECONDS)
        try:
            report(0.2, "more")
        except NobodyWaitsError:
            told.set()
            raise

    steps = in_steps(work)
    next(steps)
    begin = time.monotonic()
    steps.close()
    assert time.monotonic() - begin < 1
    assert not told.is_set()
    may_go_on.set()
    assert told.wait(SECONDS)


def test_what_was_left_keeps_its_place(may_go_on: threading.Event) -> None:
    places = limits.MAX_BACKGROUND

    def stuck(report: Callable[[float, str], None]) -> None:
        report(0.1, "begun")
        may_go_on.wait(SECONDS)

    for _ in range(places):
        with closing(in_steps(stuck)) as steps:
            next(steps)
    begun = threading.Event()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(in_steps(lambda report: begun.set())))
    thread.start()
    assert not begun.wait(5 * background.SECONDS_BETWEEN_STEPS)
    may_go_on.set()
    thread.join(SECONDS)
    assert results == [Result(None)]


def test_work_has_an_end(no_patience: None) -> None:
    check = end_of_patience()
    with pytest.raises(gr.Error, match="others wait"):
        check()


def test_work_for_a_caller_who_left_has_an_end() -> None:
    event = SimpleNamespace(alive=True)
    blocks = SimpleNamespace(_queue=SimpleNamespace(event_ids_to_events={"e": event}))
    tokens = LocalContext.blocks.set(blocks), LocalContext.event_id.set("e")  # type: ignore[arg-type]
    try:
        check = end_of_patience()
        check()
        event.alive = False
        with pytest.raises(NobodyWaitsError):
            check()
    finally:
        LocalContext.blocks.reset(tokens[0])
        LocalContext.event_id.reset(tokens[1])


def test_a_caller_who_leaves_frees_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of everything through the API, which otherwise runs to its end with nobody there."""
    running, ended = threading.Event(), []
    find = everything.find_everything

    def endless(loaded: Any, photo: Any, options: Any, progress: Any) -> Any:
        check = end_of_patience()
        running.set()
        try:
            while True:
                check()
                time.sleep(0.01)
        except BaseException as error:
            ended.append(type(error))
            raise

    monkeypatch.setattr(api_calls, "find_everything", endless)
    with running_space(tmp_path) as url, httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        photo = upload(client, "coins.jpg", COINS.read_bytes())
        begun = client.post("gradio_api/call/v2/everything", json={"image": photo}, headers=JSON).json()
        with client.stream("GET", f"gradio_api/call/everything/{begun['event_id']}"):
            assert running.wait(SECONDS)
        monkeypatch.setattr(api_calls, "find_everything", find)
        told, _ = call(client, "everything", image=photo, points_per_side=4, file="none")
    assert told == "complete"
    assert ended == [NobodyWaitsError]


def test_a_job_may_be_freed_while_sessions_are_put_away() -> None:
    """Python frees cycles at any line, and a job's end forgets its session."""
    held = HeldSessions(1)
    done = threading.Event()

    class Forgetting:
        frame = 0

        def __del__(self) -> None:
            held.forget("other")

    def put() -> None:
        task: Any = SimpleNamespace(folder="a", history=lambda frame: "")
        held.put(task, Forgetting())  # type: ignore[arg-type]
        held.put(task, Forgetting())  # type: ignore[arg-type]
        done.set()

    threading.Thread(target=put, daemon=True).start()
    assert done.wait(SECONDS)
