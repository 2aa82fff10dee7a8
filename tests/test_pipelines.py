"""`pipeline("promptable-segmentation")`: which answer is given, in which order, for every form of image and prompt."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_VISION, save_tiny, tiny_config, tiny_model
from torch.utils.data import Dataset
from transformers import SamConfig, SamModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from sam_variants import pipelines
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks

TASK = "promptable-segmentation"
HEIGHT, WIDTH = 48, 80
CLICKS = [[[10, 20]], [[61, 7]], [[40, 40]], [[79, 1]], [[5, 44]], [[33, 12]]]
TWO_POINTS = [[[10, 20], [30, 30]]]
BOX = [4, 6, 50, 40]
# Objects of every kind in one image, as one call: points, labels and boxes belong together by index.
MIXED: dict[str, Any] = {
    "points": [[[10, 20]], [[10, 20], [30, 30]], None, [[61, 7]]],
    "labels": [[1], [1, 0], None, [1]],
    "boxes": [None, None, BOX, BOX],
}


def random_image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> PromptableSegmentationPipeline:
    return pipeline(TASK, model=str(folder))


def by_hand(model: SamVariantsModel, image: Any, multimask: bool, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks P×M×H×W and scores P×M from model and processor alone."""
    processor = processor_for(model)
    inputs = processor(images=image, return_tensors="pt", **{f"input_{name}": value for name, value in prompts.items()})
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=multimask)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    return processor.post_process_masks(outputs.pred_masks, *sizes)[0], outputs.iou_scores[0]


def assert_same(one: Masks, other: Masks, tolerance: float = 1e-5) -> None:
    """Equal but for pixels whose logit lies on the threshold."""
    assert len(one) == len(other)
    torch.testing.assert_close(one.scores, other.scores, atol=tolerance, rtol=0)
    assert (one.data != other.data).float().mean() < 1e-3


def test_the_task_is_registered_with_the_embedded_checkpoint() -> None:
    _, task, _ = PIPELINE_REGISTRY.check_task(TASK)
    assert task["impl"] is PromptableSegmentationPipeline
    assert task["default"]["model"][0] == str(default_checkpoint())


@pytest.mark.parametrize("encoder", sorted(TINY_VISION))
def test_a_single_click_gets_the_best_of_three(encoder: str) -> None:
    model = tiny_model(encoder)
    image = random_image()
    masks = PromptableSegmentationPipeline(model=model)(image, points=CLICKS)
    candidates, scores = by_hand(model, image, True, points=CLICKS)
    best = scores.argmax(dim=1)
    for index in range(len(CLICKS)):
        assert torch.equal(masks.data[index], candidates[index, best[index]])
    torch.testing.assert_close(masks.scores, scores.amax(dim=1))
    assert masks.size == (HEIGHT, WIDTH)
    assert masks.data.any()
    assert not masks.data.all()


@pytest.mark.parametrize(
    "prompts",
    [
        {"points": TWO_POINTS},
        {"points": TWO_POINTS, "labels": [[1, 0]]},
        {"boxes": BOX},
        {"points": [[[10, 20]]], "boxes": [BOX]},
        {"masks": np.eye(HEIGHT, WIDTH, dtype=bool)},
        {"points": [[[10, 20]]], "masks": [np.eye(HEIGHT, WIDTH, dtype=bool)]},
    ],
    ids=["two points", "labels", "box", "click in a box", "mask", "click and mask"],
)
def test_more_than_a_click_gets_the_single_answer(prompts: dict[str, Any]) -> None:
    model = tiny_model("tiny_vit")
    masks = PromptableSegmentationPipeline(model=model)(random_image(), **prompts)
    expected, scores = by_hand(model, random_image(), False, **prompts)
    assert torch.equal(masks.data, expected[:, 0])
    torch.testing.assert_close(masks.scores, scores[:, 0])


def test_a_single_background_click_is_as_ambiguous(pipe: PromptableSegmentationPipeline) -> None:
    click = {"points": [[10, 20]], "labels": [0]}
    assert_same(pipe(random_image(), **click), pipe(random_image(), multimask=True, **click)[0])


def test_objects_of_all_kinds_come_in_the_order_given(pipe: PromptableSegmentationPipeline) -> None:
    together = pipe(random_image(), **MIXED)
    for index in range(4):
        alone = {name: [values[index]] for name, values in MIXED.items() if values[index] is not None}
        assert_same(together[index], pipe(random_image(), **alone))


def test_multimask_gives_every_candidate_best_first(pipe: PromptableSegmentationPipeline) -> None:
    masks = pipe(random_image(), points=CLICKS, multimask=True)
    assert len(masks) == 3 * len(CLICKS)
    scores = masks.scores.reshape(-1, 3)
    assert (scores.diff(dim=1) <= 0).all()
    candidates, expected = by_hand(pipe.model, random_image(), True, points=CLICKS)
    order = expected.argsort(dim=1, descending=True)
    assert len({tuple(row) for row in order.tolist()} - {(0, 1, 2)}) > 0, "the order must be tested"
    for index in range(len(CLICKS)):
        assert torch.equal(masks.data[3 * index : 3 * index + 3], candidates[index, order[index]])
    assert masks.points.shape == (18, 1, 2)
    assert masks.points[3:6].unique(dim=0).tolist() == [[[61, 7]]]


def test_points_are_kept_in_the_pixels_of_the_image(pipe: PromptableSegmentationPipeline) -> None:
    masks = pipe(random_image(height=33, width=97), points=[[[10.25, 20]], [[1, 2], [96.5, 32]]])
    assert masks.points.tolist() == [[[10.25, 20], [-10, -10]], [[1, 2], [96.5, 32]]]
    assert pipe(random_image(), boxes=BOX).points is None


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_batch_gives_what_each_image_gives_alone(pipe: PromptableSegmentationPipeline, batch_size: int) -> None:
    images = [random_image(0), random_image(1, 90, 31), random_image(2), random_image(3, 20, 20)]
    points = [[[10, 20]], None, [[[1, 2]], [[3, 4], [5, 6]], [[7, 8]]], [[3, 3], [9, 9]]]
    boxes = [None, [[1, 2, 30, 80], [5, 6, 20, 30]], [None, None, BOX], None]
    results = pipe(images, points=points, boxes=boxes, batch_size=batch_size)
    assert [len(masks) for masks in results] == [1, 2, 3, 1]
    for index, masks in enumerate(results):
        assert_same(masks, pipe(images[index], points=points[index], boxes=boxes[index]))
        assert masks.size == images[index].shape[:2]


def test_more_objects_than_the_decoder_takes_at_once(
    pipe: PromptableSegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = pipe(random_image(), **MIXED)
    monkeypatch.setattr(pipelines, "OBJECTS_PER_PASS", 3)
    assert_same(at_once, pipe(random_image(), **MIXED))


def image_forms(tmp_path: Path) -> dict[str, Any]:
    picture = Image.fromarray(random_image())
    picture.save(tmp_path / "image.png")
    data = base64.b64encode((tmp_path / "image.png").read_bytes()).decode()
    return {
        "PIL": picture,
        "tensor": torch.from_numpy(random_image()).permute(2, 0, 1),
        "Path": tmp_path / "image.png",
        "str": str(tmp_path / "image.png"),
        "data URL": f"data:image/png;base64,{data}",
        "dict": {"image": picture},
    }


def test_every_form_of_an_image_is_the_same_image(pipe: PromptableSegmentationPipeline, tmp_path: Path) -> None:
    expected = pipe(random_image(), boxes=BOX)
    for name, image in image_forms(tmp_path).items():
        masks = pipe(image | {"boxes": BOX}) if name == "dict" else pipe(image, boxes=BOX)
        assert torch.equal(masks.data, expected.data), name


def test_a_list_of_one_image_and_a_batch_of_arrays_give_lists(pipe: PromptableSegmentationPipeline) -> None:
    for points in (TWO_POINTS[0], TWO_POINTS, [TWO_POINTS]):
        (masks,) = pipe([random_image()], points=points)
        assert_same(masks, pipe(random_image(), points=TWO_POINTS))
    first, second = pipe(np.stack([random_image(0), random_image(1)]), points=np.array([[10, 20], [30, 30]]))
    assert_same(first, pipe(random_image(0), points=[[10, 20]]))
    assert_same(second, pipe(random_image(1), points=[[30, 30]]))


ITEMS = [{"image": random_image(seed), "points": [[[10 + seed, 20]]]} for seed in range(3)]


class TorchDataset(Dataset):
    def __len__(self) -> int:
        return len(ITEMS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ITEMS[index]


class SizedItems:
    """Like `datasets.Dataset`, which is no dataset of torch."""

    def __len__(self) -> int:
        return len(ITEMS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ITEMS[index]


@pytest.mark.parametrize(
    "items", [ITEMS, tuple(ITEMS), TorchDataset(), SizedItems(), iter(ITEMS)], ids=lambda items: type(items).__name__
)
def test_lists_datasets_and_streams_of_items(pipe: PromptableSegmentationPipeline, items: Any) -> None:
    results = list(pipe(items, batch_size=2))
    assert len(results) == 3
    for masks, item in zip(results, ITEMS, strict=True):
        assert_same(masks, pipe(item["image"], points=item["points"]))


def test_a_generator_is_read_as_it_goes(pipe: PromptableSegmentationPipeline) -> None:
    read = []

    def items() -> Iterator[dict[str, Any]]:
        for index, item in enumerate(ITEMS):
            read.append(index)
            yield item

    results = pipe(items())
    next(results)
    assert read == [0]
    assert len(list(results)) == 2


def test_a_loaded_model_is_fused_and_gives_the_same(folder: Path) -> None:
    fused = pipeline(TASK, model=folder)
    whole = pipeline(TASK, model=SamVariantsModel.from_pretrained(folder))
    assert fused.model._is_fused
    assert not whole.model._is_fused
    assert_same(fused(random_image(), **MIXED), whole(random_image(), **MIXED), tolerance=1e-4)


def test_a_model_that_is_passed_stays_as_it_is() -> None:
    model = SamVariantsModel(tiny_config("tiny_vit"))
    model.prompt_encoder.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    first = pipeline(TASK, model=model)(random_image(), points=CLICKS)
    assert {name: module.training for name, module in model.named_modules()} == modes
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_same(first, PromptableSegmentationPipeline(model=model.eval())(random_image(), points=CLICKS))


def test_saving_keeps_weights_and_processor(folder: Path, tmp_path: Path) -> None:
    processor = processor_for(SamVariantsModel.from_pretrained(folder))
    processor.image_processor.image_mean = (1.0, 2.0, 3.0)
    changed = tmp_path / "changed"
    SamVariantsModel.from_pretrained(folder).save_pretrained(changed)
    processor.save_pretrained(changed)
    first = pipeline(TASK, model=changed)
    first.save_pretrained(tmp_path / "again")
    again = pipeline(TASK, model=tmp_path / "again")
    assert tuple(again.processor.image_processor.image_mean) == (1.0, 2.0, 3.0)
    assert torch.equal(first(random_image(), **MIXED).data, again(random_image(), **MIXED).data)
    weights = [SamVariantsModel.from_pretrained(path).state_dict() for path in (changed, tmp_path / "again")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "custom_pipelines" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_size_dtype_and_defaults_are_chosen_at_load(folder: Path) -> None:
    larger = pipeline(TASK, model=folder, model_kwargs={"image_size": 128}, dtype="bfloat16", multimask=True)
    assert larger.processor.image_processor.image_size == 128
    assert larger.model.dtype == torch.bfloat16
    masks = larger(random_image(), points=CLICKS)
    assert len(masks) == 3 * len(CLICKS)
    assert masks.scores.dtype == torch.float32
    assert len(larger(random_image(), points=CLICKS, multimask=False)) == len(CLICKS)


NO_IMAGE = np.zeros((0, 5, 3), dtype=np.uint8)
TWO_IMAGES = [random_image(0), random_image(1)]
BAD_CALLS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no prompts": (random_image(), {}, r"the image has no prompts.*pipe\(image, points="),
    "an image without prompts": (TWO_IMAGES, {"points": [[1, 2], None]}, r"images\[1\] has no prompts"),
    "an object without prompt": (random_image(), {"boxes": [BOX, None]}, "object 1 of the image has no prompt"),
    "only padding": (random_image(), {"points": [[1, 2]], "labels": [-10]}, "no prompts"),
    "empty points": (random_image(), {"points": []}, "points is empty"),
    "point outside": (random_image(), {"points": [[WIDTH + 1, 2]]}, r"points\[0\] = \(81, 2\) lies outside the image"),
    "outside the second": (TWO_IMAGES, {"points": [[1, 2], [99, 2]]}, r"points = \(99, 2\) lies outside images\[1\]"),
    "not a number": (random_image(), {"points": [[float("nan"), 2]]}, "must be finite"),
    "infinite box": (random_image(), {"boxes": [1, 2, 3, float("inf")]}, "must be finite"),
    "three coordinates": (random_image(), {"points": [[1, 2, 3]]}, r"must be a point \(x, y\)"),
    "box inside out": (random_image(), {"boxes": [50, 6, 4, 40]}, "x1 < x2"),
    "labels alone": (random_image(), {"labels": [1]}, "labels was given without points"),
    "too many labels": (random_image(), {"points": [[1, 2]], "labels": [1, 0]}, "labels has 2 labels for 1 points"),
    "unknown label": (random_image(), {"points": [[1, 2]], "labels": [7]}, "must be 1"),
    "mask of another size": (random_image(), {"masks": np.ones((5, 5), dtype=bool)}, "masks"),
    "different objects": (random_image(), {"points": [[[1, 2]]], "boxes": [BOX, BOX]}, "points 1, boxes 2"),
    "prompts for one image": (TWO_IMAGES, {"boxes": [BOX]}, "boxes has 1 entries for 2 images"),
    "one point, two images": (TWO_IMAGES, {"points": [1, 2]}, r"images\[0\]: points = 1 must be a point"),
    "no image": ([], {"boxes": BOX}, "empty list"),
    "an image without pixels": (NO_IMAGE, {"boxes": BOX}, "at least one pixel"),
    "a missing file": ("missing.png", {"boxes": BOX}, "'missing.png' is no file"),
    "prompts beside items": (ITEMS, {"boxes": BOX}, "boxes can't go beside items"),
    "an item of other keys": ({"image": random_image(), "point": [1, 2]}, {}, r"the keys \['image', 'point'\]"),
    "an item without image": ([{"points": [1, 2]}], {}, r"images\[0\] has the keys"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_say_what_is_wrong(pipe: PromptableSegmentationPipeline, case: str) -> None:
    image, prompts, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        pipe(image, **prompts)


def test_a_truncated_image_is_named(pipe: PromptableSegmentationPipeline) -> None:
    buffer = io.BytesIO()
    Image.fromarray(random_image()).save(buffer, format="PNG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:900]))
    with pytest.raises(ValueError, match=r"images\[1\].*can't be decoded"):
        pipe([random_image(), cut], boxes=[BOX, BOX], batch_size=2)


@pytest.mark.parametrize(
    ("image", "arguments"), [(7, {"boxes": BOX}), (random_image(), {"box": BOX}), (random_image(), {"points": "1,2"})]
)
def test_wrong_kinds_are_type_errors(pipe: PromptableSegmentationPipeline, image: Any, arguments: Any) -> None:
    with pytest.raises(TypeError, match=r"image is of type int|no arguments \['box'\]|points is of type str"):
        pipe(image, **arguments)


def test_models_and_processors_that_do_not_fit_are_refused(folder: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_dim": 8, "image_size": 64}
    foreign = SamModel(SamConfig(vision_config=small | {"global_attn_indexes": [0]}))
    with pytest.raises(TypeError, match=r"SamModel.*load_checkpoint"):
        pipeline(TASK, model=foreign)
    model = SamVariantsModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="1024 pixels, but the model takes 64"):
        pipeline(TASK, model=model, processor=processor_for("mobile-sam"))
