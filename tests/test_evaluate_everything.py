"""The command `evaluate-everything`: what it counts, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny
from typer.testing import CliRunner

from sam_variants.hub_scripts import cli, evaluation_presets, evaluation_sets
from sam_variants.hub_scripts.evaluation_presets import (
    FAST,
    FULL,
    PHOTOS,
    PresetScores,
    measure_presets,
    photos,
    presets_table,
)
from sam_variants.mask_codecs import encode_mask
from sam_variants.mask_generation.time_split import DECODE, ENCODE, TimeSplit
from sam_variants.results import Masks
from sam_variants.training.masked_image import MaskedImage

SIDE = 20


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


OBJECTS = np.stack([square(0, 0, 10), square(10, 10, 10)])


def example(objects: np.ndarray = OBJECTS) -> MaskedImage:
    return MaskedImage(np.zeros((SIDE, SIDE, 3), np.uint8), objects)


class ScriptedPipeline:
    """Full finds one object well and one fairly, and something else; fast only the first."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, image: np.ndarray, times: TimeSplit, preset: str, **options: Any) -> Masks:
        self.asked.append(preset)
        assert options == {"points_per_side": 4}
        times.seconds[ENCODE] += 1.0
        times.seconds[DECODE] += {FULL: 4.0, FAST: 2.0}[preset]
        found = [square(0, 0, 10), square(10, 11, 9), square(5, 5, 3)]
        return Masks(np.stack(found if preset == FULL else found[:1]))


def test_presets_are_held_against_each_other_and_the_truth() -> None:
    pipeline: Any = ScriptedPipeline()
    found = measure_presets(pipeline, [example(), example(OBJECTS[:1])], {"points_per_side": 4})
    assert pipeline.asked == [FAST, FULL, FULL, FAST]
    assert found["images"] == 2
    assert (found[FULL]["masks"], found[FAST]["masks"]) == (3, 1)
    assert found[FULL]["same"] == {"0.75": 1.0, "0.9": 1.0}
    assert found[FAST]["same"] == {"0.75": pytest.approx(1 / 3), "0.9": pytest.approx(1 / 3)}
    assert found[FULL]["objects"] == {"0.75": 1.0, "0.9": pytest.approx(2 / 3)}
    assert found[FAST]["objects"] == {"0.75": pytest.approx(2 / 3), "0.9": pytest.approx(2 / 3)}
    assert found[FULL]["objects_iou"] == pytest.approx((1 + 0.81 + 1) / 3)
    assert (found[FULL]["seconds"][ENCODE], found[FULL]["seconds"][DECODE]) == (1.0, 4.0)
    assert found["times_as_fast"] == found[FULL]["seconds"]["total"] / found[FAST]["seconds"]["total"]


def test_without_masks_and_without_objects() -> None:
    scores = PresetScores()
    scores.add([], [], [])
    assert scores.summary(1)["objects"] == {"0.75": None, "0.9": None}
    assert scores.summary(1)["objects_iou"] is None
    scores.add([], [encode_mask(OBJECTS[0])], [encode_mask(OBJECTS[1])])
    assert scores.summary(2)["same"] == {"0.75": 0.0, "0.9": 0.0}
    assert scores.summary(2)["objects_iou"] == 0.0


def test_photos_have_no_known_objects() -> None:
    pytest.importorskip("skimage")
    found = list(photos())
    assert len(found) == len(PHOTOS)
    assert all(len(photo.masks) == 0 and photo.image.shape[2] == 3 for photo in found)


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluation_sets, "held_out_scenes", lambda count, seed, size: [example()] * count)
    monkeypatch.setattr(evaluation_sets, "coins_photo", example)
    monkeypatch.setattr(evaluation_presets, "photos", lambda: [example(OBJECTS[:0])])
    folder = save_tiny(tmp_path / "model")
    arguments = ["--model", folder, "--scenes", 2, "--points-per-side", 4, "--pred-iou-thresh", -1, "--threads", 1]
    options = ["--stability-score-thresh", 0, "--json", tmp_path / "new" / "report.json"]
    result = CliRunner().invoke(cli.app, ["evaluate-everything", *map(str, [*arguments, *options])])
    assert result.exit_code == 0, result.stderr
    for text in ("scenes (2)", "coins (1)", "fast, ", "100.0/100.0"):
        assert text in result.stdout, text
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["settings"]["stability_score_thresh"] == 0
    assert report["results"]["held_out"]["images"] == 2
    assert report["results"]["coins"][FULL]["masks"] > 0
    assert report["results"]["photos"][FULL]["objects"] == {"0.75": None, "0.9": None}
    assert presets_table(report["results"]).row_count == 6
