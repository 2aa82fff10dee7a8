"""Options that come with a model: they hold where nothing else is said, travel with it, and must be options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny
from transformers import AutoModel, pipeline

from sam_variants import SamVariantsVideoModel, config_for, default_checkpoint
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline

OWN = {"points_per_side": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)


def pipe_of(folder: Path, **options: Any) -> SamVariantsMaskGenerationPipeline:
    return pipeline("mask-generation", model=str(save_tiny(folder, mask_generation=OWN)), **options)


def test_the_models_options_hold_where_nothing_else_is_given(tmp_path: Path) -> None:
    pipe = pipe_of(tmp_path)
    assert pipe.model.config.mask_generation == OWN
    assert len(pipe(IMAGE)) == 27
    assert len(pipe(IMAGE, points_per_side=2)) == 12
    assert len(pipe(IMAGE, point_grids=[[[0.5, 0.5]]])) == 3
    assert len(pipe(IMAGE, pred_iou_thresh=9.0)) == 0
    assert len(pipe_of(tmp_path, points_per_crop=1)(IMAGE)) == 3


def test_what_is_no_option_is_refused(tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path, mask_generation={"iou": 0.5}))
    with pytest.raises(ValueError, match=r"config.mask_generation has \['iou'\]"):
        pipeline("mask-generation", model=folder)


@pytest.mark.parametrize("video", [False, True])
def test_the_embedded_models_have_thresholds_of_their_own(video: bool) -> None:
    config = AutoModel.from_pretrained(default_checkpoint(video=video)).config
    assert MaskGenerationOptions(**config.mask_generation).pred_iou_thresh < MaskGenerationOptions().pred_iou_thresh


def test_sam2_has_its_own_generators_threshold() -> None:
    assert config_for("sam2.1-hiera-tiny").mask_generation == {"pred_iou_thresh": 0.8}
    assert config_for("sam-vit-base").mask_generation is None
    assert SamVariantsVideoModel.config_class is type(config_for("sam2.1-hiera-tiny"))
