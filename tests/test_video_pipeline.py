"""`pipeline("promptable-video-segmentation")`: what it answers, frame by frame, and what it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_VISION, save_tiny, save_tiny_video, tiny_model, tiny_video_model
from transformers import SamConfig, SamModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from video_examples import write_video

import sam_variants
from sam_variants.processing.processor_for import processor_for
from sam_variants.processing.video_reader import read_frames
from sam_variants.results import Masks
from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline

TASK = "promptable-video-segmentation"
HEIGHT, WIDTH = 48, 80
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[8:30, 20:60] = True
PROMPTS: dict[int, dict[int, dict[str, Any]]] = {
    0: {3: {"points": [[20, 20], [60, 40]], "labels": [1, 0]}, 1: {"boxes": [30, 6, 70, 40]}},
    2: {7: {"mask": MASK}},
    3: {3: {"points": [[40, 30]]}},
}

CLICK = {0: {1: {"points": [20, 20]}}}


def clip(num_frames: int = 5, seed: int = 0) -> np.ndarray:
    """A picture that moves, T×H×W×3."""
    picture = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return np.stack([np.roll(picture, 3 * index, axis=1) for index in range(num_frames)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("video_pipeline") / "model", seed=3)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> PromptableVideoSegmentationPipeline:
    return pipeline(TASK, model=str(folder))


def by_hand(model: Any, frames: Any, prompts: dict[int, dict[int, dict[str, Any]]]) -> list[Masks]:
    session = model.start_session()
    for frame, by_object in prompts.items():
        for object_id, arguments in by_object.items():
            session.add_object(object_id, frame=frame, **arguments)
    return [session.step(frame) for frame in frames]


def assert_same(found: list[Masks], expected: list[Masks], tolerance: float = 0.0) -> None:
    assert len(found) == len(expected)
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.frame_index == other.frame_index == index
        assert one.object_ids.tolist() == other.object_ids.tolist()
        for name in ("scores", "object_score_logits"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=tolerance, rtol=0)
        assert (one.data != other.data).float().mean() <= tolerance


def test_the_task_is_registered() -> None:
    _, task, _ = PIPELINE_REGISTRY.check_task(TASK)
    assert task["impl"] is PromptableVideoSegmentationPipeline
    assert sam_variants.PromptableVideoSegmentationPipeline is PromptableVideoSegmentationPipeline


@pytest.mark.parametrize("encoder", sorted(TINY_VISION))
def test_results_are_those_of_a_session(encoder: str) -> None:
    model = tiny_video_model(encoder, seed=3)
    found = list(PromptableVideoSegmentationPipeline(model=model)(clip(), PROMPTS))
    assert_same(found, by_hand(model, clip(), PROMPTS))
    assert found[0].object_ids.tolist() == [3, 1, 7]
    assert (found[2].data[2].numpy() != MASK).mean() < 0.05
    assert found[0].size == (HEIGHT, WIDTH)


def test_only_a_loaded_model_is_fused(folder: Path, pipe: PromptableVideoSegmentationPipeline) -> None:
    given = sam_variants.load_checkpoint(folder)
    untouched = PromptableVideoSegmentationPipeline(model=given)
    assert pipe.model._is_fused
    assert not given._is_fused
    assert_same(list(pipe(clip(2), CLICK)), list(untouched(clip(2), CLICK)), tolerance=1e-4)


def test_saved_and_loaded_it_answers_the_same(
    pipe: PromptableVideoSegmentationPipeline, folder: Path, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    before, after = (sam_variants.load_checkpoint(path).state_dict() for path in (folder, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = pipeline(TASK, model=str(tmp_path / "saved"))
    assert_same(list(again(clip(2), CLICK)), list(pipe(clip(2), CLICK)))


def test_keys_may_be_strings_as_in_json(pipe: PromptableVideoSegmentationPipeline) -> None:
    given = {frame: dict(by_object) for frame, by_object in PROMPTS.items() if frame != 2}
    assert_same(list(pipe(clip(), json.loads(json.dumps(given)))), list(pipe(clip(), given)))


def test_frames_are_drawn_one_at_a_time(pipe: PromptableVideoSegmentationPipeline) -> None:
    """An endless stream: nothing is read or computed before it is asked for."""
    drawn = []

    def camera() -> Iterator[np.ndarray]:
        for index in itertools.count():
            drawn.append(index)
            yield clip(1, seed=index)[0]

    results = pipe(camera(), {0: {1: {"points": [10, 10]}}})
    assert drawn == []
    assert next(results).frame_index == 0
    assert drawn == [0]
    assert next(results).frame_index == 1
    assert drawn == [0, 1]


def test_a_file_and_a_folder_of_images_are_videos(pipe: PromptableVideoSegmentationPipeline, tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip.mp4", list(clip(2)))
    decoded = [frame.image for frame in read_frames(file)]
    images = tmp_path / "images"
    images.mkdir()
    for index, frame in enumerate(decoded):
        Image.fromarray(frame).save(images / f"{index}.png")
    expected = list(pipe(decoded, CLICK))
    for video in (file, str(file), images):
        assert_same(list(pipe(video, prompts=CLICK)), expected)


def test_options_are_those_of_the_session(
    folder: Path, pipe: PromptableVideoSegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    start = type(pipe.model).start_session

    def recorded(model: Any, processor: Any = None, **options: Any) -> Any:
        seen.append(options)
        return start(model, processor, **options)

    monkeypatch.setattr(type(pipe.model), "start_session", recorded)
    list(pipe(clip(2), CLICK, keep_frames=2, objects_per_pass=1))
    list(pipeline(TASK, model=str(folder), num_frames=2)(clip(2), CLICK, objects_per_pass=3))
    assert seen == [{"keep_frames": 2, "objects_per_pass": 1}, {"num_frames": 2, "objects_per_pass": 3}]
    with pytest.raises(TypeError, match=r"no arguments.*'threshold'"):
        pipe(clip(), PROMPTS, threshold=1)


def test_dtype_and_device_reach_the_model(folder: Path) -> None:
    half = pipeline(TASK, model=str(folder), dtype=torch.bfloat16, device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert next(half(clip(), PROMPTS)).scores.isfinite().all()


def test_a_model_for_images_is_refused_with_the_call_that_gives_a_tracker(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"SamVariantsModel.*no memory.*load_checkpoint\("):
        PromptableVideoSegmentationPipeline(model=tiny_model("tiny_vit"))
    with pytest.raises(TypeError, match=r"no memory.*load_checkpoint\("):
        pipeline(TASK, model=str(save_tiny(tmp_path / "image")))
    with pytest.raises(TypeError, match=r"is a SamModel.*SamVariantsVideoModel"):
        PromptableVideoSegmentationPipeline(model=SamModel(SamConfig(vision_config={"num_hidden_layers": 1})))


def test_a_processor_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 pixels, but the model takes 64"):
        PromptableVideoSegmentationPipeline(model=tiny_video_model(), processor=processor_for("mobile-sam"))


@pytest.mark.parametrize(
    ("prompts", "kind", "message"),
    [
        (None, ValueError, "give prompts"),
        ({}, ValueError, "prompts are empty"),
        ({0: {}}, ValueError, "prompts of frame 0 are empty"),
        ([[1, 2]], TypeError, "must map every frame"),
        ({0: [[10, 10]]}, TypeError, "must map every object id"),
        ({0: {1: [10, 10]}}, TypeError, "object 1 on frame 0 must be a dict"),
        ({-1: {1: {"points": [1, 1]}}}, ValueError, "frame -1"),
        ({True: {1: {"points": [1, 1]}}}, ValueError, "frame True"),
        ({"first": {1: {"points": [1, 1]}}}, ValueError, "frame 'first'"),
        ({0: {1.5: {"points": [1, 1]}}}, ValueError, "object id 1.5"),
        ({0: {1: {"points": [1, 1]}, "1": {"points": [1, 1]}}}, ValueError, "object id 1 twice"),
        ({0: {1: {"point": [1, 1]}}}, ValueError, "unknown point; prompts are points"),
        ({0: {1: {"labels": [1]}}}, ValueError, "object 1 on frame 0 are empty"),
        ({0: {1: {"points": [1, 1], "mask": MASK}}}, ValueError, "mask is taken as it is"),
    ],
)
def test_prompts_are_checked_before_any_frame_is_read(
    pipe: PromptableVideoSegmentationPipeline, prompts: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pipe(iter(lambda: pytest.fail("a frame was read"), None), prompts)


def test_what_only_the_frames_tell(pipe: PromptableVideoSegmentationPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        pipe(tmp_path / "missing.mp4", PROMPTS)
    with pytest.raises(ValueError, match="points"):
        list(pipe(clip(), {0: {1: {"points": [WIDTH + 5, 3]}}}))
    results = pipe(clip(2), {0: {1: {"points": [5, 3]}}, 4: {1: {"points": [5, 3]}}})
    assert [next(results).frame_index for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"ended after frame 1.*\[4\]"):
        next(results)
