"""Evaluation: metrics against hand-made cases, the simulated user, baselines, the coins, and the whole command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import save_tiny, tiny_model

from sam_variants.hub.checksums import sha256_of
from sam_variants.hub_scripts import evaluation_data as data_module
from sam_variants.hub_scripts import evaluation_protocol as protocol_module
from sam_variants.hub_scripts.baselines import flood_fill_mask, grabcut_mask
from sam_variants.hub_scripts.evaluate import evaluate
from sam_variants.hub_scripts.evaluation_protocol import (
    BaselineSegmenter,
    ClickLabels,
    Clicks,
    ModelSegmenter,
    measure,
    tight_box,
)
from sam_variants.hub_scripts.evaluation_scores import MODEL_SUBSET
from sam_variants.hub_scripts.evaluation_sets import coin_masks, coins_photo, held_out_scenes
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.mask_metrics import mask_ious
from sam_variants.training.masked_image import MaskedImage

GREEN, BROWN = (40, 160, 60), (120, 80, 50)


def rectangle(size: tuple[int, int], left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros(size, np.uint8), (x, y), radius, 1, cv2.FILLED) == 1


def painted(*masks: np.ndarray, noise: float = 3.0) -> np.ndarray:
    """Green objects on brown ground, a little noisy."""
    image = np.full((*masks[0].shape, 3), BROWN, np.float32)
    image[np.any(masks, axis=0)] = GREEN
    image += np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


class Scripted:
    """Answers that are given beforehand; notes what it is asked."""

    def __init__(
        self, candidates: np.ndarray, preferred: list[int], later: list[np.ndarray], boxed: np.ndarray | None
    ) -> None:
        self.candidates, self.preferred, self.later, self.boxed = candidates, np.array(preferred), later, boxed
        self.asked: list[tuple[Clicks, ClickLabels]] = []
        self.rows: list[list[int]] = []
        self.seconds: dict[str, list[float]] = {}

    def look_at(self, image: np.ndarray) -> None:
        self.image = image

    def first_click(self, clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        self.first = [list(points) for points in clicks]
        return self.candidates, self.preferred

    def more_clicks(self, clicks: Clicks, labels: ClickLabels, rows: np.ndarray) -> np.ndarray:
        self.rows.append(rows.tolist())
        self.asked.append(([list(points) for points in clicks], [list(values) for values in labels]))
        return self.later[len(self.asked) - 1]

    def boxes(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray | None:
        self.drawn = list(boxes)
        return self.boxed


def test_a_tight_box_is_half_open() -> None:
    assert tight_box(rectangle((10, 12), 3, 2, 7, 9)) == (3, 2, 7, 9)
    assert tight_box(np.ones((10, 12), bool)) == (0, 0, 12, 10)


def test_measure_clicks_corrects_and_draws_boxes() -> None:
    size = (20, 30)
    left, right = rectangle(size, 1, 1, 10, 10), rectangle(size, 15, 5, 26, 16)
    empty, too_much = np.zeros(size, bool), rectangle(size, 15, 5, 30, 16)
    candidates = np.stack([[left, empty, empty], [empty, right, too_much]])
    segmenter = Scripted(candidates, [0, 2], [right[None]], np.stack([left, empty]))
    levels = np.array([2, 1])
    answers = measure(segmenter, MaskedImage(painted(left, right), np.stack([left, right]), "", levels))
    ious = answers.ious

    assert segmenter.first == [[(5, 5)], [(20, 10)]]
    np.testing.assert_allclose(ious["click"], [1, 121 / 165])
    np.testing.assert_allclose(ious["best_of_3"], [1, 1])
    np.testing.assert_allclose(ious["level"], [0, 1])
    # the first object is right at once and gets no more clicks; the second is right after one correction
    ((clicks, labels),) = segmenter.asked
    assert segmenter.rows == [[1]]
    assert labels == [[1, 0]]
    x, y = clicks[0][1]
    assert 26 <= x < 30
    assert 5 <= y < 16
    np.testing.assert_allclose(answers.by_click, [[1] * 5, [121 / 165, 1, 1, 1, 1]])
    assert segmenter.drawn == [(1, 1, 10, 10), (15, 5, 26, 16)]
    np.testing.assert_allclose(ious["box"], [1, 0])


def test_measure_asks_again_while_something_is_wrong() -> None:
    truth = rectangle((20, 20), 4, 4, 13, 13)
    half = rectangle((20, 20), 4, 4, 13, 8)
    empty = np.zeros_like(truth)
    segmenter = Scripted(empty[None, None], [0], [half[None]] * 2, None)
    answers = measure(segmenter, MaskedImage(painted(truth), truth[None]), num_clicks=3)
    assert set(answers.ious) == {"click"}
    assert [len(points[0]) for points, _ in segmenter.asked] == [2, 3]
    assert segmenter.asked[1][1] == [[1, 1, 1]]
    np.testing.assert_allclose(answers.by_click, [[0, 36 / 81, 36 / 81]])


def test_an_object_that_is_good_enough_gets_no_click_after_the_fifth() -> None:
    truth = rectangle((40, 40), 4, 4, 24, 24)
    good, bad = rectangle((40, 40), 4, 4, 24, 23), rectangle((40, 40), 4, 4, 24, 16)
    both = np.stack([good, bad])
    segmenter = Scripted(both[:, None], [0, 0], [*[both] * 4, bad[None], good[None]], None)
    answers = measure(segmenter, MaskedImage(painted(truth), np.stack([truth, truth])), num_clicks=8)
    assert segmenter.rows == [[0, 1]] * 4 + [[1]] * 2
    np.testing.assert_allclose(answers.by_click[0], 0.95)
    np.testing.assert_allclose(answers.by_click[1], [0.6] * 6 + [0.95] * 2)


def test_many_objects_are_asked_for_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("tiny_vit")
    masks = np.stack([disc((48, 64), 10 + 10 * index, 24, 5) for index in range(5)])
    example = MaskedImage(painted(*masks), masks)
    whole = measure(ModelSegmenter(model, processor_for(model)), example)
    monkeypatch.setattr(protocol_module, "OBJECTS_AT_ONCE", 2)
    segmenter = ModelSegmenter(model, processor_for(model))
    parts = measure(segmenter, example)
    assert len(segmenter.seconds["encode"]) == 1
    np.testing.assert_allclose(parts.by_click, whole.by_click, atol=0.02)
    np.testing.assert_allclose(parts.ious["box"], whole.ious["box"], atol=0.02)


@pytest.mark.parametrize("method", [flood_fill_mask, grabcut_mask])
def test_a_baseline_finds_the_clicked_object_alone(method: Callable[..., np.ndarray]) -> None:
    clicked, other = disc((96, 96), 30, 40, 14), disc((96, 96), 72, 60, 12)
    image = painted(clicked, other)
    assert mask_ious(method(image, [(30, 40)], [1]), clicked) > 0.9
    both = method(image, [(30, 40), (72, 60)], [1, 1])
    assert mask_ious(both, clicked | other) > 0.9
    assert both.shape == (96, 96)
    assert both.dtype == bool


def test_a_negative_click_takes_grabcut_back() -> None:
    image = painted(disc((96, 96), 32, 48, 16), disc((96, 96), 60, 48, 14))  # overlapping, of one colour
    before = grabcut_mask(image, [(32, 48)], [1])
    after = grabcut_mask(image, [(32, 48), (66, 48)], [1, 0])
    assert before[48, 66]
    assert not after[48, 66]
    assert after[48, 32]


def test_a_negative_click_lowers_the_tolerance_of_a_flood() -> None:
    wanted, unwanted = rectangle((64, 64), 10, 10, 30, 50), rectangle((64, 64), 30, 10, 50, 50)
    image = painted(wanted, unwanted, noise=0)
    image[unwanted] = (60, 172, 72)
    assert mask_ious(flood_fill_mask(image, [(18, 30)], [1]), wanted | unwanted) > 0.95
    corrected = flood_fill_mask(image, [(18, 30), (40, 30)], [1, 0])
    assert mask_ious(corrected, wanted) > 0.95
    same_color = painted(wanted, unwanted, noise=0)
    assert not flood_fill_mask(same_color, [(18, 30), (40, 30)], [1, 0])[30, 40]


def test_grabcut_takes_boxes() -> None:
    inside, outside = disc((96, 96), 30, 40, 14), disc((96, 96), 72, 60, 12)
    image = painted(inside, outside)
    assert mask_ious(grabcut_mask(image, box=tight_box(inside)), inside) > 0.9
    assert mask_ious(grabcut_mask(image, [(30, 40)], [1], tight_box(inside)), inside) > 0.9
    # a click outside of the box stays what it was said to be
    assert grabcut_mask(image, [(72, 60)], [1], tight_box(inside))[60, 72]
    # colours far from the box say nothing about what is around it
    twin = painted(disc((96, 96), 20, 20, 10), rectangle((96, 96), 0, 50, 96, 96))
    assert mask_ious(grabcut_mask(twin, box=(10, 10, 31, 31)), disc((96, 96), 20, 20, 10)) > 0.95
    # nothing is left to learn the background from
    assert grabcut_mask(image, box=(0, 0, 96, 96)).all()


def test_grabcut_is_the_same_every_time() -> None:
    image = painted(disc((64, 64), 30, 30, 12), noise=40)
    first = grabcut_mask(image, [(30, 30)], [1])
    cv2.setRNGSeed(1234)
    np.testing.assert_array_equal(grabcut_mask(image, [(30, 30)], [1]), first)


def test_baselines_name_what_they_cannot_use() -> None:
    image = painted(disc((32, 32), 16, 16, 6))
    with pytest.raises(ValueError, match=r"\(32, 4\), outside of an image of 32x32"):
        flood_fill_mask(image, [(32, 4)], [1])
    with pytest.raises(ValueError, match="labels"):
        flood_fill_mask(image, [(3, 4)], [])
    with pytest.raises(ValueError, match="labels"):
        flood_fill_mask(image, [(3, 4)], [2])
    with pytest.raises(ValueError, match="image is float64"):
        flood_fill_mask(image / 255, [(3, 4)], [1])
    with pytest.raises(ValueError, match="positive click or a box"):
        grabcut_mask(image, [(3, 4)], [0])
    with pytest.raises(ValueError, match="box="):
        grabcut_mask(image, box=(5, 5, 5, 9))


def test_a_baseline_segmenter_keeps_the_order_of_objects() -> None:
    one, two = disc((48, 48), 12, 12, 6), disc((48, 48), 34, 34, 8)
    segmenter = BaselineSegmenter(lambda image, points, labels, _: flood_fill_mask(image, points, labels), False, 2)
    segmenter.look_at(painted(one, two))
    masks, preferred = segmenter.first_click([[(12, 12)], [(34, 34)]])
    assert masks.shape == (2, 1, 48, 48)
    assert preferred.tolist() == [0, 0]
    assert (mask_ious(masks[:, 0], np.stack([one, two])) > 0.75).all()
    assert segmenter.boxes([(6, 6, 18, 18)]) is None
    assert len(segmenter.seconds["prompt"]) == 2


def test_the_photo_has_24_round_coins() -> None:
    coins = coins_photo()
    assert coins.masks.shape == (24, 303, 384)
    assert coins.masks.sum(axis=0).max() == 1
    areas = coins.masks.sum(axis=(1, 2))
    assert areas.min() > 1000
    assert areas.max() < 3300
    for mask in coins.masks:
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert len(outlines) == 1
        hull = cv2.convexHull(outlines[0])
        assert 4 * np.pi * cv2.contourArea(hull) / cv2.arcLength(hull, True) ** 2 > 0.93
        assert cv2.contourArea(outlines[0]) / cv2.contourArea(hull) > 0.94
        _, (short, long), _ = cv2.fitEllipse(outlines[0])
        assert short / long > 0.8
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in coins.masks])
    rows = np.sort(centres[:, 0]).reshape(4, 6)
    assert (np.diff(rows.mean(axis=1)) > 50).all()
    assert np.ptp(rows, axis=1).max() < 25
    gray = coins.image[..., 0].astype(float)
    around = [cv2.dilate(mask.astype(np.uint8), np.ones((13, 13))) - mask for mask in coins.masks]
    assert all(gray[mask].mean() > gray[ring == 1].mean() + 25 for mask, ring in zip(coins.masks, around, strict=True))


def test_a_photo_without_coins_is_refused() -> None:
    with pytest.raises(RuntimeError, match="gives 1 coins instead of 24"):
        coin_masks(np.where(disc((303, 384), 150, 150, 20), 200, 40).astype(np.uint8))


def test_held_out_scenes_are_always_the_same() -> None:
    one, two = (list(held_out_scenes(3, 50, size=64, max_objects=2, min_area=0.01)) for _ in range(2))
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.masks, b.masks)
        assert 1 <= len(a.masks) <= 2
        assert (a.areas >= 0.01).all()
    later = next(iter(held_out_scenes(1, 51, size=64, max_objects=2, min_area=0.01)))
    assert any(np.array_equal(later.image, example.image) for example in one[1:])
    with pytest.raises(ValueError, match="max_objects=0"):
        next(held_out_scenes(1, 0, max_objects=0))
    with pytest.raises(ValueError, match=r"min_area=0\.5"):
        next(held_out_scenes(1, 0, min_area=0.5))


@pytest.mark.parametrize("fields", [{"masks": np.ones((2, 8, 9), bool)}, {"masks": np.zeros((1, 8, 8), bool)}])
def test_an_evaluation_image_is_checked(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"masks has an object without|masks is bool"):
        MaskedImage(np.zeros((8, 8, 3), np.uint8), **fields)


@torch.inference_mode()
def test_the_model_is_asked_as_segment_anything_does() -> None:
    model = tiny_model("tiny_vit_with_skips")
    processor = processor_for(model)
    image = painted(disc((48, 80), 30, 20, 12))
    segmenter = ModelSegmenter(model, processor)
    segmenter.look_at(image)
    clicks = [[(30, 20)], [(60, 40)]]
    masks, best = segmenter.first_click(clicks)

    inputs = processor(images=image, input_points=[clicks], return_tensors="pt")
    outputs = model(**{name: inputs[name] for name in ("pixel_values", "input_points", "input_labels")})
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    np.testing.assert_array_equal(masks, processor.post_process_masks(outputs.pred_masks, *sizes)[0].numpy())
    assert best.tolist() == outputs.iou_scores[0].argmax(dim=-1).tolist()

    more = [[(30, 20)], [(60, 40), (10, 5)]]
    corrected = segmenter.more_clicks(more, [[1], [1, 0]], np.arange(2))
    previous = outputs.pred_masks[0][[0, 1], best.tolist()]
    inputs = processor(images=image, input_points=[more], input_labels=[[[1], [1, 0]]], return_tensors="pt")
    tensors = {name: inputs[name] for name in ("pixel_values", "input_points", "input_labels")}
    outputs = model(**tensors, input_masks=previous[None].clamp(-32, 32), multimask_output=False)
    expected = processor.post_process_masks(outputs.pred_masks, *sizes)[0][:, 0].numpy()
    assert (corrected != expected).mean() < 0.002
    torch.testing.assert_close(segmenter.logits, outputs.pred_masks[0, :, 0], atol=1e-3, rtol=1e-3)

    boxed = segmenter.boxes([(18, 8, 43, 33)])
    inputs = processor(images=image, input_boxes=[[(18, 8, 43, 33)]], return_tensors="pt")
    outputs = model(inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False)
    expected = processor.post_process_masks(outputs.pred_masks, *sizes)[0][:, 0].numpy()
    assert (boxed != expected).mean() < 0.002
    assert len(segmenter.seconds["encode"]) == 1
    assert len(segmenter.seconds["prompt"]) == 3


@pytest.fixture
def few_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two painted coins instead of the photo's 24, which take GrabCut a while."""
    masks = np.stack([disc((40, 56), 14, 20, 8), disc((40, 56), 40, 20, 10)])
    monkeypatch.setattr(data_module, "coins_photo", lambda: MaskedImage(painted(*masks), masks))


def test_the_whole_evaluation(tmp_path: Path, few_coins: None, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(save_tiny(tmp_path / "model", "tiny_vit_with_skips"))
    json_file = tmp_path / "reports" / "scores.json"
    report = evaluate(
        model=checkpoint, sets="held_out,coins", scenes=2, size=64, image_size=128, max_objects=2, baseline_scenes=1,
        threads=1, json_file=json_file,
    )  # fmt: skip
    assert json.loads(json_file.read_text()) == report
    parameters = sum(parameter.numel() for parameter in tiny_model("tiny_vit_with_skips").parameters())
    assert report["model"] == {
        "checkpoint": checkpoint,
        "parameters": parameters,
        "image_size": 128,
        "sha256": {"model.safetensors": sha256_of(Path(checkpoint) / "model.safetensors")},
    }
    assert report["version"] == 2
    assert report["settings"]["first_seed"] == 1_000_000
    assert {"torch", "sam-variants"} <= set(report["versions"])
    scenes, coins = report["results"]["held_out"], report["results"]["coins"]
    assert list(scenes) == ["model", MODEL_SUBSET, "flood_fill", "grabcut"]
    assert list(coins) == ["model", "flood_fill", "grabcut"]
    assert scenes["grabcut"]["all"]["objects"] == scenes[MODEL_SUBSET]["all"]["objects"]
    clicked = {"objects", "click", "best_of_3", "three_clicks", "five_clicks", "box"}
    assert clicked <= set(scenes["model"]["all"]) <= {*clicked, "level"}
    assert len(scenes["model"]["by_click"]) == 5
    assert set(scenes["flood_fill"]["all"]) == {"objects", "click", "three_clicks"}
    assert set(scenes["grabcut"]["all"]) == {"objects", "click", "three_clicks", "box"}
    assert set(scenes["model"]["milliseconds"]) == {"encode", "prompt"}
    assert coins["model"]["all"]["objects"] == 2
    assert coins["flood_fill"]["all"]["click"] > 0.85
    for summary in (*scenes.values(), *coins.values()):
        assert all(0 <= value <= 1 for name, value in summary["all"].items() if name != "objects")
    assert scenes["model"]["all"]["best_of_3"] >= scenes["model"]["all"]["click"]
    printed = capsys.readouterr().out
    assert "Held-out scenes" in printed
    assert f"{parameters:,} parameters" in printed


def test_evaluation_without_baselines(tmp_path: Path, few_coins: None) -> None:
    checkpoint = str(save_tiny(tmp_path / "model"))
    report = evaluate(
        model=checkpoint, sets="coins,held_out", scenes=1, size=64, max_objects=1, baselines=False, threads=1
    )
    assert [list(results) for results in report["results"].values()] == [["model"], ["model"]]
    assert report["settings"]["baseline_scenes"] == 0


def test_a_bad_image_size_is_named(tmp_path: Path) -> None:
    checkpoint = str(save_tiny(tmp_path / "model"))
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="image_size=100"):
        evaluate(model=checkpoint, image_size=100, threads=threads + 1)
    assert torch.get_num_threads() == threads
