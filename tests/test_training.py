"""Simulated prompts, training batches, and a run that is really made."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset
from transformers import AutoModel, AutoProcessor

from sam_variants.hub_scripts.synthetic_scenes import make_scene, write_cache
from sam_variants.hub_scripts.train_embedded import Run, train_embedded
from sam_variants.hub_scripts.training_batches import (
    CELL,
    SceneBatches,
    augment,
    drawn_ahead,
    nested_objects,
    object_coverages,
)
from sam_variants.hub_scripts.training_recipes import RECIPES, Phase, learning_rate_at, start_skips_at_zero
from sam_variants.hub_scripts.training_step import levels_loss
from sam_variants.losses import LossWeights
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.training.prompt_simulation import (
    central_click,
    correction_click,
    jittered_box,
    sample_click,
    sample_corrections,
)
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes")
    write_cache(path, range(6), size=64, difficulty=0.2)
    return path


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_simulated_prompts_belong_to_the_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coverage = np.zeros((16, 16), np.float32)
    top, left = rng.integers(0, 12, 2)
    height, width = rng.integers(1, 5, 2)
    coverage[top : top + height, left : left + width] = rng.uniform(0.3, 1)
    x, y = sample_click(coverage, rng, CELL)
    assert coverage[int(y + 0.5) // CELL, int(x + 0.5) // CELL] > 0
    box = jittered_box(coverage, rng, CELL, jitter=0.0)
    np.testing.assert_array_equal(box, np.array([left, top, left + width, top + height]) * CELL)
    rough = jittered_box(coverage, rng, CELL, jitter=0.1)
    assert (rough >= 0).all()
    assert (rough <= 64).all()
    assert (np.abs(rough - box) <= 0.1 * CELL * 5 + 1e-3).all()


def test_evaluation_clicks() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:14, 10:19] = True
    assert central_click(mask) == (14, 9)
    assert central_click(np.ones((9, 9), bool)) == (4, 4)
    assert correction_click(mask, mask) is None
    missing = mask.copy()
    missing[5:10, 10:15] = False
    assert correction_click(missing, mask) == (12, 7, 1)
    too_much = mask.copy()
    too_much[0:3, 0:3] = True
    assert correction_click(too_much, mask) == (1, 1, 0)


def test_corrections_fall_into_the_wrong_region() -> None:
    truth = torch.zeros(64, 16, 16)
    truth[:, 4:10, 4:10] = 1
    logits = torch.where(truth > 0, 5.0, -5.0)
    logits[:32, 4:10, 7:10] = -5.0  # missing
    logits[32:, 12:15, 12:15] = 5.0  # too much
    where, labels = sample_corrections(logits, truth, CELL)
    cells = ((where + 0.5) / CELL).long()
    assert labels.tolist() == [1] * 32 + [0] * 32
    assert ((cells[:32, 0] >= 7) & (cells[:32, 0] < 10)).all()
    assert ((cells[32:] >= 12) & (cells[32:] < 15)).all()


def test_coverages_count_pixels() -> None:
    scene = make_scene(3, size=64)
    coverages = object_coverages(scene.leaves, scene.objects, CELL)
    masks = scene.masks()
    expected = masks.reshape(len(masks), 16, CELL, 16, CELL).mean(axis=(2, 4))
    np.testing.assert_allclose(coverages, expected, atol=1e-6)


def test_augmentation_turns_image_and_leaves_together() -> None:
    scene = make_scene(5, size=64)
    marked = replace(scene, image=np.repeat((scene.leaves > 0)[..., None], 3, axis=2).astype(np.uint8) * 200)
    for seed in range(20):
        image, leaves, _ = augment(marked, 64, np.random.default_rng(seed))
        inside, outside = image[leaves > 0], image[leaves == 0]
        if len(inside) and len(outside):
            assert inside.mean() > outside.mean() + 50


def test_batches(cache: Path) -> None:
    batches = iter(SceneBatches([cache], 64, 3, 5, 2, 0.01, [0, 1]))
    batch = next(batches)
    assert batch["image"].shape == (3, 64, 64, 3)
    assert batch["targets"].shape == (3, 5, 16, 16)
    assert batch["points"].shape == (3, 5, 2)
    assert batch["boxes"].shape == (3, 5, 4)
    again = next(iter(SceneBatches([cache], 64, 3, 5, 2, 0.01, [0, 1])))
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["image"], next(batches)["image"])


def test_what_a_click_can_mean() -> None:
    leaves = np.zeros((8, 8), np.uint8)
    leaves[:, :6], leaves[2:6, 2:6], leaves[3:5, 3:5], leaves[3, 3] = 1, 2, 3, 4
    objects = ((1, 2, 3, 4), (2, 3, 4), (3, 4), (4,))
    coverages = object_coverages(leaves, objects, CELL)
    meant = [
        nested_objects(leaves, objects, coverages, asked, np.array(click))
        for asked, click in ((0, (0, 0)), (1, (2, 2)), (2, (4, 4)), (3, (3, 3)), (0, (3, 3)))
    ]
    assert meant == [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 2, 3], [0, 2, 3]]
    # A click that its cell put beside the object is still meant for it.
    assert nested_objects(leaves, objects, coverages, 3, np.array((7, 7))) == [3, -1, -1]


def test_the_three_outputs_learn_whole_part_and_subpart() -> None:
    levels = torch.zeros(1, 2, 3, 8, 8)
    levels[:, :, 0], levels[:, 0, 1, :4], levels[:, 0, 2, :2] = 1, 1, 1
    batch = {
        "levels": levels,
        "has_level": torch.tensor([[[True, True, True], [True, False, False]]]),
        "targets": levels[:, :, 0],
    }
    with_box = torch.zeros(1, 2, dtype=torch.bool)
    weights = LossWeights(focal=0.0, cross_entropy=1.0, iou=0.0)
    right = (20 * levels - 10).requires_grad_()
    scores = torch.ones(1, 2, 3)
    assert levels_loss(right, scores, batch, with_box, weights) < 0.01
    # What has no part asks nothing of the outputs for parts, except from the best one, which is the first here.
    levels_loss(right, scores, batch, with_box, weights).backward()
    assert right.grad is not None
    assert right.grad[0, 1, 1:].abs().max() == 0
    swapped = right.detach().flip(2)
    assert levels_loss(swapped, scores, batch, with_box, weights) > 1
    boxed = levels_loss(right.detach(), scores, batch, ~with_box, weights)
    assert boxed > 1, "with a box all three are what it is around"


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = RECIPES["default"]
    assert learning_rate_at(0.0, 0, recipe) == pytest.approx(recipe.learning_rate / recipe.warmup)
    assert learning_rate_at(0.5, 10_000, recipe) == pytest.approx(recipe.learning_rate / 2)
    assert learning_rate_at(1.0, 10_000, recipe) == pytest.approx(recipe.learning_rate / 100)
    for known in RECIPES.values():
        assert sum(phase.share for phase in known.phases) == pytest.approx(1)


def test_a_run_improves_saves_and_continues(cache: Path, tmp_path: Path) -> None:
    model = SamVariantsModel(tiny_config("tiny_vit_with_skips"))
    start_skips_at_zero(model)
    phase = Phase(1.0, size=64, batch_size=4, num_objects=4, rounds=2, min_area=0.02)
    recipe = replace(RECIPES["default"], phases=(phase,), warmup=5, average=0.5)
    run = Run(model, recipe, [cache], tmp_path, minutes=1.0, seed=0, autocast=False)
    batch = next(run._batches(phase))
    losses = [run._one_step(batch, phase, progress=0.0)["loss"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]
    run._log({"loss": losses[-1]}, 0.1, phase)
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == 25
    run.save()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in run.average.module.state_dict().items())
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.size["longest_edge"] == 64
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 25
    before = loaded.state_dict()
    Run(loaded, recipe, [cache], tmp_path / "on", minutes=1.0, seed=1, autocast=False)
    assert before.keys() == loaded.state_dict().keys()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_trains(processes: int, cache: Path, tmp_path: Path) -> None:
    tiny = SamVariantsModel(tiny_config("tiny_vit_with_skips", image_size=128))
    tiny.save_pretrained(tmp_path / "start")
    train_embedded(
        out=tmp_path / "run",
        cache=[cache],
        start=tmp_path / "start",
        minutes=0.02,
        recipe="continue",
        processes=processes,
        device="cpu",
    )
    assert json.loads((tmp_path / "run" / "training.json").read_text())["steps"] > 0
    trained = AutoModel.from_pretrained(tmp_path / "run")
    weight = "mask_decoder.iou_token.weight"
    assert not torch.equal(trained.state_dict()[weight], tiny.state_dict()[weight])


@pytest.mark.parametrize("wrong", [{"recipe": "secret"}, {"processes": 0}, {"minutes": 0.0}])
def test_the_command_refuses(wrong: dict[str, object], cache: Path, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=str(next(iter(wrong.values())))):
        train_embedded(**{"out": tmp_path, "cache": [cache], "device": "cpu"} | wrong)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no finished scene cache"):
        train_embedded(out=tmp_path, cache=[tmp_path], device="cpu")


class OneBatch(IterableDataset):
    """What draws scenes limits OpenCV to one thread first."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        cv2.setNumThreads(1)
        yield {"pixel_values": torch.ones(1)}


def test_the_drawing_process_does_not_wait_for_threads_it_does_not_have() -> None:
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(next, drawn_ahead(OneBatch()))
        try:
            assert batch.result(timeout=60)["pixel_values"] == 1
        except TimeoutError:
            for process in multiprocessing.active_children():
                process.kill()
            raise
