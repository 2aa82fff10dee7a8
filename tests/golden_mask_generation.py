"""The goldens of automatic mask generation: helper functions, and whole runs of both official generators."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from golden_cases import GOLDENS, load_golden
from plain_crop import AnalyticCrop, PlainCrop

from sam_variants.mask_codecs import canonical_rle
from sam_variants.mask_generation.encoded_crop import EncodedCrop
from sam_variants.modeling_sam_variants import SamVariantsModel

# Column → key of a record in SAM 2's list of records, and what becomes of its value.
SAM2_COLUMNS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "counts": ("segmentation", lambda code: canonical_rle(code)["counts"]),
    "area": ("area", int),
    "bbox": ("bbox", list),
    "predicted_iou": ("predicted_iou", float),
    "stability_score": ("stability_score", float),
    "point_coords": ("point_coords", lambda points: points[0]),
    "crop_box": ("crop_box", list),
}


@dataclass(frozen=True)
class GoldenRun:
    """One run of an official mask generator.

    Attributes:
        name: for the test's id.
        image: H×W×3 uint8.
        make: encodes an image with the run's model.
        options: the generator's options, official names.
        records: columns, one value per mask.
    """

    name: str
    image: np.ndarray
    make: Callable[[np.ndarray], EncodedCrop]
    options: dict[str, Any]
    records: dict[str, list[Any]]


@cache
def golden_helpers() -> dict[str, Any]:
    """Inputs and outputs of the official helper functions that are no tensors."""
    return _amg("sam_amg")["helpers"]


@cache
def golden_runs() -> list[GoldenRun]:
    """All runs: segment-anything's on two models, then SAM 2's."""
    runs = []
    image = load_golden("sam_amg").io["generate/image"].numpy()
    for index, run in enumerate(_amg("sam_amg")["generate"]):
        make = AnalyticCrop if run["model"] == "analytic" else _plain_crop_of("sam_amg")
        runs.append(GoldenRun(f"sam-{index}", image, make, run["kwargs"], run))
    image = load_golden("sam2_image_predictor").io["amg/in/image"].numpy()
    for index, run in enumerate(_amg("sam2_image_predictor")):
        columns = {
            column: [value_of(record[key]) for record in run["records"]]
            for column, (key, value_of) in SAM2_COLUMNS.items()
        }
        make = _plain_crop_of("sam2_image_predictor")
        runs.append(GoldenRun(f"sam2-{index}", image, make, run["kwargs"], columns))
    return runs


@cache
def _model(name: str) -> SamVariantsModel:
    model: Any = load_golden(name).build()
    return model.eval()


def _plain_crop_of(name: str) -> Callable[[np.ndarray], EncodedCrop]:
    return lambda image: PlainCrop(_model(name), image)


def _amg(name: str) -> Any:
    return json.loads((GOLDENS / name / "amg.json").read_text())
