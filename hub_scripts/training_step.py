"""One step of training: several rounds of prompts on the same images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sam_variants.hub_scripts.training_batches import CELL
from sam_variants.losses import LossWeights, mask_iou, segmentation_loss
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.training.prompted_loss import FIRST_ROUND, LATER_ROUNDS, ask, corrected, first_prompts

HEDGE = 0.4
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@torch.no_grad()
def quality_report(logits: Tensor, iou: Tensor, targets: Tensor, with_box: Tensor, turn: int) -> dict[str, float]:
    """Mean IoU of what a user would get in this round, for objects that began with a click and with a box."""
    reached = mask_iou(logits > 0, targets[:, :, None] > 0.5)
    chosen = iou[:, :, 1:].argmax(dim=-1, keepdim=True) + 1
    picked = reached.gather(2, chosen)[..., 0] if turn == 0 else reached[:, :, 0]
    report = {f"click{turn + 1}": picked[~with_box].mean().item(), f"box{turn + 1}": picked[with_box].mean().item()}
    if turn == 0:
        report["best_of_3"] = reached[:, :, 1:].amax(dim=-1)[~with_box].mean().item()
    return report


def levels_loss(
    logits: Tensor, iou: Tensor, batch: dict[str, Tensor], with_box: Tensor, weights: LossWeights
) -> Tensor:
    """Loss of the answer to a first prompt, whose three masks mean whole, part and subpart.

    Every mask learns its own level of what lies under a click, where there is one. So that they also hedge where it is
    unclear what is an object, the best of them learns what was asked for. A box leaves no choice: all three learn what
    it is around. The scores learn how well each mask fits what was asked for: the best is the likeliest meaning.

    Args:
        logits, iou: B×P×3×h×w and B×P×3.
        batch: of `SceneBatches`.
        with_box: B×P bool.
        weights: of the loss.
    """
    targets = batch["targets"]
    is_taught = batch["has_level"] | with_box[..., None]
    taught = torch.where(with_box[..., None, None, None], targets[:, :, None], batch["levels"])
    flat_logits, flat_iou = (x.flatten(0, 2)[None, :, None] for x in (logits, iou))
    masks_only = replace(weights, iou=0.0)
    levels = segmentation_loss(flat_logits, flat_iou, taught.flatten(0, 2)[None], is_taught.flatten()[None], masks_only)
    return levels + HEDGE * segmentation_loss(logits, iou, targets, weights=replace(weights, iou=weights.iou / HEDGE))


def training_step(
    model: SamVariantsModel, batch: dict[str, Tensor], rounds: int, weights: LossWeights, autocast: bool
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch over all rounds, and what the log shows."""
    device = batch["image"].device
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixel_values = (batch["image"].permute(0, 3, 1, 2).float() - mean) / std
    targets, with_box = batch["targets"], batch["use_box"]
    total: Tensor = torch.zeros((), device=device)
    report: dict[str, float] = {}
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        encoded = model.get_image_embeddings(pixel_values)
    embeddings = [encoded] if isinstance(encoded, Tensor) else encoded
    prompts = first_prompts(batch)
    for turn in range(rounds):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            answer = ask(model, embeddings, prompts, batch["is_object"])
        logits, iou = answer.logits, answer.iou
        if turn == 0:
            several = levels_loss(logits[:, :, 1:], iou[:, :, 1:], batch, with_box, weights)
        else:
            several = segmentation_loss(logits[:, :, 1:], iou[:, :, 1:], targets, weights=weights)
        single = segmentation_loss(logits[:, :, :1], iou[:, :, :1], targets, weights=weights)
        several_share, single_share = FIRST_ROUND if turn == 0 else LATER_ROUNDS
        total = total + several_share * several + single_share * single
        report |= quality_report(logits, iou, targets, with_box, turn)
        if turn + 1 < rounds:
            prompts = corrected(prompts, answer, batch, turn, CELL)
    return total / rounds, report
