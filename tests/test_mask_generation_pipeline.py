"""`pipeline("mask-generation")`: ours for our models, transformers' for all others; options, inputs and outputs."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_VISION, save_tiny, save_tiny_video, tiny_config, tiny_model
from torch.utils.data import Dataset, IterableDataset
from transformers import SamConfig, SamImageProcessorPil, SamModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.mask_generation import MaskGenerationPipeline

from sam_variants.encoded_image import encode_images
from sam_variants.mask_generation.mask_generator import generate_masks
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks

TASK = "mask-generation"
HEIGHT, WIDTH = 48, 80
# With these the masks of random weights survive.
LOOSE: dict[str, Any] = {
    "points_per_side": 4,
    "pred_iou_thresh": -9.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.01,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}


def random_image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def tiny_pipe(encoder: str = "tiny_vit", **kwargs: Any) -> SamVariantsMaskGenerationPipeline:
    return pipeline(TASK, model=tiny_model(encoder), **LOOSE | kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("everything") / "model")


@pytest.fixture(scope="module")
def pipe() -> SamVariantsMaskGenerationPipeline:
    torch.manual_seed(0)
    return tiny_pipe()


def by_hand(model: SamVariantsModel, image: np.ndarray, **options: Any) -> Masks:
    processor = processor_for(model).image_processor
    with torch.no_grad():
        return generate_masks(
            image, lambda crops: encode_images(model, processor, crops), MaskGenerationOptions(**options)
        )


def assert_same(one: Masks, other: Masks) -> None:
    """Equal but for pixels whose logit lies on the threshold."""
    assert len(one) == len(other) > 0
    torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
    assert torch.equal(one.points, other.points)
    assert (one.data != other.data).float().mean() < 1e-3


@pytest.mark.parametrize("encoder", sorted(TINY_VISION))
def test_it_is_the_generator_with_model_and_processor(encoder: str) -> None:
    pipe = tiny_pipe(encoder)
    for options in ({}, {"crop_n_layers": 1}, {"use_m2m": True}, {"multimask_output": False}, {"preset": "fast"}):
        masks = pipe(random_image(), **options)
        assert_same(masks, by_hand(pipe.model, random_image(), **LOOSE | options))
        assert masks.size == (HEIGHT, WIDTH)
        assert masks.crop_boxes.shape == (len(masks), 4)


def test_a_video_model_finds_everything_too(tmp_path: Path) -> None:
    folder = save_tiny_video(tmp_path / "model")
    pipe, model = pipeline(TASK, model=folder, **LOOSE), SamVariantsVideoModel.from_pretrained(folder)
    assert type(pipe.model) is SamVariantsVideoModel
    assert_same(pipe(random_image()), by_hand(model, random_image(), **LOOSE))


def test_importing_says_nothing_and_keeps_the_default_model() -> None:
    code = "import transformers.pipelines as p; before = dict(p.SUPPORTED_TASKS['mask-generation'])\n"
    code += "import sam_variants; after = p.SUPPORTED_TASKS['mask-generation']\n"
    code += "assert after['default'] == before['default'] and after['type'] == before['type'], after"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def foreign_model() -> tuple[SamModel, SamImageProcessorPil]:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_dim": 8, "image_size": 64}
    model = SamModel(SamConfig(vision_config=small | {"global_attn_indexes": [0]}))
    processor = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return model, processor


def test_other_models_get_transformers_own_pipeline(tmp_path: Path) -> None:
    """As an object and by name, with exactly the arguments."""
    model, processor = foreign_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    arguments = {"points_per_crop": 4, "crops_n_layers": 1, "pred_iou_thresh": 0.5, "output_rle_mask": True}
    theirs = MaskGenerationPipeline(model=model, image_processor=processor, task=TASK, **arguments)
    for given in ({"model": model, "image_processor": processor}, {"model": str(tmp_path)}):
        made = pipeline(TASK, device="cpu", batch_size=1, **given, **arguments)
        assert type(made) is MaskGenerationPipeline
        assert type(made.model) is SamModel
        assert made.model.__dict__.keys() <= SamModel.from_pretrained(tmp_path).__dict__.keys()
        assert type(made.image_processor) is SamImageProcessorPil
        assert (made.task, made._batch_size, made.device.type) == (TASK, 1, "cpu")
        for name in ("_preprocess_params", "_forward_params", "_postprocess_params"):
            assert getattr(made, name) == getattr(theirs, name)
    with pytest.raises(ValueError, match="no image processor for the SamModel"):
        pipeline(TASK, model=model)
    (tmp_path / "preprocessor_config.json").write_text("{cut off")
    with pytest.raises(OSError, match="not a valid JSON file"):
        pipeline(TASK, model=str(tmp_path))


def test_a_loaded_model_is_fused_and_one_that_is_passed_is_not(folder: Path) -> None:
    loaded = pipeline(TASK, model=folder, **LOOSE)
    passed = pipeline(TASK, model=SamVariantsModel.from_pretrained(folder), **LOOSE)
    assert type(loaded) is type(passed) is SamVariantsMaskGenerationPipeline
    assert (loaded.model._is_fused, passed.model._is_fused) == (True, False)
    assert_same(loaded(random_image()), passed(random_image()))


def test_saving_and_settings_at_load(folder: Path, tmp_path: Path) -> None:
    first = pipeline(TASK, model=folder, model_kwargs={"image_size": 128}, dtype="bfloat16", **LOOSE)
    assert first.processor.image_processor.image_size == 128
    assert first.model.dtype == torch.bfloat16
    masks = first(random_image())
    first.save_pretrained(tmp_path)
    again = pipeline(TASK, model=tmp_path, dtype="bfloat16", **LOOSE)
    assert again.processor.image_processor.image_size == 128
    assert torch.equal(again(random_image()).data, masks.data)


def test_a_copy_is_a_pipeline_too(pipe: SamVariantsMaskGenerationPipeline) -> None:
    assert_same(copy.copy(pipe)(random_image()), pipe(random_image()))


def test_a_model_in_training_stays_in_training() -> None:
    model = SamVariantsModel(tiny_config("tiny_vit")).train()
    pipeline(TASK, model=model, **LOOSE)(random_image())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("theirs", "official"),
    [
        ({"points_per_crop": 3}, {"points_per_side": 3}),
        ({"crops_n_layers": 1}, {"crop_n_layers": 1}),
        ({"crops_nms_thresh": 0.9}, {"box_nms_thresh": 0.9, "crop_nms_thresh": 0.9}),
        ({"points_per_batch": None}, {"points_per_batch": 16}),
        ({"max_hole_area": None, "max_sprinkle_area": None}, {}),
    ],
)
def test_transformers_names_mean_the_official_options(
    pipe: SamVariantsMaskGenerationPipeline, theirs: dict[str, Any], official: dict[str, Any]
) -> None:
    expected = pipe(random_image(), **official)
    assert_same(pipe(random_image(), **theirs), expected)
    rest = {name: value for name, value in LOOSE.items() if name not in official}
    made = pipeline(TASK, model=pipe.model, **rest | theirs)
    assert_same(made(random_image()), expected)


def test_a_call_goes_over_the_constructor_and_leaves_it(pipe: SamVariantsMaskGenerationPipeline) -> None:
    before = pipe(random_image())
    grids = [np.array([[0.3, 0.4], [0.6, 0.7]])]
    alone = {name: value for name, value in LOOSE.items() if name != "points_per_side"}
    for options in ({"point_grids": grids}, {"points_per_side": 2}):
        made = pipeline(TASK, model=pipe.model, **alone, **options)
        assert_same(made(random_image()), pipe(random_image(), **options))
        # Either form of a grid puts the other one out of force.
        assert_same(made(random_image(), points_per_side=4), before)
        assert_same(made(random_image(), point_grids=grids), pipe(random_image(), point_grids=grids))
    assert_same(pipe(random_image()), before)


def test_mask_threshold_is_the_models_unless_given() -> None:
    model = tiny_model("tiny_vit", mask_threshold=0.2)
    pipe = pipeline(TASK, model=model, **LOOSE)
    assert_same(pipe(random_image()), by_hand(model, random_image(), mask_threshold=0.2, **LOOSE))
    assert_same(pipe(random_image(), mask_threshold=0.0), by_hand(model, random_image(), **LOOSE))


def test_small_holes_and_specks_are_cleaned_as_the_processor_does(pipe: SamVariantsMaskGenerationPipeline) -> None:
    plain = pipe(random_image(), stability_score_thresh=-1.0, box_nms_thresh=1.0)
    clean = pipe(
        random_image(), stability_score_thresh=-1.0, box_nms_thresh=1.0, max_hole_area=30, max_sprinkle_area=30
    )
    assert len(clean) == len(plain)
    assert (clean.data != plain.data).any()


def test_results_answer_transformers_keys(pipe: SamVariantsMaskGenerationPipeline) -> None:
    masks = pipe(random_image(), output_rle_mask=True, output_bboxes_mask=True)
    result = dict(masks)
    assert set(result) == {"masks", "scores", "rle_mask", "bounding_boxes"} == set(masks.keys())
    assert "rle_mask" in masks
    assert [mask.dtype for mask in result["masks"]] == [np.dtype(bool)] * len(masks)
    assert np.array_equal(np.stack(result["masks"]), masks.data.numpy())
    assert torch.equal(result["scores"], masks.scores)
    for mask, rle, box in zip(result["masks"], result["rle_mask"], result["bounding_boxes"], strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        assert rle["size"] == [HEIGHT, WIDTH]
        runs = np.repeat(np.arange(len(rle["counts"])) % 2 == 1, rle["counts"])
        assert np.array_equal(runs.reshape(WIDTH, HEIGHT).T, mask)
    assert set(masks[:1].keys()) == set(result)


def test_optional_keys_are_there_when_asked_for(pipe: SamVariantsMaskGenerationPipeline) -> None:
    masks = pipe(random_image(), output_bboxes_mask=True)
    assert "rle_mask" not in masks
    assert masks.get("rle_mask") is None
    with pytest.raises(KeyError, match="output_rle_mask=True"):
        masks["rle_mask"]
    with pytest.raises(KeyError, match="no 'mask'"):
        masks["mask"]


ITEMS = [{"image": random_image(seed, 30 + seed, 40), "label": seed} for seed in range(3)]


class TorchDataset(Dataset):
    def __len__(self) -> int:
        return len(ITEMS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ITEMS[index]


class SizedItems:
    """Like `datasets.Dataset`, which is no dataset of torch."""

    __len__, __getitem__ = TorchDataset.__len__, TorchDataset.__getitem__


class Stream(IterableDataset):
    """Like `datasets.IterableDataset`."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(ITEMS)


@pytest.mark.parametrize(
    "items",
    [ITEMS, [item["image"] for item in ITEMS], TorchDataset(), SizedItems(), Stream(), iter(ITEMS)],
    ids=["dicts", "images", "dataset", "sized", "stream", "iterator"],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_images_give_what_each_gives_alone(
    pipe: SamVariantsMaskGenerationPipeline, items: Any, batch_size: int
) -> None:
    results = pipe(items, batch_size=batch_size) if not isinstance(items, Iterator) else pipe(iter(ITEMS))
    assert isinstance(results, list) == isinstance(items, list)
    for masks, item in zip(results, ITEMS, strict=True):
        assert_same(masks, pipe(item["image"]))


def test_processes_may_read_ahead(pipe: SamVariantsMaskGenerationPipeline) -> None:
    results = pipe([item["image"] for item in ITEMS], num_workers=2)
    assert [masks.size for masks in results] == [item["image"].shape[:2] for item in ITEMS]
    with pytest.raises(ValueError, match=r"^images\[1\]: 'missing.png' is no file"):
        pipe([random_image(), "missing.png"], num_workers=1)


def test_a_generator_is_read_as_it_goes(pipe: SamVariantsMaskGenerationPipeline) -> None:
    read = []

    def images() -> Iterator[np.ndarray]:
        for index, item in enumerate(ITEMS):
            read.append(index)
            yield item["image"]

    results = pipe(images())
    next(results)
    assert read == [0]
    assert len(list(results)) == 2


def test_every_form_of_an_image_is_the_same_image(pipe: SamVariantsMaskGenerationPipeline, tmp_path: Path) -> None:
    expected, picture = pipe(random_image()), Image.fromarray(random_image())
    picture.save(tmp_path / "image.png")
    tensor = torch.from_numpy(random_image()).permute(2, 0, 1)
    for image in (picture, tensor, tmp_path / "image.png", str(tmp_path / "image.png"), {"image": picture}):
        assert torch.equal(pipe(image).data, expected.data)


def test_a_server_may_be_silent_for_so_long(
    pipe: SamVariantsMaskGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    def answer(request: Any, timeout: float | None) -> io.BytesIO:
        waited.append(timeout)
        buffer = io.BytesIO()
        Image.fromarray(random_image()).save(buffer, format="PNG")
        return io.BytesIO(buffer.getvalue())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    expected = pipe(random_image())
    for options in ({"timeout": 3}, {"timeout": None}, {}):
        assert torch.equal(pipe("https://host/image.png", **options).data, expected.data)
    assert waited == [3, None, 60]


def test_seconds_and_points_are_told(pipe: SamVariantsMaskGenerationPipeline) -> None:
    times, told = TimeSplit(), []
    pipe(random_image(), times=times, points_per_batch=6, progress=lambda done, total: told.append((done, total)))
    assert told == [(6, 16), (12, 16), (16, 16)]
    assert min(times.seconds.values()) > 0


def cut_image() -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(random_image()).save(buffer, format="PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:900]))


BAD_CALLS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no image": ([], {}, ValueError, "empty list"),
    "a number": (7, {}, TypeError, "image is of type int"),
    "a file's content": (b"image", {}, TypeError, "image is of type bytes"),
    "an open file": (io.BytesIO(b"image"), {}, TypeError, "image is of type BytesIO"),
    "a missing file": ("missing.png", {}, ValueError, "'missing.png' is no file"),
    "a cut image": ([random_image(), cut_image()], {}, ValueError, r"images\[1\]: the image can't be decoded"),
    "another key": ([ITEMS[0], {"picture": 1}], {}, ValueError, r"images\[1\] has the keys \['picture'\]"),
    "unknown option": (random_image(), {"points": 3}, TypeError, r"no arguments \['points'\].*points_per_side"),
    "both names": (
        random_image(),
        {"points_per_crop": 3, "points_per_side": 3},
        TypeError,
        "points_per_crop and points",
    ),
    "both thresholds": (random_image(), {"crops_nms_thresh": 0.5, "box_nms_thresh": 0.5}, TypeError, "say the same"),
    "both grids": (random_image(), {"points_per_side": 2, "point_grids": [[[0.5, 0.5]]]}, ValueError, "either"),
    "negative": (random_image(), {"points_per_crop": -1}, ValueError, "points_per_side must be.*got -1"),
    "hole area": (random_image(), {"max_hole_area": -2}, ValueError, "max_hole_area must be.*got -2"),
    "switch": (random_image(), {"output_rle_mask": "yes"}, ValueError, "output_rle_mask must be True or False"),
    "timeout": (random_image(), {"timeout": 0}, ValueError, "timeout must be"),
    "batch": (random_image(), {"batch_size": 0}, ValueError, "batch_size must be"),
    "memory in words": (random_image(), {"max_memory": "much"}, ValueError, '"1.5GB"'),
    "memory unit": (random_image(), {"max_memory": "3 pounds"}, ValueError, '"1.5GB"'),
    "no memory": (random_image(), {"max_memory": 0}, ValueError, "at least one byte"),
    "times": (random_image(), {"times": 3.0}, TypeError, "TimeSplit"),
    "progress": (random_image(), {"progress": True}, TypeError, "progress must be a function"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_say_what_is_wrong(pipe: SamVariantsMaskGenerationPipeline, case: str) -> None:
    image, options, kind, message = BAD_CALLS[case]
    with pytest.raises(kind, match=message):
        pipe(image, **options)


def test_bad_options_and_processors_are_refused_when_it_is_built(folder: Path) -> None:
    with pytest.raises(ValueError, match="pred_iou_thresh"):
        pipeline(TASK, model=folder, pred_iou_thresh="high")
    with pytest.raises(TypeError, match="no arguments"):
        pipeline(TASK, model=folder, points_per_row=3)
    with pytest.raises(ValueError, match="1024 pixels, but the model takes 64"):
        pipeline(TASK, model=tiny_model("tiny_vit"), image_processor=processor_for("mobile-sam").image_processor)


def test_the_embedded_default_of_other_tasks_is_untouched() -> None:
    _, task, _ = PIPELINE_REGISTRY.check_task(TASK)
    assert task["impl"] is SamVariantsMaskGenerationPipeline
    assert task["default"]["model"][0].startswith("facebook/")
