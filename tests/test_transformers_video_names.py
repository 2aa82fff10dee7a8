"""Scripts written for transformers' `Sam2VideoModel` run on ours, with the same results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import tiny_model
from PIL import Image
from tiny import tiny_video_model
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.frame_processing import prepare_frame
from sam_variants.processing.inference_session import InferenceSession
from sam_variants.processing.processor_for import processor_for
from sam_variants.transformers_video import VideoFrameOutput

SIDE = 64
HEIGHT, WIDTH = 48, 80
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def moving(num_frames: int, height: int = SIDE, width: int = SIDE) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (height, width, 3))
    noise = generator.integers(-9, 9, (num_frames, height, width, 3))
    return [np.clip(np.roll(picture, 3 * i, 1) + noise[i], 0, 255).astype(np.uint8) for i in range(num_frames)]


class Twins:
    """One clip in a session of ours and in one of transformers, with the same weights and prompts.

    Frames are as large as the model's input, so that the way of resizing plays no role; transformers fills no holes.
    """

    def __init__(self, num_frames: int = 9, is_stream: bool = False) -> None:
        torch.manual_seed(0)
        self.ours: Any = tiny_model("sam2")
        self.ours.config.fill_hole_area = 0
        # All invisible objects are alike, whatever is computed for them.
        self.ours.mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(4.0)
        layout = LAYOUTS["transformers-sam2-video"]
        assert layout.config_to is not None
        self.theirs = Sam2VideoModel(layout.config_to(self.ours.config)).eval()
        self.theirs.load_state_dict(layout.table.to_theirs(self.ours.state_dict()))
        self.processor = processor_for(self.ours)
        frames = moving(num_frames)
        self.pixels = torch.cat([prepare_frame(self.processor, frame).pixel_values for frame in frames])
        self.our_session = self.processor.init_video_session(video=None if is_stream else frames)
        self.their_session = Sam2VideoInferenceSession(
            video=None if is_stream else self.pixels, video_height=SIDE, video_width=SIDE, dtype=torch.float32
        )

    def add(self, frame: int, object_ids: list[int], points: Any, labels: Any) -> None:
        self.processor.add_inputs_to_inference_session(
            inference_session=self.our_session,
            frame_idx=frame,
            obj_ids=object_ids,
            input_points=points,
            input_labels=labels,
            original_size=(SIDE, SIDE),
        )
        for number, object_id in enumerate(object_ids):
            inputs = {
                "point_coords": torch.tensor([[points[0][number]]], dtype=torch.float32),
                "point_labels": torch.tensor([[labels[0][number]]]),
            }
            index = self.their_session.obj_id_to_idx(object_id)
            self.their_session.add_point_inputs(index, frame, inputs)
        self.their_session.obj_with_new_inputs = list(object_ids)

    def call(self, **arguments: Any) -> tuple[Any, Any]:
        return (
            self.ours(inference_session=self.our_session, **arguments),
            self.theirs(inference_session=self.their_session, **arguments),
        )

    def propagate(self, **arguments: Any) -> Iterator[tuple[Any, Any]]:
        ours = self.ours.propagate_in_video_iterator(self.our_session, **arguments)
        return zip(ours, self.theirs.propagate_in_video_iterator(self.their_session, **arguments), strict=True)


def assert_same(ours: VideoFrameOutput, theirs: Any) -> None:
    assert ours.frame_idx == theirs.frame_idx
    assert ours.object_ids == theirs.object_ids
    assert theirs.pred_masks.std() > 0.1
    torch.testing.assert_close(ours.pred_masks, theirs.pred_masks, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.object_score_logits, theirs.object_score_logits, atol=TOLERANCE, rtol=0)


def test_a_clip_gives_what_transformers_gives() -> None:
    twins = Twins()
    twins.add(0, [2, 3], [[[[20, 30]], [[40, 15]]]], [[[1], [1]]])
    assert_same(*twins.call(frame_idx=0))
    forwards = list(twins.propagate())
    assert [ours.frame_idx for ours, _ in forwards] == list(range(9))
    for pair in forwards:
        assert_same(*pair)
    assert max((ours.pred_masks - forwards[0][0].pred_masks).abs().max() for ours, _ in forwards[1:]) > 0.1
    # A third object on a later frame, then back to the start with all of them.
    twins.add(6, [7], [[[[30, 30], [10, 10]]]], [[[1, 0]]])
    assert_same(*twins.call(frame_idx=6))
    backwards = list(twins.propagate(start_frame_idx=6, reverse=True))
    assert [ours.frame_idx for ours, _ in backwards] == [6, 5, 4, 3, 2, 1, 0]
    for pair in backwards:
        assert_same(*pair)
    for pair in twins.propagate(start_frame_idx=6, max_frame_num_to_track=1):
        assert_same(*pair)


def test_a_stream_gives_what_transformers_gives() -> None:
    twins = Twins(num_frames=20, is_stream=True)
    for index, pixels in enumerate(twins.pixels):
        if index == 0:
            twins.add(0, [1], [[[[20, 30], [50, 10]]]], [[[1, 1]]])
        ours, theirs = twins.call(frame=pixels)
        assert ours.frame_idx == index
        assert_same(ours, theirs)


@pytest.fixture(scope="module")
def model() -> SamVariantsVideoModel:
    return tiny_video_model(seed=3)


def documented_session(processor: Any, video: Any, **options: Any) -> InferenceSession:
    session = processor.init_video_session(video=video, inference_device="cpu", dtype=torch.float32, **options)
    processor.add_inputs_to_inference_session(
        inference_session=session, frame_idx=0, obj_ids=1, input_points=[[[[21, 35]]]], input_labels=[[[1]]]
    )
    return session


def test_the_documented_clip_script(model: SamVariantsVideoModel) -> None:
    """The usage example of transformers' page for SAM2 Video, step by step."""
    processor: Any = processor_for(model)
    video_frames = [Image.fromarray(frame) for frame in moving(6, HEIGHT, WIDTH)]
    inference_session = documented_session(processor, video_frames)
    outputs = model(inference_session=inference_session, frame_idx=0)
    assert outputs.pred_masks.shape == (1, 1, 16, 16)
    sizes = [[inference_session.video_height, inference_session.video_width]]
    (video_res_masks,) = processor.post_process_masks([outputs.pred_masks], original_sizes=sizes, binarize=False)
    assert video_res_masks.shape == (1, 1, HEIGHT, WIDTH)
    video_segments = {output.frame_idx: output for output in model.propagate_in_video_iterator(inference_session)}
    assert list(video_segments) == list(range(6))
    # The same as a session of ours on the same clip.
    session = model.start_session(num_frames=6)
    session.add_object(1, points=[[21, 35]], labels=[1])
    for index, frame in enumerate(video_frames):
        masks = session.step(frame)
        logits = video_segments[index].pred_masks
        (pixels,) = processor.post_process_masks([logits], original_sizes=sizes)
        assert torch.equal(pixels[:, 0], masks.data)
        torch.testing.assert_close(video_segments[index].iou_scores[:, 0], masks.scores)
    # Several objects, after a reset.
    inference_session.reset_inference_session()
    assert inference_session.obj_ids == []
    processor.add_inputs_to_inference_session(
        inference_session=inference_session,
        frame_idx=0,
        obj_ids=[2, 3],
        input_points=[[[[20, 30], [23, 25], [27, 17]], [[40, 15]]]],
        input_labels=[[[1, 1, 0], [1]]],
    )
    assert model(inference_session=inference_session, frame_idx=0).pred_masks.shape == (2, 1, 16, 16)
    tracked = list(model.propagate_in_video_iterator(inference_session))
    assert all(output.object_ids == inference_session.obj_ids == [2, 3] for output in tracked)
    # A click on a later frame, and again: other than in transformers, it stays.
    processor.add_inputs_to_inference_session(
        inference_session=inference_session, frame_idx=4, obj_ids=2, input_points=[[[[60, 40]]]], input_labels=[[[1]]]
    )
    refined = list(model.propagate_in_video_iterator(inference_session))
    assert not torch.equal(refined[4].pred_masks[0], tracked[4].pred_masks[0])
    torch.testing.assert_close(refined[4].pred_masks[1], tracked[4].pred_masks[1])


def test_the_documented_stream_script(model: SamVariantsVideoModel) -> None:
    processor: Any = processor_for(model)
    video_frames = moving(12, HEIGHT, WIDTH)
    inference_session = processor.init_video_session(inference_device="cpu")
    sizes = []
    for frame_idx, frame in enumerate(video_frames):
        inputs = processor(images=frame, device="cpu", return_tensors="pt").to(model.device)
        if frame_idx == 0:
            processor.add_inputs_to_inference_session(
                inference_session=inference_session,
                frame_idx=0,
                obj_ids=1,
                input_points=[[[[21, 35], [25, 22]]]],
                input_labels=[[[1, 1]]],
                original_size=inputs.original_sizes[0],
            )
        output = model(inference_session=inference_session, frame=inputs.pixel_values[0])
        (masks,) = processor.post_process_masks([output.pred_masks], inputs.original_sizes, binarize=False)
        sizes.append(masks.shape)
        assert output.frame_idx == frame_idx
    assert set(sizes) == {(1, 1, HEIGHT, WIDTH)}
    assert inference_session.num_frames == 12
    # Memory is bounded: one encoded frame, and what frames to come can look at.
    assert list(inference_session.tracker._frames) == [11]
    # The last frame can be corrected.
    processor.add_inputs_to_inference_session(
        inference_session, frame_idx=11, obj_ids=1, input_boxes=[[[10, 10, 60, 40]]]
    )
    corrected = model(inference_session, frame_idx=11)
    assert not torch.equal(corrected.pred_masks, output.pred_masks)


def test_boxes_masks_and_clicks_that_add_up(model: SamVariantsVideoModel) -> None:
    processor: Any = processor_for(model)
    frames = moving(2, HEIGHT, WIDTH)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True

    def answer(*calls: dict[str, Any]) -> torch.Tensor:
        session = processor.init_video_session(video=frames)
        for arguments in calls:
            processor.add_inputs_to_inference_session(session, 0, 1, **arguments)
            output = model(inference_session=session, frame_idx=0)
        return output.pred_masks

    first = {"input_points": [[[[20, 30]]]], "input_labels": [[[1]]]}
    second = {"input_points": [[[[50, 30]]]], "input_labels": [[[0]]]}
    session = model.start_session(num_frames=2, keep_frames=2)
    session.step(frames[0])
    for arguments, replace in ((first, False), (second, False)):
        points, labels = arguments["input_points"][0][0], arguments["input_labels"][0][0]
        added = session.add_object(1, points=points, labels=labels, replace=replace)
    assert added is not None
    (both,) = processor.post_process_masks([answer(first, second | {"clear_old_inputs": False})], [(HEIGHT, WIDTH)])
    assert torch.equal(both[:, 0], added.data)
    assert not torch.equal(answer(first, second), answer(first, second | {"clear_old_inputs": False}))
    boxed = answer({"input_boxes": [[[10, 10, 60, 40]]]})
    assert boxed.shape == (1, 1, 16, 16)
    for form in (mask, [mask], torch.from_numpy(mask)[None, None]):
        (given,) = processor.post_process_masks([answer({"input_masks": form})], [(HEIGHT, WIDTH)])
        assert (given[0, 0].numpy() != mask).mean() < 0.05


def test_only_the_last_encoded_frames_are_held(model: SamVariantsVideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    encode = SamVariantsVideoModel.encode_frame

    def counted(self: Any, pixel_values: torch.Tensor) -> Any:
        next(calls)
        return encode(self, pixel_values)

    monkeypatch.setattr(SamVariantsVideoModel, "encode_frame", counted)
    session = documented_session(processor_for(model), np.stack(moving(5)), max_vision_features_cache_size=2)
    assert next(calls) == 0
    model(inference_session=session, frame_idx=0)
    assert next(calls) == 2
    list(model.propagate_in_video_iterator(session))
    assert next(calls) == 7
    assert list(session.tracker._frames.held) == [3, 4]
    model(inference_session=session, frame_idx=3)
    assert next(calls) == 8


def test_images_go_through_the_same_model_as_ever(model: SamVariantsVideoModel) -> None:
    processor: Any = processor_for(model)
    inputs = processor(images=moving(1)[0], input_points=[[20, 30]], return_tensors="pt")
    names = ("pixel_values", "input_points", "input_labels")
    by_name, by_place = model(**inputs), model(*(inputs[name] for name in names))
    assert by_name.pred_masks.shape == (1, 1, 3, 16, 16)
    assert torch.equal(by_name.pred_masks, by_place.pred_masks)


def test_wrong_calls_say_what_is_wrong(model: SamVariantsVideoModel) -> None:
    processor: Any = processor_for(model)
    session = processor.init_video_session(video=moving(3))
    add = processor.add_inputs_to_inference_session
    point, label = [[[[20, 30]]]], [[[1]]]
    with pytest.raises(ValueError, match="no object to track"):
        model(inference_session=session, frame_idx=0)
    with pytest.raises(ValueError, match="there are no prompts"):
        add(session, 0, 1)
    with pytest.raises(ValueError, match="input_points and input_labels go together"):
        add(session, 0, 1, input_points=point)
    with pytest.raises(ValueError, match="can't come with input_points"):
        add(session, 0, 1, input_points=point, input_labels=label, input_masks=np.ones((SIDE, SIDE)))
    with pytest.raises(ValueError, match="input_points are for 1 objects, but obj_ids names 2"):
        add(session, 0, [1, 2], input_points=point, input_labels=label)
    with pytest.raises(ValueError, match="input_masks are 1, but obj_ids names 2"):
        add(session, 0, [1, 2], input_masks=np.ones((SIDE, SIDE)))
    with pytest.raises(ValueError, match="height×width"):
        add(session, 0, 1, input_masks=np.ones((2, SIDE, SIDE)))
    with pytest.raises(ValueError, match="max_vision_features_cache_size=0"):
        processor.init_video_session(max_vision_features_cache_size=0)
    add(session, 0, 1, input_points=[[[[200, 30]]]], input_labels=label)
    with pytest.raises(ValueError, match="points"):
        model(inference_session=session, frame_idx=0)
    add(session, 1, 1, input_points=point, input_labels=label)
    assert [output.frame_idx for output in model.propagate_in_video_iterator(session)] == [1, 2]
    assert (session.obj_ids, session.get_obj_num()) == ([1], 1)
    assert (session.obj_id_to_idx(1), session.obj_idx_to_id(0)) == (0, 1)
    with pytest.raises(ValueError, match="no object 5"):
        session.obj_id_to_idx(5)
    with pytest.raises(ValueError, match="frame_idx=3 is behind the last frame, 2"):
        model(inference_session=session, frame_idx=3)
    with pytest.raises(ValueError, match="give frame_idx"):
        model(inference_session=session)
    with pytest.raises(ValueError, match="this session has a clip"):
        model(inference_session=session, frame=torch.zeros(3, SIDE, SIDE))
    with pytest.raises(ValueError, match="another model"):
        tiny_video_model()(inference_session=session, frame_idx=0)


def test_wrong_streams_say_what_is_wrong(model: SamVariantsVideoModel) -> None:
    processor: Any = processor_for(model)
    stream = processor.init_video_session()
    assert (stream.num_frames, stream.video_height) == (None, None)
    point: dict[str, Any] = {"input_points": [[[[20, 30]]]], "input_labels": [[[1]]]}
    with pytest.raises(ValueError, match="original_size"):
        processor.add_inputs_to_inference_session(stream, 0, 1, **point)
    pixels = torch.zeros(3, SIDE, SIDE)
    with pytest.raises(ValueError, match="no object to track"):
        model(inference_session=stream, frame=pixels)
    processor.add_inputs_to_inference_session(stream, 0, 1, **point, original_size=(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="frame_idx=4: the next frame of the stream is 0"):
        model(inference_session=stream, frame=pixels, frame_idx=4)
    assert model(inference_session=stream, frame=pixels, frame_idx=0).frame_idx == 0
    model(inference_session=stream, frame=pixels)
    with pytest.raises(ValueError, match="frame 0 is out of reach"):
        model(inference_session=stream, frame_idx=0)
