"""The operator of labeling: what it finds, what fails alone, and one model used by several threads."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tiny

from sam_variants.labeling import image_labeler
from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.labeling.items import FailedImage, Item, ItemPrompts, LabeledImage
from sam_variants.labeling.label_settings import LabelSettings
from sam_variants.labeling.model_slots import ModelSlots
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.mask_storage import LogitStore, upsample_logits
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.results import Masks

LOOSE = {"points_per_side": 2, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return str(save_tiny(tmp_path_factory.mktemp("labeler") / "tiny-one"))


def photos(number: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (48, 60 + index, 3), dtype=np.uint8) for index in range(number)]


def items(number: int, **fields: Any) -> list[Item]:
    return [Item(f"image {index}", **fields) for index in range(number)]


def labeled(result: LabeledImage | FailedImage) -> LabeledImage:
    assert isinstance(result, LabeledImage), result
    return result


def without_ids(masks: Masks) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in annotation.items() if name not in ("id", "image_id")}
        for annotation in masks.to_coco(image_id=0)
    ]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("options", [{}, {"crop_n_layers": 1, "crop_nms_thresh": 1.0}, {"max_hole_area": 9}])
def test_everything_is_what_the_pipeline_finds(checkpoint: str, batch_size: int, options: dict[str, Any]) -> None:
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE | options, batch_size=batch_size)
    pixels = photos(3)
    found = labeler(items(3), pixels)
    pipe = SamVariantsMaskGenerationPipeline(model=SamVariantsModel.from_pretrained(checkpoint).fuse())
    for result, masks, array in zip(
        found, pipe(pixels, batch_size=batch_size, **LOOSE, **options), pixels, strict=True
    ):
        assert len(masks) > 1
        assert labeled(result).size == array.shape[:2]
        assert list(labeled(result).annotations) == without_ids(masks)


def test_prompts_give_one_mask_each_in_their_order(checkpoint: str) -> None:
    boxes = np.array([[3.0, 4, 40, 30], [0, 0, 20, 20.5], [10, 10, 50, 44]])
    several = [np.array([[5.0, 5]]), np.array([[9.0, 9], [30, 20]])]
    prompts = [
        ItemPrompts(boxes=boxes, categories=["cat", "dog", "cat"]),
        ItemPrompts(points=several, labels=[np.array([1]), np.array([1, 0])]),
        ItemPrompts(boxes=np.zeros((0, 4))),
        ItemPrompts(boxes=boxes[:2], points=[np.zeros((0, 2)), several[1]]),
        None,
    ]
    labeler = ImageLabeler.for_checkpoint(checkpoint, mode="prompts", batch_size=2)
    pixels = photos(len(prompts))
    given = [Item(str(index), prompts=each) for index, each in enumerate(prompts)]
    results = labeler(given, pixels)
    found = [list(labeled(result).annotations) for result in results]
    pipe = PromptableSegmentationPipeline(model=SamVariantsModel.from_pretrained(checkpoint).fuse())
    for box, annotation in zip(boxes, found[0], strict=True):
        assert_same(annotation, pipe(pixels[0], boxes=box))
    x1, y1, x2, y2 = boxes[1].tolist()
    assert found[0][1]["prompt_box"] == [x1, y1, x2 - x1, y2 - y1]
    assert [annotation["category"] for annotation in found[0]] == ["cat", "dog", "cat"]
    assert_same(found[1][0], pipe(pixels[1], points=[5, 5]))
    assert_same(found[1][1], pipe(pixels[1], points=[[[9, 9], [30, 20]]], labels=[[1, 0]]))
    assert [annotation["point_labels"] for annotation in found[1]] == [[1], [1, 0]]
    assert [annotation["point_coords"] for annotation in found[1]] == [[[5, 5]], [[9, 9], [30, 20]]]
    assert found[2] == found[4] == []
    assert labeled(results[2]).size == pixels[2].shape[:2]
    assert_same(found[3][0], pipe(pixels[3], boxes=boxes[0]))
    assert_same(found[3][1], pipe(pixels[3], boxes=boxes[1], points=[[[9, 9], [30, 20]]]))
    assert labeler.times.seconds["decode"] > 0
    assert labeler.times.seconds["encode"] > 0


def assert_same(annotation: dict[str, Any], masks: Masks) -> None:
    """A padded prompt gives what it gives alone, up to rounding."""
    (expected,) = masks
    pixels = Masks.from_coco([annotation | {"image_id": 0}]).data
    assert (pixels != expected.data).float().mean() < 1e-3
    assert annotation["score"] == pytest.approx(float(expected.scores[0]), abs=1e-4)
    # Stability by its definition, on full-size logits.
    store = expected._store
    assert isinstance(store, LogitStore)
    logits = upsample_logits(store.logits, store.size, store.reshaped_input_size, store.input_size)
    inner, outer = ((logits > cut).sum().item() for cut in (1.0, -1.0))
    assert annotation["stability_score"] == pytest.approx(inner / max(outer, 1), abs=0.01)


def test_boxes_that_reach_over_the_border_are_cut(checkpoint: str) -> None:
    """As detectors give them; one beyond the border is a mistake."""
    (pixels,) = photos(1)
    over, cut, beyond = np.array([[-2.5, 10, 30, 48.4], [0, 10, 30, 48], [70, 10, 90, 30]])
    labeler = ImageLabeler.for_checkpoint(checkpoint, mode="prompts")
    given = [Item(str(index), prompts=ItemPrompts(boxes=box[None])) for index, box in enumerate((over, cut, beyond))]
    first, second, third = labeler(given, [pixels] * 3)
    (found,), (expected,) = labeled(first).annotations, labeled(second).annotations
    assert found == expected | {"prompt_box": [-2.5, 10, 32.5, 38.4]}
    assert isinstance(third, FailedImage)
    assert third.error.startswith("boxes[0] = (70, 10, 90, 30) lies outside the image of width 60, height 48")


def test_images_that_cannot_be_read_keep_their_place(checkpoint: str) -> None:
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE, batch_size=3)
    (pixels,) = photos(1)
    first, second, third = labeler(items(3), ["it is cut off", pixels, "it is empty"])
    assert first == FailedImage("image 0", "it is cut off")
    assert labeled(second).item.key == "image 1"
    assert third == FailedImage("image 2", "it is empty")
    assert labeler(items(1), ["nothing"]) == [FailedImage("image 0", "nothing")]


def failing(labeler: ImageLabeler, width: int, errors: list[Exception]) -> list[int]:
    """Let a labeler raise errors, one after the other, where an image of this width is among those of a call; returns
    what fills with the number of images of each call."""
    calls: list[int] = []
    original = labeler._masks

    def masks(items: Sequence[Item], pixels: Sequence[Any]) -> list[Masks]:
        calls.append(len(pixels))
        if errors and any(array.shape[1] == width for array in pixels):
            raise errors.pop(0)
        return original(items, pixels)

    labeler._masks = masks  # type: ignore[method-assign]
    return calls


def test_an_image_that_the_model_cannot_do_fails_alone(checkpoint: str) -> None:
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE, batch_size=3)
    pixels = photos(3)
    expected = [labeler([item], [array])[0] for item, array in zip(items(3), pixels, strict=True)]
    calls = failing(labeler, 61, [ValueError("together"), RuntimeError("a tensor\n at 0x7f00 is odd")])
    assert labeler(items(3), pixels) == [expected[0], FailedImage("image 1", "a tensor is odd"), expected[2]]
    assert calls == [3, 1, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_is_short_once_is_asked_for_again_alone(checkpoint: str, error: Exception) -> None:
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE)
    (pixels,) = photos(1)
    expected = labeler(items(1), [pixels])
    failing(labeler, 60, [error])
    assert labeler(items(1), [pixels]) == expected
    failing(labeler, 60, [error, error])
    (failed,) = labeler(items(1), [pixels])
    assert failed == FailedImage("image 0", "there is not enough memory for an image of width 60, height 48")


def test_a_lost_device_is_no_fault_of_an_image(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class LostError(RuntimeError):
        pass

    monkeypatch.setattr(image_labeler, "DEVICE_ERRORS", (LostError,))
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE)
    failing(labeler, 60, [LostError("unspecified launch failure")])
    with pytest.raises(LostError):
        labeler(items(1), photos(1))


def test_the_model_is_used_alone_only_when_nobody_else_uses_it() -> None:
    slots = ModelSlots(3, None)
    inside, alone, log = threading.Event(), threading.Event(), []

    def beside() -> None:
        with slots.one():
            inside.set()
            log.append(alone.wait(0.2))

    threads = [threading.Thread(target=beside) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(20)
    with slots.all():
        alone.set()
        log.append("alone")
    for thread in threads:
        thread.join(20)
    assert log[-1] == "alone"
    assert log[:-1] == [False, False]
    with slots.one(), slots.one(), slots.one():  # all were given back
        pass


def test_threads_share_the_model_and_the_processor(checkpoint: str) -> None:
    pixels = photos(12)
    alone = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE, jobs=1)
    expected = [alone([item], [array])[0] for item, array in zip(items(12), pixels, strict=True)]
    labeler = ImageLabeler.for_checkpoint(checkpoint, generation=LOOSE, jobs=4)
    assert labeler.jobs == 4
    results: dict[int, Any] = {}

    def work(first: int) -> None:
        for index in range(first, 12, 4):
            (results[index],) = labeler([items(12)[index]], [pixels[index]])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(12)] == expected


def test_a_pickled_labeler_loads_its_own_model(checkpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, folder)
    labeler = ImageLabeler.for_checkpoint(str(folder), generation=LOOSE, jobs=2)
    (pixels,) = photos(1)
    sent = pickle.dumps(labeler)
    assert len(sent) < 5000
    copied = pickle.loads(sent)
    assert copied.jobs == 2
    assert copied(items(1), [pixels]) == labeler(items(1), [pixels])
    save_tiny(folder, seed=1)
    with pytest.raises(ValueError, match="elsewhere' are others than those that the run was begun with"):
        pickle.loads(sent)(items(1), [pixels])


def test_settings_hold_all_that_decides_the_masks(checkpoint: str) -> None:
    settings = ImageLabeler.for_checkpoint(checkpoint, generation={"points_per_side": 3}, dtype="bfloat16").settings
    assert settings.model == "tiny-one"
    assert settings.batch_size == 1
    assert settings.image_size == 64
    assert settings.generation["points_per_side"] == 3
    assert settings.generation["pred_iou_thresh"] == 0.88
    assert "point_grids" not in settings.generation
    assert "checkpoint" not in settings.identity()
    assert LabelSettings.from_json(settings.to_json()) == settings
    assert LabelSettings.from_json(settings.identity()).identity() == settings.identity()
    with pytest.raises(ValueError, match="settings have the names"):
        LabelSettings.from_json({**settings.to_json(), "colour": 1})


def test_what_the_model_says_of_itself_is_part_of_the_settings(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "own", mask_generation={"points_per_side": 5, "stability_score_thresh": 0.3})
    settings = ImageLabeler.for_checkpoint(str(folder), generation={"stability_score_thresh": 0.4}).settings
    assert settings.generation["points_per_side"] == 5
    assert settings.generation["stability_score_thresh"] == 0.4


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "memory": ({"max_memory": "1MB"}, "max_memory=1MB is too little"),
    "memory of prompts": ({"max_memory": "1GB", "mode": "prompts"}, "max_memory limits everything mode only"),
    "an option of the other mode": (
        {"mode": "prompts", "generation": {"preset": "fast"}},
        "options of everything mode",
    ),
    "an option": ({"generation": {"preset": "slow"}}, "preset"),
    "a mode": ({"mode": "all"}, "mode must be one of"),
    "images": ({"images": "link"}, "images must be one of"),
    "a batch size": ({"batch_size": 0}, "batch_size must be a whole number"),
    "rows": ({"rows_per_shard": 0}, "rows_per_shard must be a whole number"),
    "jobs": ({"jobs": 0}, "jobs must be at least 1"),
    "a device": ({"device": "abacus"}, "abacus can't be used"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_at_once(checkpoint: str, case: str) -> None:
    options, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        ImageLabeler.for_checkpoint(checkpoint, **options)
