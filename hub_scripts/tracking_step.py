"""One step of training to track: prompts on the first frame of a clip, then every frame with its memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.decoders.mask_decoder import DecodedMasks
from sam_variants.hub_scripts.prompt_simulation import sample_corrections
from sam_variants.hub_scripts.training_batches import CELL
from sam_variants.hub_scripts.training_step import PIXEL_MEAN, PIXEL_STD
from sam_variants.losses import LossWeights, mask_iou, segmentation_loss
from sam_variants.memory.memory_bank import FrameRecord, MemoryBank
from sam_variants.modeling_sam_variants_video import FrameFeatures, SamVariantsVideoModel, TrackedObjects
from sam_variants.pretrained_part import evaluating

# How a clip's objects are pointed out on the first frame, and how often.
FIRST_PROMPTS = {"click": 0.6, "box": 0.2, "mask": 0.2}
REFINE_FIRST = 0.4
CORRECT_LATER = 0.3
LARGEST_LOGIT = 32.0
CLIP_TENSORS = ("frames", "targets", "clicks", "boxes")


@dataclass
class ClipLoss:
    """Tracks the N objects of one clip and gathers their losses.

    Args:
        model: what is trained.
        frames: T×H×W×3 uint8.
        targets: coverage T×N×h×w in [0, 1] at the decoder's size.
        clicks: N×2, boxes: N×4, on the first frame in pixels.
        weights: of the loss.
    """

    model: SamVariantsVideoModel
    frames: Tensor
    targets: Tensor
    clicks: Tensor
    boxes: Tensor
    weights: LossWeights
    losses: list[Tensor] = field(default_factory=list)
    ious: list[Tensor] = field(default_factory=list)
    right_scores: list[Tensor] = field(default_factory=list)

    def run(self) -> Tensor:
        """The mean loss over frames; `ious` and `right_scores` then hold what was reached on tracked frames."""
        features = self._encode()
        banks = [MemoryBank(self.model.memory_rules()) for _ in range(self.targets.shape[1])]
        answer = self._first_answer(features[0])
        self._remember(features[0], 0, answer, banks, is_prompted=True)
        corrected = random.randrange(1, len(features)) if random.random() < CORRECT_LATER else -1
        for index in range(1, len(features)):
            selections = [bank.select(index) for bank in banks]
            embeddings = self.model.with_memory(features[index], selections)
            answer = self._learn(self.model.decode_candidates(features[index], embeddings), index, is_tracked=True)
            if index == corrected:
                answer = self._correct(features[index], embeddings, answer, index)
            self._remember(features[index], index, answer, banks, is_prompted=index == corrected)
        return torch.stack(self.losses).mean()

    @torch.no_grad()
    def _encode(self) -> list[FrameFeatures]:
        """All frames at once; the image encoder is not trained here."""
        device = self.frames.device
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        with evaluating(self.model.image_encoder):
            features = self.model.encode_frame((self.frames.permute(0, 3, 1, 2).float() - mean) / std)
        skips = zip(*(skip.split(1) for skip in features.skips), strict=True)
        return [FrameFeatures(one, list(maps)) for one, maps in zip(features.embedding.split(1), skips, strict=True)]

    def _first_answer(self, features: FrameFeatures) -> TrackedObjects:
        kind = random.choices(list(FIRST_PROMPTS), list(FIRST_PROMPTS.values()))[0]
        if kind == "mask":
            full = F.interpolate(self.targets[0][:, None], scale_factor=CELL, mode="bilinear", align_corners=False)
            return self.model.accept_masks(features, full[:, 0] > 0.5)
        embeddings = self.model.without_memory(features)
        labels = torch.ones(len(self.clicks), 1, dtype=torch.long, device=self.clicks.device)
        prompts = {"boxes": self.boxes} if kind == "box" else {"points": self.clicks[:, None], "labels": labels}
        answer = self._learn(self.model.decode_candidates(features, embeddings, **prompts, is_first=True), 0)
        if kind == "click" and random.random() < REFINE_FIRST:
            answer = self._correct(features, embeddings, answer, 0, **prompts)
        return answer

    def _correct(
        self,
        features: FrameFeatures,
        embeddings: Tensor,
        answer: TrackedObjects,
        index: int,
        points: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TrackedObjects:
        """One corrective click per object, with the answer before it."""
        where, what = sample_corrections(answer.mask_logits.detach(), self.targets[index], CELL)
        points = where[:, None] if points is None else torch.cat([points, where[:, None]], dim=1)
        labels = what[:, None] if labels is None else torch.cat([labels, what[:, None]], dim=1)
        earlier = answer.mask_logits.detach().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)[:, None]
        return self._learn(
            self.model.decode_candidates(features, embeddings, points, labels, mask_logits=earlier), index
        )

    def _learn(self, decoded: DecodedMasks, index: int, is_tracked: bool = False) -> TrackedObjects:
        """Add the loss of all candidates and choose among them as inference does."""
        scores = decoded.object_score_logits[None] if self.model.config.mask_decoder_config.pred_obj_scores else None
        target = self.targets[index]
        self.losses.append(
            segmentation_loss(decoded.masks[None], decoded.iou_scores[None], target[None], None, self.weights, scores)
        )
        answer = self.model.choose(decoded)
        if is_tracked:
            is_there = target.flatten(1).any(dim=1)
            self.ious.append(mask_iou(answer.mask_logits.detach() > 0, target > 0.5)[is_there])
            self.right_scores.append(((answer.object_score_logits.detach() > 0) == is_there).float())
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


def tracking_step(
    model: SamVariantsVideoModel, batch: dict[str, Tensor], weights: LossWeights
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of clips and what the log shows of tracked frames.

    Args:
        model: what is trained.
        batch: the tensors of `ClipLoss` with a first axis of clips.
        weights: of the loss.

    Returns:
        The loss; `iou`, the mean over visible objects, and `right_score`, how often the object score tells what is
        visible.
    """
    clips = [
        ClipLoss(model, frames, targets, clicks, boxes, weights)
        for frames, targets, clicks, boxes in zip(*(batch[name] for name in CLIP_TENSORS), strict=True)
    ]
    loss = torch.stack([clip.run() for clip in clips]).mean()
    ious = torch.cat([iou for clip in clips for iou in clip.ious])
    right = torch.cat([score for clip in clips for score in clip.right_scores])
    return loss, {"iou": ious.mean().item(), "right_score": right.mean().item()}
