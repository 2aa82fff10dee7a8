"""The video session: prompts, corrections, memory that stays flat, and errors that leave it usable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from session_examples import HEIGHT, WIDTH, frames_of, logits_of, two_objects_on_two_frames
from tiny import save_tiny_video, tiny_config, tiny_video_config, tiny_video_model
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from sam_variants.memory.memory_encoder import MemoryEncoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks
from sam_variants.video_session import VideoSession, without_overlap


@pytest.fixture(scope="module")
def model() -> SamVariantsVideoModel:
    return tiny_video_model(memory_dtype="float32")


@pytest.fixture
def session(model: SamVariantsVideoModel) -> VideoSession:
    return two_objects_on_two_frames(model)


def held_bytes(session: VideoSession) -> int:
    """Everything that the session keeps, whatever it is kept in."""
    seen: set[int] = set()

    def size(value: Any) -> int:
        if id(value) in seen:
            return 0
        seen.add(id(value))
        if isinstance(value, Tensor):
            return value.untyped_storage().nbytes()
        if isinstance(value, dict):
            return sum(size(item) + 50 for item in value.values())
        if isinstance(value, list | tuple | set):
            return sum(size(item) + 10 for item in value)
        return size(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module) else 0

    return size({name: value for name, value in vars(session).items() if name not in ("model", "processor")})


def test_each_object_gets_what_it_gets_alone(model: SamVariantsVideoModel) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    prompts: dict[int, dict[str, Any]] = {3: {"points": [[20, 20], [40, 30]], "labels": [1, 0]}, 5: {"mask": mask}}
    late: dict[str, Any] = {"boxes": [3, 3, 30, 30]}

    def results(*object_ids: int) -> list[Masks]:
        session = model.start_session()
        for object_id in object_ids:
            session.add_object(object_id, **(late | {"frame": 2} if object_id == 9 else prompts[object_id]))
        return [session.step(frame) for frame in frames_of(6)]

    together = results(3, 9, 5)
    for number, object_id in enumerate((3, 9, 5)):
        for ours, alone in zip(together, results(object_id), strict=True):
            assert ours.object_ids is not None
            assert ours.object_ids[number] == object_id
            torch.testing.assert_close(logits_of(ours)[number], logits_of(alone)[0], atol=1e-4, rtol=1e-5)


def test_the_answer_does_not_depend_on_how_many_go_together(model: SamVariantsVideoModel) -> None:
    def logits(**options: Any) -> Tensor:
        session = model.start_session(**options)
        for object_id in range(5):
            session.add_object(object_id, points=[[10 * object_id + 3, 20]])
        return torch.stack([logits_of(session.step(frame)) for frame in frames_of(4)])

    torch.testing.assert_close(logits(objects_per_pass=2), logits(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("keep_frames", [1, 5])
def test_memory_is_flat(model: SamVariantsVideoModel, keep_frames: int) -> None:
    session = model.start_session(keep_frames=keep_frames)
    session.add_object(1, points=[[20, 20]])
    session.add_object(2, points=[[40, 20]])
    sizes = []
    for frame in frames_of(60):
        session.step(frame)
        sizes.append(held_bytes(session))
    full = model.config.max_obj_ptrs_in_encoder + keep_frames + 1
    assert len(set(sizes[full:])) == 1, sizes
    assert sizes[full] < 2 * sizes[8]


def test_what_is_kept_is_all_that_is_looked_at(model: SamVariantsVideoModel) -> None:
    """Forgetting must not change an answer: a session that keeps everything gives the same."""
    results = []
    for keep_frames in (1, 100):
        session = model.start_session(keep_frames=keep_frames)
        session.add_object(1, points=[[20, 20]])
        session.add_object(1, points=[[50, 40]], frame=9)
        results.append([logits_of(session.step(frame)) for frame in frames_of(24)])
    for few, all_of_them in zip(*results, strict=True):
        assert torch.equal(few, all_of_them)


def test_results_name_objects_frames_and_scores(session: VideoSession) -> None:
    masks = session.step(frames_of(3)[2])
    assert masks.frame_index == session.frame_index == 2
    assert session.object_ids == [1, 7]
    assert masks.object_ids is not None
    assert masks.object_ids.tolist() == [1, 7]
    assert masks.scores is not None
    assert masks.object_score_logits is not None
    assert masks.data.shape == (2, HEIGHT, WIDTH)
    assert masks[1].frame_index == 2
    annotation = masks.to_coco(image_id=2)[1]
    assert annotation["object_id"] == 7
    assert annotation["object_score_logit"] == pytest.approx(float(masks.object_score_logits[1]))


def test_a_correction_changes_this_frame_and_those_after_it(model: SamVariantsVideoModel) -> None:
    def run(correct: bool) -> list[Tensor]:
        session = model.start_session()
        session.add_object(1, points=[[20, 20]])
        results = []
        for index, frame in enumerate(frames_of(5)):
            results.append(logits_of(session.step(frame)))
            if correct and index == 2:
                corrected = session.add_object(1, points=[[40, 40]], labels=[0])
                assert corrected is not None
                assert corrected.frame_index == 2
                assert not torch.equal(logits_of(corrected), results[-1])
        return results

    plain, corrected = run(False), run(True)
    assert all(torch.equal(plain[index], corrected[index]) for index in range(3))
    assert not torch.allclose(plain[3], corrected[3])
    assert not torch.allclose(plain[4], corrected[4])


def test_points_are_added_unless_they_replace(model: SamVariantsVideoModel) -> None:
    def answer(*calls: dict[str, Any]) -> Tensor:
        session = model.start_session()
        session.step(frames_of(1)[0])
        for call in calls:
            masks = session.add_object(1, **call)
        assert masks is not None
        return logits_of(masks)

    first, second = {"points": [[20, 20]]}, {"points": [[40, 30]], "labels": [0]}
    added, replaced = answer(first, second), answer(first, second | {"replace": True})
    assert not torch.allclose(added, replaced)
    assert not torch.allclose(added, answer({"points": [[20, 20], [40, 30]], "labels": [1, 0]}))  # the mask counts too


def test_waiting_prompts_equal_prompts_in_time(model: SamVariantsVideoModel) -> None:
    frames = frames_of(4)
    early = model.start_session()
    early.add_object(4, points=[[20, 20]], frame=2)
    waited = [early.step(frame) for frame in frames]
    assert not waited[1].data.any()
    assert waited[1].object_score_logits is not None
    assert float(waited[1].object_score_logits[0]) < 0
    late = model.start_session()
    for frame in frames[:3]:
        late.step(frame)
    in_time = late.add_object(4, points=[[20, 20]])
    assert in_time is not None
    assert torch.equal(logits_of(waited[2]), logits_of(in_time))
    assert torch.equal(logits_of(waited[3]), logits_of(late.step(frames[3])))


def test_propagate_goes_over_the_kept_frames_in_both_directions(model: SamVariantsVideoModel) -> None:
    session = model.start_session(keep_frames=4)
    for frame in frames_of(6):
        assert len(session.step(frame)) == 0
    assert session.kept_frames == [2, 3, 4, 5]
    session.add_object(1, points=[[20, 20]], frame=4)
    assert [masks.frame_index for masks in session.propagate()] == [4, 5]
    assert [masks.frame_index for masks in session.propagate(4, reverse=True)] == [4, 3, 2]
    assert [masks.frame_index for masks in session.propagate(2, max_frames=1)] == [2, 3]
    assert session.step(frames_of(7)[6]).frame_index == 6


def test_removing_an_object_leaves_the_others_as_they_are(session: VideoSession, model: SamVariantsVideoModel) -> None:
    alone = model.start_session()
    alone.add_object(7, boxes=[3, 3, 30, 30])
    for frame in frames_of(2):
        alone.step(frame)
    session.remove_object(1)
    frame = frames_of(3)[2]
    torch.testing.assert_close(logits_of(session.step(frame)), logits_of(alone.step(frame)), atol=1e-4, rtol=1e-5)
    assert session.object_ids == [7]


def test_track_takes_an_iterator_and_never_reads_ahead(model: SamVariantsVideoModel) -> None:
    read = []

    def stream() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames_of(6)):
            read.append(index)
            yield frame

    session = model.start_session()
    results = session.track(stream(), {0: {1: {"points": [[20, 20]]}}, 2: {1: {"points": [[9, 9]], "labels": [0]}}})
    assert read == []
    for index, masks in enumerate(results):
        assert masks.frame_index == index
        assert read == list(range(index + 1))


def test_a_model_in_train_mode_tracks_as_in_eval_mode_and_stays_as_it_is() -> None:
    model = tiny_video_model(memory_attention_config={"d_model": 32, "kv_in_dim": 16, "num_layers": 1, "dropout": 0.5})
    results = []
    for training in (False, True):
        model.train(training)
        session = model.start_session()
        session.add_object(1, points=[[20, 20]])
        results.append([logits_of(session.step(frame)) for frame in frames_of(3)])
        assert model.training == training
        assert model.memory_attention.training == training
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = tiny_video_model().to(dtype)  # type: ignore[arg-type]
    session = model.start_session()
    session.add_object(1, points=[[20, 20]])
    masks = [session.step(frame) for frame in frames_of(3)]
    assert logits_of(masks[-1]).isfinite().all()


def test_another_image_size(tmp_path: Path) -> None:
    save_tiny_video(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, image_size=96)
    session = model.start_session(AutoProcessor.from_pretrained(tmp_path, image_size=96))
    session.add_object(1, points=[[20, 20]])
    assert [logits_of(session.step(frame)).shape[-1] for frame in frames_of(3)] == [24, 24, 24]


def test_without_overlap_each_pixel_has_one_object() -> None:
    logits = torch.randn(3, 20, 20)
    constrained = without_overlap(logits) > 0
    assert constrained.sum(dim=0).max() == 1
    assert torch.equal(constrained.any(dim=0), (logits > 0).any(dim=0))


def test_non_overlap_masks_is_heeded() -> None:
    model = tiny_video_model(non_overlap_masks=True)
    session = model.start_session()
    for object_id in range(3):
        session.add_object(object_id, points=[[15 * object_id + 5, 20]])
    for frame in frames_of(3):
        assert session.step(frame).data.sum(dim=0).max() <= 1


def test_images_go_through_the_video_model_as_through_the_image_model(tmp_path: Path) -> None:
    save_tiny_video(tmp_path)
    whole, image_model = AutoModel.from_pretrained(tmp_path), SamVariantsModel.from_pretrained(tmp_path)
    assert isinstance(whole, SamVariantsVideoModel)
    assert type(image_model) is SamVariantsModel
    assert image_model.config.model_type == "sam_variants"
    inputs = processor_for(whole)(frames_of(1)[0], input_points=[[20, 20]], return_tensors="pt")
    inputs = {name: value for name, value in inputs.items() if not name.endswith("_sizes")}
    ours, theirs = image_model.eval()(**inputs), whole.eval()(**inputs)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
    assert ours.object_score_logits.shape == (1, 1, 1)
    image_model.save_pretrained(tmp_path / "image")
    again = AutoModel.from_pretrained(tmp_path / "image")
    assert type(again) is SamVariantsModel
    assert not any(name.startswith("memory") for name in again.state_dict())


def test_a_configuration_for_video_builds_the_video_model() -> None:
    assert isinstance(SamVariantsModel(tiny_video_config()), SamVariantsVideoModel)
    assert type(SamVariantsModel(tiny_config("tiny_vit"))) is SamVariantsModel


def test_a_part_loads_out_of_the_whole(tmp_path: Path) -> None:
    save_tiny_video(tmp_path)
    whole = AutoModel.from_pretrained(tmp_path)
    part = MemoryEncoder.from_pretrained(tmp_path)
    for name, value in part.state_dict().items():
        assert torch.equal(value, whole.memory_encoder.state_dict()[name])
