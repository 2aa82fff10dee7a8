"""Teaching an image encoder to give the embeddings of another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.training.embedding_shards import EmbeddingShards, ImageSource, prepared_image
from sam_variants.training.mask_batches import EpochRow

MAX_SPREAD_ROWS = 64
LEAST_SPREAD = 1e-8


class EmbeddingDistiller(nn.Module):
    """A student with its distance from a teacher's embeddings as one module (MobileSAM: Zhang et al., 2023).

    The loss is the mean squared error, of every map over the spread of the teacher's, so that the embedding and the
    finer maps count alike: 1 is what a constant would reach, 0 is the teacher.

    Args:
        student: what learns; its parts behind the maps get no gradient.
        spreads: per map of the teacher that is compared its variance, see `spreads_of`; the embedding last.
        projection_to: channels of the teacher's embedding, where the student's are compared behind a projection.
    """

    def __init__(self, student: SamVariantsModel, spreads: Sequence[float], projection_to: int | None = None) -> None:
        super().__init__()
        self.student, self.spreads = student, list(spreads)
        if student.no_mem_embed is not None:
            # a part of image embeddings alone: the memory is fed without it, and has to find what the teacher's finds
            student.no_mem_embed.requires_grad_(False)
        width = student.config.vision_config.out_chans
        self.projection = None if projection_to is None else nn.Conv2d(width, projection_to, kernel_size=1)

    def forward(self, pixel_values: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """`loss` and the mean squared error of every map, `errors`.

        Args:
            pixel_values: B×3×H×W, prepared for the student.
            targets: the teacher's maps B×C×h×w, finest first, the embedding last; other sizes than the student's are
                resized.
        """
        found = embedding_levels(self.student, pixel_values)
        if self.projection is not None:
            found = [self.projection(found[-1])]
        count = len(self.spreads)
        errors = torch.stack(
            [
                F.mse_loss(own.float(), resized(target, own))
                for own, target in zip(found[-count:], targets[-count:], strict=True)
            ]
        )
        return {"loss": (errors / errors.new_tensor(self.spreads)).mean(), "errors": errors.detach()}


def embedding_levels(model: SamVariantsModel, pixel_values: Tensor) -> list[Tensor]:
    """What `get_image_embeddings` returns, always as a list, the embedding last."""
    found = model.get_image_embeddings(pixel_values)
    return [found] if isinstance(found, Tensor) else list(found)


def resized(target: Tensor, own: Tensor) -> Tensor:
    """A map B×C×h×w as float32 at the height and width of another one."""
    target = target.to(own.device, torch.float32)
    if target.shape[-2:] == own.shape[-2:]:
        return target
    return F.interpolate(target, own.shape[-2:], mode="bilinear", align_corners=False, antialias=True)


def spreads_of(shards: EmbeddingShards, rows: Sequence[int], num_levels: int) -> list[float]:
    """The mean squared distance of a teacher's maps from their mean per channel, over some of the rows.

    Args:
        shards: the teacher's embeddings.
        rows: at most `MAX_SPREAD_ROWS` of them, spread evenly, are looked at.
        num_levels: how many maps, counted from the embedding.
    """
    step = max(1, len(rows) // MAX_SPREAD_ROWS)
    looked_at = rows[::step][:MAX_SPREAD_ROWS]
    moments: list[Any] = [0.0] * num_levels
    for row in looked_at:  # one after the other: the finer maps of 64 images would fill gigabytes
        for place, level in enumerate(shards[row][-num_levels:]):
            exact = level.double()
            means = torch.stack([exact.mean(dim=(-2, -1)), exact.square().mean(dim=(-2, -1))])
            moments[place] = moments[place] + means / len(looked_at)
    return [max(float((squares - mean.square()).mean()), LEAST_SPREAD) for mean, squares in moments]


class DistillationRows(Dataset):
    """Rows of images for the student with the teacher's maps; the index is an `EpochRow`.

    Args:
        images: the dataset.
        rows: which rows of it.
        processor: the student's.
        shards: the teacher's embeddings.
    """

    def __init__(self, images: ImageSource, rows: Sequence[int], processor: Any, shards: EmbeddingShards) -> None:
        self.images, self.rows, self.processor, self.shards = images, list(rows), processor, shards

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: EpochRow) -> dict[str, Any]:
        row = self.rows[place.row]
        pixel_values = prepared_image(self.processor, self.images[row].image)["pixel_values"][0]
        return {"pixel_values": pixel_values, "targets": self.shards[row]}


def collate_levels(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack tensors, and lists of tensors place by place."""
    batch: dict[str, Any] = {}
    for name, first in examples[0].items():
        values = [example[name] for example in examples]
        is_list = isinstance(first, list)
        batch[name] = [torch.stack(level) for level in zip(*values, strict=True)] if is_list else torch.stack(values)
    return batch


@torch.no_grad()
def embedding_errors(distiller: EmbeddingDistiller, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a student is from its teacher.

    Returns:
        `mse` of the embedding; `unexplained`, the same over the teacher's spread; `finer_mse`, of the finer maps,
        finest first.
    """
    device = distiller.student.device
    was_training = distiller.training
    distiller.eval()
    total, count = torch.zeros(len(distiller.spreads), dtype=torch.float64), 0
    for batch in batches:
        errors = distiller(batch["pixel_values"].to(device), batch["targets"])["errors"]
        total += errors.double().cpu() * len(batch["pixel_values"])
        count += len(batch["pixel_values"])
    distiller.train(was_training)
    errors = (total / max(count, 1)).tolist()
    return {"mse": errors[-1], "unexplained": errors[-1] / distiller.spreads[-1], "finer_mse": errors[:-1]}
