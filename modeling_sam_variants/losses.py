"""The loss that promptable segmentation is trained with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; the defaults are SAM's 20 : 1 of focal to dice loss and 1 for the IoU regression.

    Attributes:
        focal: focal loss with `focal_gamma` and `focal_alpha`, averaged over the pixels.
        cross_entropy: binary cross-entropy, averaged over the pixels.
        balance: share of the cross-entropy in which foreground and background weigh the same however small the object
            is; the rest counts pixels.
        dice: 1 − dice coefficient of probabilities and target.
        iou: squared error of the predicted IoU.
        object_score: binary cross-entropy of the score of whether the object is visible, for decoders that have one.
        focal_alpha: weight of foreground pixels in the focal loss; background has 1 − alpha.
        focal_gamma: exponent that plays down pixels that are right already.
    """

    focal: float = 20.0
    cross_entropy: float = 0.0
    balance: float = 0.0
    dice: float = 1.0
    iou: float = 1.0
    object_score: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017) of …×H×W logits against …×H×W targets in [0, 1], averaged over H×W."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = probability * (1 - targets) + (1 - probability) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * wrong**gamma * entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 − dice coefficient (Milletari et al., 2016) of …×H×W logits against …×H×W targets, smoothed by one pixel."""
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def cross_entropy_loss(logits: Tensor, targets: Tensor, balance: float = 0.0) -> Tensor:
    """Binary cross-entropy of …×H×W logits against …×H×W targets in [0, 1], averaged over H×W.

    Args:
        balance: 0 counts every pixel alike; 1 gives foreground and background half of the weight each.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if balance:
        foreground = targets.mean(dim=(-2, -1), keepdim=True).clamp(1e-3, 1 - 1e-3)
        halves = 0.5 * (targets / foreground + (1 - targets) / (1 - foreground))
        entropy = entropy * (1 - balance + balance * halves)
    return entropy.mean(dim=(-2, -1))


def mask_iou(masks: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union of two …×H×W bool tensors; 1 where both are empty."""
    intersection = (masks & targets).sum(dim=(-2, -1))
    union = (masks | targets).sum(dim=(-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union, dtype=torch.float32))


def segmentation_loss(
    pred_masks: Tensor,
    iou_scores: Tensor,
    labels: Tensor,
    is_object: Tensor | None = None,
    weights: LossWeights | None = None,
    object_score_logits: Tensor | None = None,
) -> Tensor:
    """Loss of promptable segmentation (Kirillov et al., 2023): the best of an object's masks is trained.

    With object scores (Ravi et al., 2024) an object without a pixel in `labels` trains its score alone.

    Args:
        pred_masks: mask logits B×P×M×h×w.
        iou_scores: predicted IoU B×P×M; all of them are trained, each towards its own mask's IoU.
        labels: ground truth B×P×H×W, bool or in [0, 1], covering the model's square input; averaged down to h×w.
        is_object: B×P bool, False for padding objects, which are left out.
        weights: weights of the terms.
        object_score_logits: B×P×1, as the decoders with an object score give them.

    Returns:
        Scalar mean over the objects; zero (with a gradient) when there are none.

    Raises:
        ValueError: when labels don't fit the predictions.
    """
    weights = weights or LossWeights()
    if labels.ndim != 4 or labels.shape[:2] != pred_masks.shape[:2]:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, expected {pred_masks.shape[0]}×{pred_masks.shape[1]}×H×W: "
            "one mask per image and object"
        )
    logits = pred_masks.float()
    targets = labels.to(logits)
    if targets.shape[-2:] != logits.shape[-2:]:
        targets = F.interpolate(targets, logits.shape[-2:], mode="area")
    targets = targets[:, :, None].expand_as(logits)
    mask_term = weights.dice * dice_loss(logits, targets)
    if weights.focal:
        mask_term = mask_term + weights.focal * focal_loss(logits, targets, weights.focal_alpha, weights.focal_gamma)
    if weights.cross_entropy:
        mask_term = mask_term + weights.cross_entropy * cross_entropy_loss(logits, targets, weights.balance)
    iou_term = (iou_scores.float() - mask_iou(logits.detach() > 0, targets > 0.5)) ** 2
    per_object = mask_term.min(dim=-1).values + weights.iou * iou_term.mean(dim=-1)
    if object_score_logits is not None:
        is_visible = labels.flatten(2).any(dim=-1).to(per_object)
        score_term = F.binary_cross_entropy_with_logits(
            object_score_logits.float().squeeze(-1), is_visible, reduction="none"
        )
        per_object = per_object * is_visible + weights.object_score * score_term
    if is_object is None:
        return per_object.mean()
    return (per_object * is_object).sum() / is_object.sum().clamp(min=1)
