"""The loss of interactive segmentation: several rounds of prompts about images that are encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL
from sam_variants.losses import LossWeights, segmentation_loss
from sam_variants.training.prompt_simulation import mask_prompts, sample_corrections

# The first answer is to an ambiguous prompt: the several masks count more there, later the single one does.
FIRST_ROUND, LATER_ROUNDS = (1.0, 0.5), (0.5, 1.0)


class Prompts(NamedTuple):
    """What is asked about B×P objects: points B×P×N×2, labels B×P×N, boxes B×P×4, mask logits B×P×h×w or None."""

    points: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None


class Answer(NamedTuple):
    """All masks B×P×M×h×w, the single one first, their predicted IoU B×P×M, object scores B×P×1 or None."""

    logits: Tensor
    iou: Tensor
    object_scores: Tensor | None


class PromptedLoss(nn.Module):
    """A model with its loss as one module, whose one forward pass is what distributed training needs.

    The statistics of batch norms stay as they are: those of a few images are no good, and would make the answer about
    an object depend on what else is in the batch.

    Args:
        model: a promptable model, or one with adapters.
        num_rounds: predictions per object.
        weights: of the loss; SAM's by default.
        frozen_encoder: the parts that make the image embeddings are not trained.
        trains_batch_norm: whether batch norms take their statistics from the batch, for models that begin with nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        num_rounds: int,
        weights: LossWeights | None = None,
        frozen_encoder: bool = False,
        trains_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.num_rounds, self.weights = num_rounds, weights or LossWeights()
        self.frozen_encoder, self.trains_batch_norm = frozen_encoder, trains_batch_norm

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        inner = inner_model(self.model)
        if self.frozen_encoder:
            inner.image_encoder.eval()
        if not self.trains_batch_norm:
            for module in inner.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss, summed over the objects of a batch of `mask_batches.collate` and averaged over the rounds."""
        inner = inner_model(self.model)
        embeddings = self._embeddings(inner, batch)
        prompts = first_prompts(batch)
        total = embeddings[-1].new_zeros((), dtype=torch.float32)
        for turn in range(self.num_rounds):
            answer = ask(inner, embeddings, prompts, batch["is_object"])
            total = total + self._round_loss(answer, batch, FIRST_ROUND if turn == 0 else LATER_ROUNDS)
            if turn + 1 < self.num_rounds:
                prompts = corrected(prompts, answer, batch, turn, inner.config.vision_config.stride // 4)
        return total / self.num_rounds

    def _embeddings(self, inner: Any, batch: dict[str, Any]) -> list[Tensor]:
        """Levels of B×C×h×w, finest first, the image embedding last."""
        if (given := batch.get("image_embeddings")) is not None:
            return [level.to(inner.mask_decoder.dtype) for level in given]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_encoder):
            encoded = inner.get_image_embeddings(batch["pixel_values"])
        return [encoded] if isinstance(encoded, Tensor) else list(encoded)

    def _round_loss(self, answer: Answer, batch: dict[str, Any], shares: tuple[float, float]) -> Tensor:
        """Loss of one round, summed over the objects; the object score belongs to the single mask."""
        is_object, targets = batch["is_object"], batch["targets"]
        several = segmentation_loss(answer.logits[:, :, 1:], answer.iou[:, :, 1:], targets, is_object, self.weights)
        single = segmentation_loss(
            answer.logits[:, :, :1], answer.iou[:, :, :1], targets, is_object, self.weights, answer.object_scores
        )
        return (shares[0] * several + shares[1] * single) * is_object.sum()


def inner_model(model: Any) -> Any:
    """The model itself, out of the adapters around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def first_prompts(batch: dict[str, Any]) -> Prompts:
    """A click or a box for every object; padding objects get none."""
    is_object, use_box = batch["is_object"], batch["use_box"]
    has_point, has_box = is_object & ~use_box, is_object & use_box
    points = torch.where(has_point[..., None], batch["points"], PADDING_COORDINATE)
    labels = torch.where(has_point, 1, PADDING_LABEL)
    boxes = torch.where(has_box[..., None], batch["boxes"], PADDING_COORDINATE)
    return Prompts(points[:, :, None], labels[:, :, None], boxes)


def ask(model: Any, embeddings: Sequence[Tensor], prompts: Prompts, is_object: Tensor) -> Answer:
    """Everything that a model says of B×P objects, with gradients.

    Args:
        model: a promptable model.
        embeddings: levels of B×C×h×w, finest first, the image embedding last.
        prompts: about B×P objects.
        is_object: B×P bool, False for padding.
    """
    *skips, embedding = embeddings
    shape = is_object.shape
    masks = None if prompts.masks is None else prompts.masks.flatten(0, 1)[:, None]
    encoded = model.prompt_encoder.encode_objects(
        prompts.points.flatten(0, 1), prompts.labels.flatten(0, 1), prompts.boxes.flatten(0, 1), masks, embedding
    )
    decoder = model.mask_decoder
    decoded = decoder.predict_masks(
        embedding,
        model.prompt_encoder.get_dense_pe((embedding.shape[2], embedding.shape[3])).to(embedding.dtype),
        encoded.sparse,
        encoded.dense.expand(is_object.numel(), -1, -1, -1),
        list(skips) or None,
        encoded.token_mask,
        is_object.flatten(),
    )
    logits, iou = (value.unflatten(0, shape).float() for value in (decoded.masks, decoded.iou_scores))
    has_scores = decoder.config.pred_obj_scores
    return Answer(logits, iou, decoded.object_score_logits.unflatten(0, shape).float() if has_scores else None)


@torch.no_grad()
def corrected(prompts: Prompts, answer: Answer, batch: dict[str, Any], turn: int, cell: int) -> Prompts:
    """The prompts with one click more, drawn where the mask that a user would get is wrong, and often that mask.

    After the first round that is the mask of the best predicted quality, later the single one.

    Args:
        prompts, answer: of the round before.
        batch: what is right, and the random numbers.
        turn: number of the round before.
        cell: side of the square of pixels that one logit is for.
    """
    is_object, targets = batch["is_object"], batch["targets"]
    best = answer.iou.argmax(dim=-1) if turn == 0 else torch.zeros_like(is_object, dtype=torch.long)
    previous = answer.logits.take_along_dim(best[..., None, None, None], dim=2)[:, :, 0]
    where, label = sample_corrections(
        previous.flatten(0, 1), targets.flatten(0, 1), cell, draws=batch["draws"][:, :, turn].flatten(0, 1)
    )
    where, label = where.unflatten(0, is_object.shape), label.unflatten(0, is_object.shape)
    points = torch.where(is_object[..., None], where, PADDING_COORDINATE)
    labels = torch.where(is_object, label, PADDING_LABEL)
    keeps = (is_object & batch["use_mask"][:, :, turn])[..., None, None]
    return Prompts(
        torch.cat([prompts.points, points[:, :, None].to(prompts.points.dtype)], dim=2),
        torch.cat([prompts.labels, labels[:, :, None]], dim=2),
        prompts.boxes,
        torch.where(keeps, mask_prompts(previous), float("nan")),
    )
