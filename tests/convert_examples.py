"""Checkpoints for the tests of `sam-variants convert`, and how it is called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import THEIR_IMAGE_PARTS, THEIR_VIDEO, TINY, TINY_SAM2_0, copied, model_from, randomise
from test_cli import run
from test_load_checkpoint import TINY_SAM
from torch import Tensor
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamConfig,
    SamModel,
)

from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.checkpoint_layouts.write_checkpoint import PUBLISHED
from sam_variants.configuration import presets
from sam_variants.configuration.presets import PRESETS
from sam_variants.hub.card_text import architectures

REPOSITORY = {"README.md", "SHA256SUMS", "config.json", "model.safetensors", "processor_config.json"}
LEFTOVER = "image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Twelve presets under the published names, small enough to be written in a test."""
    rows: dict[str, Any] = {}
    for number, name in enumerate(PRESETS):
        kind = "mobile-sam" if name == "mobile-sam" else name.split("-")[0].replace(".1", "")
        base: dict[str, Any] = {"sam": TINY["sam"], "mobile-sam": TINY["mobile-sam"], "sam2": TINY["sam2"]}[kind]
        values = {**base, **(TINY_SAM2_0 if name.startswith("sam2-") else {})}
        decoder = {**values["mask_decoder_config"], "iou_head_hidden_dim": 24 + number}
        rows[name] = {**values, "mask_decoder_config": decoder}
    for name, values in rows.items():
        monkeypatch.setitem(presets.PRESETS, name, values)
    architectures.cache_clear()
    yield
    architectures.cache_clear()


def official(preset: str, path: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Write a random model of a preset as its authors would; return what was written."""
    model: Any = model_from({"model_type": "sam_variants", **presets.PRESETS[preset]}).to(dtype)
    row = PUBLISHED[model.config.vision_config.model_type]
    tensors = copied(export_state_dict(model, row.official))
    if preset == "mobile-sam":
        tensors[LEFTOVER] = torch.zeros(9, 9, dtype=torch.int64)
    torch.save({row.wrapper: tensors} if row.wrapper else tensors, path)
    tensors.pop(LEFTOVER, None)
    return tensors


def converted(*arguments: Any, exit_code: int = 0) -> dict[str, Any]:
    result = run("convert", *arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def report_of(*arguments: Any) -> dict[str, Any]:
    (report,) = converted(*arguments)["converted"]
    return report


def refused(*arguments: Any) -> str:
    """The one line that says why not."""
    result = run("convert", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def their_models() -> dict[str, Any]:
    """transformers' models of odd sizes."""
    made = {
        "transformers-sam": randomise(SamModel(SamConfig.from_dict(TINY_SAM))),
        "transformers-sam2": randomise(Sam2Model(Sam2Config.from_dict(THEIR_IMAGE_PARTS)), gain=1.0),
        "transformers-sam2-video": randomise(Sam2VideoModel(Sam2VideoConfig.from_dict(THEIR_VIDEO)), gain=1.0),
    }
    for name, model in made.items():
        if name != "transformers-sam":
            model.config.vision_config.backbone_config.image_size = [64, 64]  # says nothing to the model
        model.prompt_encoder.shared_embedding.load_state_dict(model.shared_image_embedding.state_dict())
    return made
