"""What `sam-variants export` traces, and what its predictor computes: both beside the model, without writing files."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_examples import eager_predictor, picture, share_unlike
from PIL import Image
from tiny import TINY_VISION, tiny_model, tiny_video_model

from sam_variants.hub_scripts import onnx_predictor
from sam_variants.hub_scripts.export_graphs import PhotoGeometry
from sam_variants.processing.mask_post_processing import upscale_logits
from sam_variants.processing.mask_prompts import ImageGeometry, mask_on_input
from sam_variants.processing.processor_for import processor_for

SIZES = ((41, 97), (97, 41), (64, 64), (300, 180), (1, 50))
# Rounding may move a pixel on a mask's border to the other side.
BORDER = 2e-3
POINTS = [[[20, 20], [50, 30]], [[33, 8], [5, 5]], [[60, 40], [1, 2]]]
LABELS = [[1, 0], [1, 1], [1, -10]]
BOXES = [[2, 3, 40, 30], [-10, -10, -10, -10], [10, 10, 60, 44]]
# Prompts of two objects: points on the first frame, a box later, a correction, and a mask.
PROMPTS: dict[int, dict[int, Any]] = {
    0: {1: {"points": [[20, 20]]}, 7: {"points": [[40, 30], [10, 10]], "labels": [1, 0]}},
    2: {5: {"boxes": [10, 10, 40, 40]}},
    4: {1: {"mask": np.arange(50 * 66).reshape(50, 66) % 66 > 30}},
    5: {7: {"points": [[50, 30]], "labels": [0]}, 1: {"points": [[30, 30]]}},
}
RULES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "few prompted frames": {"max_cond_frames_in_attn": 2, "num_maskmem": 3},
    "strides": {"memory_temporal_stride_for_eval": 2, "max_obj_ptrs_in_encoder": 4, "memory_dtype": "float32"},
    "one memory": {"num_maskmem": 1, "binarize_mask_from_pts_for_mem_enc": False, "fill_hole_area": 0},
    "single masks": {"multimask_output_for_tracking": False, "multimask_max_pt_num": 2, "mask_threshold": 0.2},
    "sam 2.0": {
        "no_obj_embed_spatial": False,
        "add_tpos_enc_to_obj_ptrs": False,
        "proj_tpos_enc_in_obj_ptrs": False,
        "use_signed_tpos_enc_to_obj_ptrs": False,
    },
}


@pytest.mark.parametrize("keeps_aspect", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_masks_at_any_size_are_those_of_interpolation(keeps_aspect: bool, size: tuple[int, int]) -> None:
    side, cells, logits = 64, 16, torch.randn(2, 3, 16, 16)
    photo = PhotoGeometry(side, cells, keeps_aspect, 0.25)
    fitted = photo.fitted(torch.tensor(size)).int().tolist()
    found = photo(logits, torch.tensor(size))
    wanted = upscale_logits(logits, size, (fitted[0], fitted[1]), (side, side) if keeps_aspect else None) - 0.25
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keeps_aspect", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_mask_prompts_lie_where_the_photo_lies(keeps_aspect: bool, size: tuple[int, int]) -> None:
    photo = PhotoGeometry(64, 16, keeps_aspect, 0.0)
    fitted = photo.fitted(torch.tensor(size)).int().tolist()
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 5, 5), size, mode="bicubic")[0]
    geometry = ImageGeometry(0, size, (fitted[0], fitted[1]), (64, 64), (16, 16))
    found = photo.on_input(smooth > 0, torch.tensor(size))[0]
    assert share_unlike(found.numpy(), mask_on_input(smooth[0] > 0, geometry).numpy()) <= BORDER


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("name", TINY_VISION)
def test_a_photo_is_segmented_as_the_model_does(name: str, several: bool) -> None:
    model = tiny_model(name)
    model.config.mask_decoder_config.dynamic_multimask_via_stability = True
    predictor, processor = eager_predictor(model), processor_for(model)
    photo = picture(50, 66)
    masks = np.full((3, 16, 16), np.nan, np.float32)
    masks[1] = np.random.default_rng(0).normal(size=(16, 16))
    found, scores = predictor.segment(
        predictor.encode(photo),
        (1, 2, 3) if several else (0,),
        points=POINTS,
        labels=LABELS,
        boxes=BOXES,
        mask_prompts=masks,
    )
    inputs = processor(
        photo, input_points=POINTS, input_labels=LABELS, input_boxes=BOXES, input_masks=list(masks), return_tensors="pt"
    )
    sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes")]
    with torch.no_grad():
        wanted = model(**inputs, multimask_output=several)
    assert share_unlike(found, processor.post_process_masks(wanted.pred_masks, *sizes)[0].numpy()) <= BORDER
    np.testing.assert_allclose(scores, wanted.iou_scores[0], atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_vit", "hiera"])
@pytest.mark.parametrize("size", [(48, 64), (64, 21), (200, 33)])
def test_a_photo_becomes_the_input_that_the_processor_makes(name: str, size: tuple[int, int]) -> None:
    predictor = eager_predictor(tiny_model(name))
    images: Any = processor_for(tiny_model(name)).image_processor
    seen: dict[str, Any] = {}
    predictor.run = lambda graph, given: seen.update(given) or {}  # type: ignore[method-assign]
    encoded = predictor.encode(picture(*size))
    np.testing.assert_allclose(seen["pixel_values"], images(picture(*size))["pixel_values"], atol=1e-5)
    assert encoded["original_size"].tolist() == list(size)


def test_objects_with_other_numbers_of_points_are_padded() -> None:
    predictor = eager_predictor(tiny_model("tiny_vit"))
    photo = predictor.encode(picture(50, 66))
    ragged = predictor.segment(
        photo, points=[[[20, 20]], [[33, 8], [5, 5]], ()], boxes=[[-10] * 4] * 2 + [[1, 2, 30, 40]]
    )
    for number, prompts in enumerate(
        ({"points": [[[20, 20]]]}, {"points": [[[33, 8], [5, 5]]]}, {"boxes": [[1, 2, 30, 40]]})
    ):
        masks, scores = predictor.segment(photo, **prompts)
        assert share_unlike(ragged[0][number : number + 1], masks) <= BORDER
        np.testing.assert_allclose(ragged[1][number], scores[0], atol=1e-5)


WRONG_PROMPTS: dict[str, dict[str, Any]] = {
    "no prompts: give one or more of points, labels, boxes, mask_prompts": {},
    "point: give one or more of points": {"point": [[[1, 2]]]},
    "points: give one or more": {"points": []},
    "points: .*list with an entry for every object": {"points": [320, 240]},
    "points: cannot reshape": {"points": [[320, 240]]},
    "points: points and boxes lie in the 66×50 pixels": {"points": [[[np.nan, 3]]]},
    "points: .*66×50": {"points": [[[3, 51]]]},
    "points, labels: .*66×50": {"points": [[[3, -1]]], "labels": [[0]]},
    "points, labels: labels are 1": {"points": [[[1, 2]]], "labels": [[2]]},
    "points, labels: .*size 2.*size 1": {"points": [[[1, 2], [3, 4]]], "labels": [[1]]},
    "labels: ": {"labels": [[1]]},
    "boxes: cannot reshape": {"boxes": [1, 2, 3, 4]},
    "points, boxes: cannot reshape": {"points": [[[1, 2]], [[3, 4]]], "boxes": [[1, 2, 3, 4]]},
    "boxes: .*lie in": {"boxes": [[1, 2, np.inf, 4]]},
    "boxes: .*66×50 pixels": {"boxes": [[-10] * 4, [1, 2, 67, 4]]},
    "boxes: .*x1 < x2": {"boxes": [[40, 2, 3, 4]]},
    "mask_prompts: cannot reshape": {"mask_prompts": np.zeros((1, 5, 16))},
}


@pytest.mark.parametrize("told", WRONG_PROMPTS)
def test_prompts_that_mean_nothing_are_one_error(told: str) -> None:
    with pytest.raises(ValueError, match=told):
        eager_predictor(tiny_model("tiny_vit")).segment({"original_size": np.array([50, 66])}, **WRONG_PROMPTS[told])


WRONG_TRACKS: dict[str, Any] = {
    "no prompts: give one or more of points, labels, boxes;": {},
    "mask, points: give one or more": {"mask": np.ones((50, 66), bool), "points": [[1, 2]]},
    "mask_prompts: give one or more": {"mask_prompts": np.zeros((16, 16))},
    r"\(66,50\)": {"mask": np.ones((66, 50), bool)},
}


@pytest.mark.parametrize("told", WRONG_TRACKS)
def test_what_can_not_be_tracked_is_one_error(told: str) -> None:
    predictor = eager_predictor(tiny_video_model("tiny_vit_with_skips"))
    with pytest.raises(ValueError, match=told):
        list(predictor.track([picture(50, 66)], {0: {1: WRONG_TRACKS[told]}}))


def test_prompts_behind_the_end_and_frames_of_another_size_are_told() -> None:
    predictor = eager_predictor(tiny_video_model("tiny_vit_with_skips"))
    late: dict[int, Any] = {0: {1: {"points": [[2, 2]]}}, 2: {1: {"points": [[3, 3]]}}}
    found = predictor.track([picture(50, 66)] * 2, late)
    assert [len(next(found)) for _ in range(2)] == [1, 1]
    with pytest.raises(ValueError, match=r"frames whose prompts were not reached: \[2\]"):
        next(found)
    with pytest.raises(ValueError, match="no prompts were given"):
        list(predictor.track([picture(50, 66)], {}))
    with pytest.raises(ValueError, match="frame 1 has another size than the frames before it, 66×50"):
        list(predictor.track([picture(50, 66), picture(66, 50)], PROMPTS))


def test_a_model_for_photos_tracks_nothing() -> None:
    with pytest.raises(ValueError, match="export a checkpoint that tracks"):
        next(eager_predictor(tiny_model("tiny_vit")).track([picture(50, 66)], PROMPTS))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_photos_of_other_modes_are_seen_as_the_processor_sees_them(mode: str, tmp_path: Path) -> None:
    photo = picture(40, 64).convert(mode)
    if mode in ("LA", "RGBA"):
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "photo.tif")
    predictor, seen = eager_predictor(tiny_model("tiny_vit")), dict[str, Any]()
    predictor.run = lambda graph, given: seen.update(given) or {}  # type: ignore[method-assign]
    predictor.encode(tmp_path / "photo.tif")
    images: Any = processor_for(tiny_model("tiny_vit")).image_processor
    np.testing.assert_allclose(
        seen["pixel_values"], images(Image.open(tmp_path / "photo.tif"))["pixel_values"], atol=1e-5
    )


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_photos_of_more_than_eight_bits_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}; give one of 8 bits"):
        eager_predictor(tiny_model("tiny_vit")).encode(Image.new(mode, (8, 8)))


def test_a_turned_photo_is_seen_upright(tmp_path: Path) -> None:
    predictor = eager_predictor(tiny_model("tiny_vit"))
    turned = picture(40, 64).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert predictor.encode(Image.open(tmp_path / "turned.png"))["original_size"].tolist() == [40, 64]


@pytest.mark.parametrize("rules", RULES)
def test_objects_are_tracked_as_the_session_does(rules: str) -> None:
    compare_tracking(tiny_video_model("tiny_vit_with_skips", **RULES[rules]))


def test_objects_are_tracked_on_another_encoder() -> None:
    compare_tracking(tiny_video_model("hiera"))


def test_objects_come_and_go() -> None:
    model = tiny_video_model("tiny_vit_with_skips")
    head: Any = model.mask_decoder.pred_obj_score_head.layers[-1]
    with torch.no_grad():
        head.bias -= np.median(compare_tracking(model))
    scores = compare_tracking(model)
    assert min(scores) < 0 < max(scores)


def compare_tracking(model: Any) -> list[float]:
    """Track through a clip with the session and with the predictor; returns how visible the session finds objects."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "tpos" in name:
                weight.normal_()  # so that it can be seen how old a memory is
    frames = [Image.fromarray(np.roll(np.asarray(picture(50, 66)), 3 * index, axis=1)) for index in range(8)]
    predicted = list(eager_predictor(model).track(frames, PROMPTS))
    tracked = list(model.start_session().track(frames, PROMPTS))
    assert len(predicted) == len(tracked) == len(frames)
    scores, shares = [], []
    for index, (found, wanted) in enumerate(zip(predicted, tracked, strict=True)):
        begun = {name for frame, asked in PROMPTS.items() if frame <= index for name in asked}
        assert set(found) == begun
        for number, name in enumerate(wanted.object_ids.tolist()):
            if name in begun:
                mask, score = found[name]
                assert share_unlike(mask, wanted[number].data[0].numpy()) <= BORDER, (index, name)
                assert score == pytest.approx(float(wanted.scores[number]), abs=1e-4)
                scores.append(float(wanted.object_score_logits[number]))
                shares.append(mask.mean())
    assert any(0.02 < share < 0.98 for share in shares), "masks without border say nothing"
    return scores


def test_what_nobody_looks_at_any_more_is_forgotten() -> None:
    model = tiny_video_model("tiny_vit_with_skips", num_maskmem=2, max_obj_ptrs_in_encoder=2)
    predictor, kept = eager_predictor(model), []
    follow = predictor.follow

    def watched(frame: Any, prompt: Any, now: int, prompted: Any, tracked: Any) -> Any:
        found = follow(frame, prompt, now, prompted, tracked)
        kept.append((list(prompted), len(tracked)))
        return found

    predictor.follow = watched  # type: ignore[method-assign]
    list(predictor.track([picture(50, 66)] * 8, {0: {1: {"points": [[20, 20]]}}}))
    assert kept[-1][0] == [0]
    assert kept[-1][1] == kept[-2][1] <= 4


def test_the_predictor_stays_short() -> None:
    """Sixty lines for photos, beside those that only tracking needs."""
    source = Path(onnx_predictor.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    texts, tracking = set[int](), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            texts |= lines_of(node.body[0])
        if isinstance(node, ast.FunctionDef) and node.name in ("track", "follow", "look_back"):
            tracking |= lines_of(node)
    code = {number for number, line in enumerate(source.splitlines(), 1) if line.strip()} - texts
    assert len(code - tracking) <= 60
    assert len(code & tracking) <= 40


def lines_of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or 0) + 1))
