"""Training to track: the step, its gradients and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import save_tiny, tiny_model
from transformers import AutoModel

from sam_variants.hub_scripts.tracking_training import (
    FROZEN,
    TRACKING_RECIPES,
    ClipBatches,
    TrackingRun,
    with_memory,
)
from sam_variants.hub_scripts.train_tracking import RECIPES, train_tracking
from sam_variants.hub_scripts.training_recipes import Phase, Recipe
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.training.clip_loss import clip_losses, tracking_step

PHASE = Phase(1.0, size=64, batch_size=2, num_objects=2, rounds=3, min_area=0.004)
RECIPE = Recipe(phases=(PHASE,), warmup=1)


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return next(iter(ClipBatches(PHASE, [1])))


def video_model() -> SamVariantsVideoModel:
    return with_memory(tiny_model("tiny_vit_with_skips"))


def test_a_batch_holds_clips_with_prompts_on_their_objects(batch: dict[str, torch.Tensor]) -> None:
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "frames": (2, 3, 64, 64, 3),
        "targets": (2, 3, 2, 16, 16),
        "clicks": (2, 2, 2),
        "boxes": (2, 2, 4),
    }
    for targets, clicks in zip(batch["targets"][:, 0], batch["clicks"], strict=True):
        for target, (x, y) in zip(targets, clicks, strict=True):
            assert target[int((y + 0.5) // 4), int((x + 0.5) // 4)] > 0


def test_the_image_part_is_taken_over() -> None:
    image_model = tiny_model("tiny_vit_with_skips")
    model = with_memory(image_model)
    for name, value in image_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("kind", ["click", "box", "mask"])
def test_gradients_reach_everything_that_is_trained(
    kind: str, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.choices", lambda *_, **__: [kind])
    monkeypatch.setattr("random.random", lambda: 0.0)  # every correction is made
    model = video_model()
    TrackingRun(model, RECIPE, [], Path(), 1, 0, autocast=False)
    torch.nn.init.normal_(model.mask_decoder.conv_s0.weight)
    loss, report = tracking_step(model.train(), batch, RECIPE.loss)
    loss.backward()
    assert loss.isfinite()
    assert 0 <= report["iou"] <= 1
    # Not used at all; by mask prompts alone; where an object is not visible; by single answers, the first mask's.
    idle = ("no_mem_pos_enc", "mask_downsample.", "no_obj", "mask_decoder.output_hypernetworks_mlps.0.")
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert {name for name in without if not name.startswith((*FROZEN, *idle))} == set()
    assert kind != "mask" or "mask_downsample.weight" not in without
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name.startswith(FROZEN))


def test_a_perfect_answer_costs_less(batch: dict[str, torch.Tensor]) -> None:
    clip = clip_losses(video_model(), batch, RECIPE.loss)[0]
    target = clip.targets[0]
    features = clip.encode()[0]
    points, labels = clip.prompts.clicks[:, None], torch.ones(2, 1, dtype=torch.long)
    decoded = clip.model.decode_candidates(features, features.embedding, points, labels, is_first=True)
    right = torch.where(target[:, None] > 0.5, 9.0, -9.0).expand_as(decoded.masks)
    clip.learn(decoded, 0)
    clip.learn(decoded._replace(masks=right, object_score_logits=torch.full_like(decoded.object_score_logits, 9.0)), 0)
    assert clip.losses[1] < 0.5 * clip.losses[0]


def test_the_command_trains_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKING_RECIPES, "default", RECIPE)
    save_tiny(tmp_path / "image", "tiny_vit_with_skips")
    train_tracking(tmp_path / "out", start=tmp_path / "image", minutes=0.03)
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, SamVariantsVideoModel)
    before, after = AutoModel.from_pretrained(tmp_path / "image").state_dict(), model.state_dict()
    for name, value in before.items():
        if name.startswith(FROZEN):
            assert torch.equal(after[name], value), name
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] > 0


def test_every_recipe_can_be_asked_for() -> None:
    assert tuple(TRACKING_RECIPES) == RECIPES


def test_options_out_of_range(tmp_path: Path) -> None:
    for options in ({"minutes": 0.0}, {"processes": 0}, {"recipe": "none"}):
        with pytest.raises(Exception, match=next(iter(options))):
            train_tracking(tmp_path, **options)  # type: ignore[arg-type]
