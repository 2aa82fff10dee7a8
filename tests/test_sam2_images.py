"""SAM 2 checkpoints on images: the same processor, pipeline and command as for SAM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_video
from transformers import AutoModel, AutoModelForMaskGeneration, AutoProcessor, pipeline
from typer.testing import CliRunner

import sam_variants
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub_scripts.cli import app
from sam_variants.losses import segmentation_loss
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for

SAM2_PRESETS = [name for name in PRESETS if name.startswith("sam2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("sam2") / "model", "hiera")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


def test_the_pipeline_takes_a_video_checkpoint(folder: Path, image: Image.Image) -> None:
    pipe = pipeline("promptable-segmentation", model=str(folder))
    masks = pipe(image, points=[[20, 30]])
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(image, input_points=[[20, 30]], return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (model.config.image_size, model.config.image_size)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        output = model(**inputs)
    best = output.iou_scores[0, 0].argmax()
    expected = processor.post_process_masks(output.pred_masks, *sizes)[0][0, best]
    assert masks.data.shape == (1, 60, 80)
    assert (masks.data[0] == expected).float().mean() > 0.999  # the pipeline fuses what it loads


def test_the_command_takes_a_video_checkpoint(folder: Path, image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "photo.png")
    arguments = ["segment", str(tmp_path / "photo.png"), "--point", "20,30", "--model", str(folder), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["masks"]) == 1


def test_mask_generation_finds_the_class(folder: Path) -> None:
    assert isinstance(AutoModelForMaskGeneration.from_pretrained(folder), SamVariantsVideoModel)


def test_an_object_that_is_not_there_trains_the_score_alone() -> None:
    masks, iou = torch.randn(1, 2, 3, 8, 8, requires_grad=True), torch.rand(1, 2, 3, requires_grad=True)
    scores = torch.zeros(1, 2, 1, requires_grad=True)
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 2:6, 2:6] = 1
    segmentation_loss(masks, iou, labels, object_score_logits=scores).backward()
    assert masks.grad is not None
    assert iou.grad is not None
    assert scores.grad is not None
    assert not masks.grad[0, 0].any()
    assert not iou.grad[0, 0].any()
    assert masks.grad[0, 1].any()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]


@pytest.mark.parametrize("preset", SAM2_PRESETS)
def test_presets_build_the_video_model_and_its_processor(preset: str) -> None:
    with torch.device("meta"):
        model = sam_variants.SamVariantsModel(config_for(preset))
    assert isinstance(model, SamVariantsVideoModel)
    image_processor = processor_for(preset).image_processor
    assert (image_processor.resize_mode, image_processor.image_size) == ("square", 1024)
