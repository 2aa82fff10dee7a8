"""Wrong calls of the video session: one clear error each, and the session stays usable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from session_examples import HEIGHT, WIDTH, frames_of, logits_of, two_objects_on_two_frames
from tiny import tiny_video_model

from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.video_session import VideoSession


@pytest.fixture(scope="module")
def model() -> SamVariantsVideoModel:
    return tiny_video_model(memory_dtype="float32")


@pytest.fixture
def session(model: SamVariantsVideoModel) -> VideoSession:
    return two_objects_on_two_frames(model)


BAD_PROMPTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, ValueError, "no prompt"),
    "outside": ({"points": [[500, 5]]}, ValueError, "outside"),
    "nan": ({"points": [[float("nan"), 5]]}, ValueError, "finite"),
    "labels without points": ({"labels": [1], "boxes": [1, 1, 5, 5]}, ValueError, "labels"),
    "two objects": ({"points": [[[5, 5]], [[6, 6]]]}, ValueError, "one"),
    "empty box": ({"boxes": [5, 5, 5, 9]}, ValueError, "x1 < x2"),
    "mask of another size": ({"mask": np.ones((4, 4), bool)}, ValueError, "expected the frame's"),
    "mask and points": ({"mask": np.ones((HEIGHT, WIDTH), bool), "points": [[5, 5]]}, ValueError, "mask"),
    "mask with NaN": ({"mask": np.full((HEIGHT, WIDTH), np.nan)}, ValueError, "NaN"),
    "negative frame": ({"points": [[5, 5]], "frame": -2}, ValueError, "negative"),
    "frame out of reach": ({"points": [[5, 5]], "frame": 0}, ValueError, "out of reach"),
    "frame of a wrong kind": ({"points": [[5, 5]], "frame": "0"}, TypeError, "whole number"),
}


@pytest.mark.parametrize(("prompts", "error", "words"), BAD_PROMPTS.values(), ids=list(BAD_PROMPTS))
def test_a_bad_prompt_is_one_clear_error_and_changes_nothing(
    session: VideoSession, model: SamVariantsVideoModel, prompts: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        session.add_object(1, **prompts)
    with pytest.raises(error, match=words):
        session.add_object(55, **prompts)
    assert session.object_ids == [1, 7]
    untouched = two_objects_on_two_frames(model)
    frame = frames_of(3)[2]
    assert torch.equal(logits_of(session.step(frame)), logits_of(untouched.step(frame)))


def test_object_numbers_are_whole_numbers(session: VideoSession) -> None:
    for number in ("cup", 1.5, True, None):
        with pytest.raises(TypeError, match="object_id"):
            session.add_object(number, points=[[5, 5]])  # type: ignore[arg-type]


def test_wrong_calls_leave_the_session_usable(session: VideoSession) -> None:
    with pytest.raises(ValueError, match="frame 2 is 10×10"):
        session.step(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="no/such/frame"):
        session.step("no/such/frame.png")
    with pytest.raises(ValueError, match=r"no object 99.*\[1, 7\]"):
        session.remove_object(99)
    session.remove_object(1)
    with pytest.raises(ValueError, match="no object 1"):
        session.remove_object(1)
    with pytest.raises(ValueError, match="not stepped yet"):
        session.propagate(start_frame=8)
    with pytest.raises(ValueError, match="out of reach"):
        session.propagate(start_frame=0)
    assert session.frame_index == 1
    assert session.step(frames_of(3)[2]).object_ids is not None


def test_a_waiting_prompt_that_does_not_fit_keeps_its_frame_out(model: SamVariantsVideoModel) -> None:
    session = model.start_session()
    session.add_object(1, points=[[60, 45]])
    session.add_object(2, points=[[600, 45]])
    with pytest.raises(ValueError, match="outside"):
        session.step(frames_of(1)[0])
    assert session.frame_index == -1
    session.remove_object(2)
    assert session.step(frames_of(1)[0]).frame_index == 0


def test_a_closed_session_says_so(session: VideoSession) -> None:
    with session:
        pass
    for call in (
        lambda: session.step(frames_of(1)[0]),
        lambda: session.add_object(1, points=[[5, 5]]),
        lambda: session.remove_object(1),
        lambda: session.propagate(),
        lambda: session.track([]),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_tracking_needs_something_to_track(model: SamVariantsVideoModel) -> None:
    with pytest.raises(ValueError, match="no object to track"):
        model.start_session().track(frames_of(2))
    with pytest.raises(ValueError, match="nothing to track"):
        model.start_session().propagate()
    results = model.start_session().track(frames_of(2), {5: {1: {"points": [[5, 5]]}}})
    with pytest.raises(ValueError, match=r"ended after frame 1.*\[5\]"):
        list(results)


@pytest.mark.parametrize(
    "options", [{"keep_frames": 0}, {"objects_per_pass": 0}, {"num_frames": 0}, {"keep_frames": 1.5}]
)
def test_options_out_of_range(model: SamVariantsVideoModel, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        model.start_session(**options)
