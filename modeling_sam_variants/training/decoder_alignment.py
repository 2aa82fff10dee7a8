"""Teaching a mask decoder to answer prompts as a teacher does, on another encoder's embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL
from sam_variants.losses import cross_entropy_loss, mask_iou
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.coordinates import apply_coords
from sam_variants.training.embedding_distillation import DistillationRows, embedding_levels
from sam_variants.training.embedding_shards import EmbeddingShards, ImageSource, prepared_image
from sam_variants.training.mask_batches import EpochRow
from sam_variants.training.prompt_simulation import PromptSampler, mask_prompts, sample_corrections, simulate_prompts
from sam_variants.training.prompted_loss import Answer, Prompts, ask

BOX_SHARE = 0.5
BOX_JITTER = 0.08
# Small objects count in the cross-entropy too.
BALANCE = 0.25
# The logit of cells that show padding.
NOTHING = -32.0
# Smaller masks, as a share of the map, weigh no more than this where clicks are anywhere.
LEAST_AREA = 0.02


class AlignmentRows(DistillationRows):
    """Rows with clicks, as the student and the teacher need them; the index is an `EpochRow`.

    Clicks are on objects where the dataset has masks of some, anywhere else; all that is random belongs to the seed,
    the epoch and the row.

    Args:
        images, rows, processor, shards: as for `DistillationRows`.
        teacher_processor: what prepared the images for the teacher.
        num_objects: clicks per image.
        rounds: answers per click, for the random numbers of the corrections.
        seed: 0 or more.
    """

    def __init__(
        self,
        images: ImageSource,
        rows: Sequence[int],
        processor: Any,
        shards: EmbeddingShards,
        teacher_processor: Any,
        num_objects: int,
        rounds: int,
        seed: int,
    ) -> None:
        super().__init__(images, rows, processor, shards)
        self.teacher_processor, self.num_objects, self.rounds = teacher_processor, num_objects, rounds
        self.sampler = PromptSampler(seed)

    def __getitem__(self, place: EpochRow) -> dict[str, Any]:
        row = self.rows[place.row]
        example, rng = self.images[row], self.sampler.rng(place.epoch, row)
        size = example.image.shape[:2]
        prepared = prepared_image(self.processor, example.image)
        inner = prepared["reshaped_input_sizes"][0].tolist()
        teachers = self.teacher_processor.reshaped_size(*size)
        draws = self.sampler.correction_draws(place.epoch, row, self.rounds, self.num_objects)
        return {
            "pixel_values": prepared["pixel_values"][0],
            "targets": self.shards[row],
            "points": torch.from_numpy(apply_coords(self._clicks(example, rng), size, inner)),
            "is_anywhere": torch.full((self.num_objects,), not len(getattr(example, "masks", ()))),
            "inner": torch.tensor([inner[1], inner[0]], dtype=torch.float32),
            "to_teacher": torch.tensor([teachers[1] / inner[1], teachers[0] / inner[0]]),
            "use_box": torch.from_numpy(rng.uniform(size=self.num_objects) < BOX_SHARE),
            "jitter": torch.from_numpy(rng.uniform(-BOX_JITTER, BOX_JITTER, (self.num_objects, 4)).astype(np.float32)),
            "draws": draws.transpose(0, 1),
        }

    def _clicks(self, example: Any, rng: np.random.Generator) -> np.ndarray:
        """num_objects×2 positions (x, y) in pixels of the image."""
        if len(getattr(example, "masks", ())):
            return simulate_prompts(example, rng, self.num_objects).points
        height, width = example.image.shape[:2]
        return rng.uniform((0, 0), (width - 1, height - 1), (self.num_objects, 2)).astype(np.float32)


class DecoderAlignment(nn.Module):
    """A student with the distance of its answers from a teacher's as one module; only its mask decoder learns.

    Every click is asked about, or the box around the teacher's answer to it; then corrections follow, from where the
    student's mask differs from the teacher's first one. In every round both get the same prompts, and all masks of the
    student learn the teacher's probabilities. Its scores learn what its own masks are worth: what the teacher thinks
    of its mask, times how much the student's is like it. Padding is no part of a mask, as it is none of the image.

    Clicks anywhere hit large things more often: they weigh as much less as the teacher's mask is larger, so that things
    count alike, and masks and scores don't lean towards backgrounds.

    Args:
        student: what learns.
        teacher: a whole model; its image encoder is not used.
        rounds: answers per object.
    """

    def __init__(self, student: SamVariantsModel, teacher: SamVariantsModel, rounds: int) -> None:
        super().__init__()
        self.student, self.rounds = student, rounds
        # in a tuple, so that it is neither trained nor saved
        self.teacher = (teacher.eval(),)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name.startswith("mask_decoder."))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.student.image_encoder.eval()
        return self

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """The `loss` of a batch of `AlignmentRows`, averaged over rounds and objects."""
        levels = embedding_levels(self.student, batch["pixel_values"])
        everyone = torch.ones_like(batch["use_box"])
        asked, wanted = self._first_prompts(batch)
        weights = weights_of(wanted, batch["is_anywhere"])
        total = levels[-1].new_zeros((), dtype=torch.float32)
        for turn in range(self.rounds):
            own, theirs = ask(self.student, levels, asked, everyone), self._teacher_answer(asked, batch)
            total = total + answer_loss(own, theirs, self._is_image(own.logits, batch)[:, :, None], weights)
            if turn + 1 < self.rounds:
                asked = self._corrected(asked, own, wanted, batch, turn)
        return {"loss": total / self.rounds}

    @torch.no_grad()
    def agreement(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """B×P IoU of the student's first mask with the teacher's, and B×P whether the prompt was a box."""
        levels = embedding_levels(self.student, batch["pixel_values"])
        asked, _ = self._first_prompts(batch)
        is_box = asked.boxes[..., 0] != PADDING_COORDINATE
        own = best_masks(ask(self.student, levels, asked, torch.ones_like(is_box)), is_box)
        theirs = best_masks(self._teacher_answer(asked, batch), is_box)
        is_image = self._is_image(theirs, batch)
        return mask_iou((same_size(own, theirs) > 0) & is_image, (theirs > 0) & is_image), is_box

    def _is_image(self, maps: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """B×1×h×w bool: which cells of maps …×h×w show the image, and not padding."""
        shares = batch["inner"] / self.student.config.image_size
        columns, rows = (
            torch.arange(count, device=shares.device) + 0.5 < share[:, None] * count
            for count, share in zip((maps.shape[-1], maps.shape[-2]), shares.unbind(dim=1), strict=True)
        )
        return (rows[:, :, None] & columns[:, None])[:, None]

    def _teacher_answer(self, asked: Prompts, batch: Mapping[str, Any]) -> Answer:
        """What the teacher says to the student's prompts."""
        teacher = self.teacher[0]
        scale = batch["to_teacher"][:, None]
        levels = [level.to(asked.points.device, teacher.mask_decoder.dtype) for level in batch["targets"]]
        points = torch.where((asked.labels >= 0)[..., None], asked.points * scale[:, :, None], asked.points)
        boxes = torch.where(asked.boxes != PADDING_COORDINATE, asked.boxes * scale.repeat(1, 1, 2), asked.boxes)
        with torch.no_grad():
            prompts = Prompts(points, asked.labels, boxes, asked.masks)
            return ask(teacher, levels, prompts, torch.ones_like(batch["use_box"]))

    @torch.no_grad()
    def _first_prompts(self, batch: Mapping[str, Any]) -> tuple[Prompts, Tensor]:
        """A click or a box for every object, and the teacher's mask of it, B×P×h×w bool."""
        points, use_box = batch["points"], batch["use_box"]
        labels = torch.ones_like(use_box, dtype=torch.long)[:, :, None]
        no_boxes = points.new_full((*use_box.shape, 4), PADDING_COORDINATE)
        clicked = self._teacher_answer(Prompts(points[:, :, None], labels, no_boxes), batch)
        meant = best_masks(clicked, torch.zeros_like(use_box)) > 0
        meant = meant & self._is_image(meant, batch)
        boxes = boxes_around(meant) * (self.teacher[0].config.vision_config.stride // 4)
        boxes = boxes / batch["to_teacher"][:, None].repeat(1, 1, 2)
        extent = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
        boxes = (boxes + batch["jitter"] * extent).clamp(min=0).minimum(batch["inner"][:, None].repeat(1, 1, 2))
        use_box = use_box & meant.flatten(2).any(dim=-1)
        asked = Prompts(
            torch.where(use_box[..., None], PADDING_COORDINATE, points)[:, :, None],
            labels.masked_fill(use_box[..., None], PADDING_LABEL),
            torch.where(use_box[..., None], boxes, no_boxes),
        )
        return asked, meant

    @torch.no_grad()
    def _corrected(self, asked: Prompts, own: Answer, wanted: Tensor, batch: Mapping[str, Any], turn: int) -> Prompts:
        """The prompts with one click more where the student's mask is wrong, and that mask."""
        is_box = asked.boxes[..., 0] != PADDING_COORDINATE
        previous = best_masks(own, is_box | (turn > 0))
        where, label = sample_corrections(
            previous.masked_fill(~self._is_image(previous, batch), NOTHING).flatten(0, 1),
            same_size(wanted.float(), previous).flatten(0, 1),
            self.student.config.vision_config.stride // 4,
            draws=batch["draws"][:, :, turn].flatten(0, 1),
        )
        return Prompts(
            torch.cat([asked.points, where.unflatten(0, is_box.shape)[:, :, None].to(asked.points)], dim=2),
            torch.cat([asked.labels, label.unflatten(0, is_box.shape)[:, :, None]], dim=2),
            asked.boxes,
            mask_prompts(previous),
        )


def best_masks(answer: Answer, takes_single: Tensor) -> Tensor:
    """B×P×h×w logits: the single mask where that is asked for, else the one of the several with the best score."""
    best = torch.where(takes_single, 0, answer.iou[:, :, 1:].argmax(dim=-1) + 1)
    return answer.logits.take_along_dim(best[..., None, None, None], dim=2)[:, :, 0]


def boxes_around(masks: Tensor) -> Tensor:
    """B×P×4 boxes x1, y1, x2, y2 in cells around B×P×h×w bool masks; the whole map around empty ones."""
    columns, rows = masks.any(dim=-2).float(), masks.any(dim=-1).float()
    first = [line.argmax(dim=-1) for line in (columns, rows)]
    last = [line.shape[-1] - line.flip(-1).argmax(dim=-1) for line in (columns, rows)]
    return torch.stack([*first, *last], dim=-1).float()


def same_size(maps: Tensor, like: Tensor) -> Tensor:
    """B×P×h×w or B×P×M×h×w maps at the height and width of others."""
    if maps.shape[-2:] == like.shape[-2:]:
        return maps
    flat = maps.flatten(0, -3)[:, None]
    return F.interpolate(flat, like.shape[-2:], mode="bilinear", align_corners=False).reshape(
        *maps.shape[:-2], *like.shape[-2:]
    )


def weights_of(masks: Tensor, is_anywhere: Tensor) -> Tensor:
    """B×P weights for B×P×h×w bool masks: 1, and of the clicks that are anywhere one over the area, 1 on average."""
    inverse = masks.float().mean(dim=(-2, -1)).clamp(min=LEAST_AREA).reciprocal()
    average = (inverse * is_anywhere).sum() / is_anywhere.sum().clamp(min=1)
    return torch.where(is_anywhere, inverse / average, 1.0)


def answer_loss(own: Answer, theirs: Answer, is_image: Tensor, weights: Tensor) -> Tensor:
    """Distance of a student's answer from a teacher's, least where they are the same: of all masks, and of the scores.

    Args:
        own, theirs: answers to the same prompts; the teacher's masks are resized to the student's.
        is_image: bool, broadcast to the student's masks: cells that are not padding.
        weights: of the objects, B×P.
    """
    logits = own.logits.masked_fill(~is_image, NOTHING)
    wanted = same_size(theirs.logits, logits).masked_fill(~is_image, NOTHING)
    targets = wanted.sigmoid()
    terms = cross_entropy_loss(logits, targets, BALANCE) + square_dice_loss(logits, targets)
    # a score of the teacher's for a mask that the student can't draw would have it chosen
    terms = terms + (own.iou - theirs.iou * mask_iou(logits > 0, wanted > 0)).square()
    loss = (terms * weights[..., None]).mean()
    if own.object_scores is not None and theirs.object_scores is not None:
        is_there = theirs.object_scores.sigmoid()
        loss = loss + F.binary_cross_entropy_with_logits(own.object_scores, is_there)
    return loss


def square_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 − dice coefficient with squares (Milletari et al., 2016) of …×H×W logits against …×H×W targets in [0, 1].

    It is 0 where probabilities are the targets. Without the squares it is least for masks of 0 and 1 that cover what
    is less likely than not, too: a student's masks would grow wherever its teacher is in doubt.
    """
    probability = logits.sigmoid()
    difference = (probability - targets).square().sum(dim=(-2, -1))
    return difference / (probability.square().sum(dim=(-2, -1)) + targets.square().sum(dim=(-2, -1)) + 1)


@torch.no_grad()
def agreement(alignment: DecoderAlignment, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean IoU of a student's answers with its teacher's: `click` (the best of three by its own score) and `box`."""
    device, was_training = alignment.student.device, alignment.training
    alignment.eval()
    ious, boxed = [], []
    for batch in batches:
        moved = {
            name: [level.to(device) for level in value] if isinstance(value, list) else value.to(device)
            for name, value in batch.items()
        }
        iou, is_box = alignment.agreement(moved)
        ious.append(iou.flatten().cpu())
        boxed.append(is_box.flatten().cpu())
    alignment.train(was_training)
    iou, is_box = torch.cat(ious), torch.cat(boxed)
    kinds = {"click": ~is_box, "box": is_box}
    return {name: float(iou[chosen].mean()) for name, chosen in kinds.items() if chosen.any()}
