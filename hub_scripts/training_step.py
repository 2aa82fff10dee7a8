"""One step of training: several rounds of prompts on the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_variants.hub_scripts.prompt_simulation import sample_corrections
from sam_variants.hub_scripts.training_batches import CELL
from sam_variants.losses import LossWeights, mask_iou, segmentation_loss
from sam_variants.modeling_sam_variants import SamVariantsModel

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def first_prompts(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Points, labels and boxes of the first round: a click for two objects in three, a box for the rest."""
    clicks, boxes = batch["clicks"], batch["boxes"]
    with_box = torch.rand(clicks.shape[:2], device=clicks.device) < 0.35
    labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device).masked_fill(with_box, -10)
    return clicks[:, :, None], labels[:, :, None], torch.where(with_box[..., None], boxes, -10.0)


def predict_all(model: SamVariantsModel, embeddings: Tensor | list[Tensor], prompts: tuple) -> tuple[Tensor, Tensor]:
    """All masks B×P×4×h×w, the single one first, and their predicted IoU."""
    points, labels, boxes, masks = prompts
    *skips, embedding = [embeddings] if isinstance(embeddings, Tensor) else embeddings
    size = (embedding.shape[2], embedding.shape[3])
    encoded = model.prompt_encoder.encode_objects(
        points.flatten(0, 1), labels.flatten(0, 1), boxes.flatten(0, 1), masks, embedding
    )
    dense = encoded.dense.expand(points.shape[0] * points.shape[1], -1, -1, -1)
    image_pe = model.prompt_encoder.get_dense_pe(size)
    decoded = model.mask_decoder.predict_masks(
        embedding, image_pe, encoded.sparse, dense, skips or None, encoded.token_mask
    )
    logits, iou = (x.unflatten(0, points.shape[:2]).float() for x in (decoded.masks, decoded.iou_scores))
    return logits, iou


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


@torch.no_grad()
def corrected_prompts(
    logits: Tensor, iou: Tensor, targets: Tensor, points: Tensor, labels: Tensor, turn: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The next round's points and labels with one correction more, and the previous masks for two objects in three."""
    best = iou.argmax(dim=-1) if turn == 0 else torch.zeros_like(iou[..., 0], dtype=torch.long)
    index = best[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
    previous = logits.gather(2, index).flatten(0, 2)
    where, what = sample_corrections(previous, targets.flatten(0, 1), CELL)
    points = torch.cat([points, where.view(*points.shape[:2], 1, 2)], dim=2)
    labels = torch.cat([labels, what.view(*labels.shape[:2], 1)], dim=2)
    keep = torch.rand(len(previous), device=previous.device) > 0.33
    masks = torch.where(keep[:, None, None], previous.clamp(-32, 32), float("nan"))
    return points, labels, masks[:, None]


def training_step(
    model: SamVariantsModel, batch: dict[str, Tensor], rounds: int, weights: LossWeights, autocast: bool
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch over all rounds, and what the log shows."""
    device = batch["image"].device
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixel_values = (batch["image"].permute(0, 3, 1, 2).float() - mean) / std
    targets = batch["targets"]
    points, labels, boxes = first_prompts(batch)
    masks = None
    total: Tensor = torch.zeros((), device=device)
    report: dict[str, float] = {}
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        embeddings = model.get_image_embeddings(pixel_values)
    for turn in range(rounds):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits, iou = predict_all(model, embeddings, (points, labels, boxes, masks))
        several = segmentation_loss(logits[:, :, 1:], iou[:, :, 1:], targets, weights=weights)
        single = segmentation_loss(logits[:, :, :1], iou[:, :, :1], targets, weights=weights)
        total = total + (several + 0.5 * single if turn == 0 else 0.5 * several + single)
        report |= quality_report(logits, iou, targets, boxes[..., 0] >= 0, turn)
        if turn + 1 < rounds:
            points, labels, masks = corrected_prompts(logits, iou, targets, points, labels, turn)
    return total / rounds, report
