"""The predictor on graphs that PyTorch runs as they are: what it computes is tested without writing any file."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.hub_scripts.export_files import as_list
from sam_variants.hub_scripts.export_manifest import photo_settings, tracking_settings
from sam_variants.hub_scripts.export_parts import Part, parts_of
from sam_variants.hub_scripts.onnx_predictor import Predictor
from sam_variants.processing.image_fitting import LONGEST_SIDE
from sam_variants.processing.processor_for import processor_for


class EagerSession:
    """A part with the methods of `onnxruntime.InferenceSession` that the predictor calls."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.part.inputs]

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name, given in self.part.inputs.items():
            assert inputs[name].dtype == given.draw([2] * len(given.shape)).numpy().dtype, name
        with torch.no_grad():
            found = as_list(self.part.module(**{name: torch.from_numpy(value) for name, value in inputs.items()}))
        return [answer.numpy() for answer in found]


def eager_predictor(model: Any) -> Predictor:
    """A predictor whose graphs are `model`'s parts."""
    images = processor_for(model).image_processor
    parts = parts_of(model, images.resize_mode == LONGEST_SIDE)
    settings: dict[str, Any] = {"graphs": {name: list(part.outputs) for name, part in parts.items()}}
    settings |= photo_settings(model.config, images)
    if model.config.model_type == SamVariantsVideoConfig.model_type:
        settings |= tracking_settings(model)
    predictor = Predictor.__new__(Predictor)
    predictor.settings = json.loads(json.dumps(settings))
    predictor.sessions = {name: EagerSession(part) for name, part in parts.items()}
    return predictor


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Patches of random colours."""
    patches = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def share_unlike(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of pixels that differ."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == bool
    return float((found != wanted).mean())
