"""The loss of tracking: prompts on the first frame of a clip, then every frame with its memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.decoders.mask_decoder import DecodedMasks
from sam_variants.losses import LossWeights, mask_iou, segmentation_loss
from sam_variants.memory.memory_bank import FrameRecord, MemoryBank
from sam_variants.modeling_sam_variants_video import FrameFeatures, SamVariantsVideoModel, TrackedObjects
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.preprocessing import image_processor_for
from sam_variants.training.prompt_simulation import mask_prompts, sample_corrections
from sam_variants.training.prompted_loss import PromptedLoss, inner_model

# How a clip's objects are pointed out on the first frame, and how often.
FIRST_PROMPTS = {"click": 0.6, "box": 0.2, "mask": 0.2}
REFINE_FIRST = 0.4
CORRECT_LATER = 0.3
CLIP_TENSORS = ("frames", "targets", "clicks", "boxes")
PROMPT_FIELDS = ("kind", "clicks", "boxes", "corrections", "draws")


@dataclass(frozen=True)
class ClipPrompts:
    """How the N objects of a clip of T frames are pointed out.

    Attributes:
        kind: "click", "box" or "mask": what is given on the first frame.
        clicks: N×2, boxes: N×4, on the first frame in pixels of the model's input.
        corrections: T counts of corrective clicks per object, one after the other.
        draws: random numbers of the corrections, one N×3 after the other, or None for PyTorch's own.
    """

    kind: str
    clicks: Tensor
    boxes: Tensor
    corrections: Sequence[int]
    draws: Tensor | None = None

    @classmethod
    def by_chance(cls, clicks: Tensor, boxes: Tensor, num_frames: int) -> ClipPrompts:
        """Drawn by Python's `random`: on the first frame as `FIRST_PROMPTS` has it, at times a correction later."""
        corrections = [0] * num_frames
        kind = random.choices(list(FIRST_PROMPTS), list(FIRST_PROMPTS.values()))[0]
        corrections[0] = int(kind == "click" and random.random() < REFINE_FIRST)
        if random.random() < CORRECT_LATER:
            corrections[random.randrange(1, num_frames)] = 1
        return cls(kind, clicks, boxes, corrections)


@dataclass
class ClipLoss:
    """Tracks the N objects of one clip and gathers their losses.

    Args:
        model: what is trained.
        pixel_values: T×3×H×W, the model's input.
        targets: coverage T×N×h×w in [0, 1] at the decoder's size.
        prompts: how the objects are pointed out.
        weights: of the loss.
        annotated: on which frames the targets are known, T bools; None for all. The others are tracked without loss.
        encoder_learns: whether gradients go into the image encoder.
    """

    model: SamVariantsVideoModel
    pixel_values: Tensor
    targets: Tensor
    prompts: ClipPrompts
    weights: LossWeights
    annotated: Sequence[bool] | None = None
    encoder_learns: bool = False
    losses: list[Tensor] = field(default_factory=list)
    ious: list[Tensor] = field(default_factory=list)
    right_scores: list[Tensor] = field(default_factory=list)
    _num_draws: int = 0

    def run(self) -> Tensor:
        """The mean loss over answers; `ious` and `right_scores` then hold what was reached on tracked frames.

        Raises:
            ValueError: a clip from which nothing can be learnt: a mask on the first frame, and no target behind it.
        """
        features = self.encode()
        banks = [MemoryBank(self.model.memory_rules()) for _ in range(self.targets.shape[1])]
        answer = self._first_answer(features[0])
        self._remember(features[0], 0, answer, banks, is_prompted=True)
        for index in range(1, len(features)):
            selections = [bank.select(index) for bank in banks]
            embeddings = self.model.with_memory(features[index], selections)
            answer = self.learn(self.model.decode_candidates(features[index], embeddings), index, is_tracked=True)
            answer = self._correct(features[index], embeddings, answer, index)
            is_prompted = self.prompts.corrections[index] > 0
            self._remember(features[index], index, answer, banks, is_prompted)
        if not self.losses:
            raise ValueError("the clip gives no loss: the first frame's mask is given, and no later frame is annotated")
        return torch.stack(self.losses).mean()

    def encode(self) -> list[FrameFeatures]:
        """All frames at once."""
        if self.encoder_learns:
            encoded = self.model.image_encoder(self.pixel_values)
        else:
            with torch.no_grad(), evaluating(self.model.image_encoder):
                encoded = self.model.image_encoder(self.pixel_values)
        features = self.model.frame_features(encoded)
        if not features.skips:
            return [FrameFeatures(one, []) for one in features.embedding.split(1)]
        skips = zip(*(skip.split(1) for skip in features.skips), strict=True)
        return [FrameFeatures(one, list(maps)) for one, maps in zip(features.embedding.split(1), skips, strict=True)]

    def learn(self, decoded: DecodedMasks, index: int, is_tracked: bool = False) -> TrackedObjects:
        """Add the loss of all candidates and choose among them as inference does."""
        answer = self.model.choose(decoded)
        if self.annotated is not None and not self.annotated[index]:
            return answer
        scores = decoded.object_score_logits[None] if self.model.config.mask_decoder_config.pred_obj_scores else None
        target = self.targets[index]
        self.losses.append(
            segmentation_loss(decoded.masks[None], decoded.iou_scores[None], target[None], None, self.weights, scores)
        )
        if is_tracked:
            is_there = target.flatten(1).any(dim=1)
            self.ious.append(mask_iou(answer.mask_logits.detach() > 0, target > 0.5)[is_there])
            self.right_scores.append(((answer.object_score_logits.detach() > 0) == is_there).float())
        return answer

    def _first_answer(self, features: FrameFeatures) -> TrackedObjects:
        prompts = self.prompts
        if prompts.kind == "mask":
            size = self.pixel_values.shape[-2:]
            full = F.interpolate(self.targets[0][:, None], size, mode="bilinear", align_corners=False)
            return self.model.accept_masks(features, full[:, 0] > 0.5)
        embeddings = self.model.without_memory(features)
        labels = torch.ones(len(prompts.clicks), 1, dtype=torch.long, device=prompts.clicks.device)
        given = {"points": prompts.clicks[:, None], "labels": labels}
        if prompts.kind == "box":
            given = {"boxes": prompts.boxes}
        answer = self.learn(self.model.decode_candidates(features, embeddings, **given, is_first=True), 0)
        return self._correct(features, embeddings, answer, 0, **given)

    def _correct(
        self, features: FrameFeatures, embeddings: Tensor, answer: TrackedObjects, index: int, **given: Tensor
    ) -> TrackedObjects:
        """Corrective clicks for every object, each with those before it and with the answer to them."""
        for _ in range(self.prompts.corrections[index]):
            draws = None if self.prompts.draws is None else self.prompts.draws[self._num_draws]
            self._num_draws += 1
            cell = self.pixel_values.shape[-1] // self.targets.shape[-1]
            where, what = sample_corrections(answer.mask_logits.detach(), self.targets[index], cell, draws=draws)
            new = {"points": where[:, None], "labels": what[:, None]}
            given |= {name: torch.cat([*([given[name]] if name in given else []), new[name]], dim=1) for name in new}
            earlier = mask_prompts(answer.mask_logits)[:, None]
            decoded = self.model.decode_candidates(features, embeddings, mask_logits=earlier, **given)  # type: ignore[arg-type]
            answer = self.learn(decoded, index)
        return answer

    def _remember(
        self, features: FrameFeatures, index: int, answer: TrackedObjects, banks: list[MemoryBank], is_prompted: bool
    ) -> None:
        memories = self.model.remember(features, answer.mask_logits, answer.object_score_logits, is_prompted)
        for number, bank in enumerate(banks):
            record = FrameRecord(
                pointer=answer.pointers[number],
                object_score_logit=answer.object_score_logits[number],
                iou_score=answer.iou_scores[number],
                memory=memories[number],
            )
            (bank.conditioning if is_prompted else bank.tracked)[index] = record


class TrackingLoss(PromptedLoss):
    """A video model with its loss as one module; batch norms are treated as in `PromptedLoss`.

    Args:
        model: a video model, or one with adapters.
        weights: of the loss; SAM's by default.
        frozen_encoder: the image encoder is not trained.
    """

    def __init__(self, model: Any, weights: LossWeights | None = None, frozen_encoder: bool = True) -> None:
        super().__init__(model, 1, weights, frozen_encoder)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch of `clip_batches.collate_clips`: the mean over frames, summed over the objects."""
        inner: Any = inner_model(self.model)
        losses = []
        for clip in batch["clips"]:
            num_objects = clip["targets"].shape[1]
            if num_objects:
                prompts = ClipPrompts(*(clip[name] for name in PROMPT_FIELDS))
                tensors = (clip["pixel_values"], clip["targets"])
                loss = ClipLoss(inner, *tensors, prompts, self.weights, clip["annotated"], not self.frozen_encoder)
                losses.append(loss.run() * num_objects)
        if losses:
            return torch.stack(losses).sum()
        # Without an object everything gets a gradient of nothing: other processes wait for one.
        trained = [parameter.sum() for parameter in inner.parameters() if parameter.requires_grad]
        return torch.stack(trained).sum() * 0.0


def clip_losses(model: SamVariantsVideoModel, batch: dict[str, Tensor], weights: LossWeights) -> list[ClipLoss]:
    """Clips whose prompts are left to chance.

    Args:
        model: what is trained.
        batch: clips along the first axis: frames T×H×W×3 uint8 of the model's input, targets T×N×h×w, clicks N×2, boxes
            N×4.
        weights: of the loss.
    """
    processor = image_processor_for(model.config)
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    device = batch["frames"].device
    statistics = (processor.image_mean, processor.image_std)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in statistics)
    return [
        ClipLoss(
            model,
            (frames.permute(0, 3, 1, 2).float() * scale - mean) / std,
            targets,
            ClipPrompts.by_chance(clicks, boxes, len(frames)),
            weights,
        )
        for frames, targets, clicks, boxes in zip(*(batch[name] for name in CLIP_TENSORS), strict=True)
    ]


def tracking_step(
    model: SamVariantsVideoModel, batch: dict[str, Tensor], weights: LossWeights
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of clips and what the log shows of tracked frames.

    Args:
        model, batch, weights: as for `clip_losses`.

    Returns:
        The loss; `iou`, the mean over visible objects, and `right_score`, how often the object score tells what is
        visible.
    """
    clips = clip_losses(model, batch, weights)
    loss = torch.stack([clip.run() for clip in clips]).mean()
    ious = torch.cat([iou for clip in clips for iou in clip.ious])
    right = torch.cat([score for clip in clips for score in clip.right_scores])
    return loss, {"iou": ious.mean().item(), "right_score": right.mean().item()}
