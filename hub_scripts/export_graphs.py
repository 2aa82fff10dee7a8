"""What of a model becomes a file of its own: modules that take and return tensors alone; here those for photos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam_variants.decoders.mask_decoder import DecodedMasks
from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL

# A pixel of which exactly half is covered belongs to a mask, whatever rounding made of the half.
ROUNDING = 1e-6


class ModelGraph(nn.Module):
    """A graph of a whole model's parts.

    Args:
        model: a `SamVariantsModel` in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


class ImageGraph(ModelGraph):
    """The image encoder, and what the model makes of its maps for the decoder."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """B×3×side×side → the image embedding B×C×h×w and the decoder's finer maps, finest first."""
        maps = self.model.get_image_embeddings(pixel_values)
        *finer, embedding = [maps] if isinstance(maps, Tensor) else maps
        return embedding, *finer


class PhotoGeometry(nn.Module):
    """Between a photo of any size and the model's input; its size is a tensor, so that a graph leaves it free.

    Bilinear resizing is a product with one matrix per axis, and the matrices are made from the photo's size.

    Args:
        side: of the model's input in pixels.
        cells: side of the mask logits.
        keeps_aspect: whether the photo's longer side fills the input and the rest is padding, instead of both sides.
        mask_threshold: what is subtracted from logits at the photo's size, so that 0 is the border.
    """

    def __init__(self, side: int, cells: int, keeps_aspect: bool, mask_threshold: float) -> None:
        super().__init__()
        self.side, self.cells = side, cells
        self.keeps_aspect, self.mask_threshold = keeps_aspect, mask_threshold

    def forward(self, mask_logits: Tensor, original_size: Tensor) -> Tensor:
        """…×cells×cells and (height, width) int64 → …×height×width, as `upscale_logits`, above 0 in the mask."""
        fitted = self.fitted(original_size)
        by_row, by_column = (self._enlarging(original_size[axis], fitted[axis]) for axis in (0, 1))
        return by_row @ mask_logits @ by_column.T - self.mask_threshold

    def fitted(self, original_size: Tensor) -> Tensor:
        """(height, width) of a photo → its size inside the model's input, float64, as `longest_side_shape`."""
        size = original_size.double()
        if not self.keeps_aspect:
            return torch.full_like(size, float(self.side))
        return (size * (self.side / size.max()) + 0.5).floor().clamp(min=1)

    def on_input(self, masks: Tensor, original_size: Tensor) -> Tensor:
        """P×height×width bool over the photo → P×side×side bool, as `mask_on_input`."""
        fitted = self.fitted(original_size)
        by_row, by_column = (self._fitting(original_size[axis], masks.shape[1 + axis], fitted[axis]) for axis in (0, 1))
        return by_row @ masks.float() @ by_column.T >= 0.5 - ROUNDING

    def _enlarging(self, length: Tensor, fitted: Tensor) -> Tensor:
        """length×cells, from the mask logits to an axis of the photo that is `fitted` long in the model's input."""
        pixels, cells = torch.arange(length.item(), dtype=torch.float64), _numbers(self.cells)
        if not self.keeps_aspect:
            return _bilinear(pixels, self.cells / length, cells, self.cells)
        to_input = _bilinear(_numbers(self.side), self.cells / self.side, cells, self.cells)
        return _bilinear(pixels, fitted / length, _numbers(self.side), fitted) @ to_input

    def _fitting(self, length: Tensor, count: int, fitted: Tensor) -> Tensor:
        """side×count, from an axis of the photo to the model's input, antialiased, and zeros where that is padding."""
        places, step = _numbers(self.side)[:, None], length.double() / fitted
        distance = (_numbers(count) + 0.5 - (places + 0.5) * step).abs() / step.clamp(min=1)
        weights = (1 - distance).clamp(min=0)
        shares = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return (shares * (places < fitted)).float()


def _numbers(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _bilinear(pixels: Tensor, step: Tensor | float, cells: Tensor, count: Tensor | int) -> Tensor:
    """The weights of cells, of which the first `count` are looked at, in pixels that are `step` cells wide."""
    place = ((pixels + 0.5) * step - 0.5).clamp(min=0)
    place = torch.minimum(place, torch.as_tensor(count - 1, dtype=torch.float64))
    return (1 - (place[:, None] - cells).abs()).clamp(min=0).float()


class PromptGraph(nn.Module):
    """Prompt encoder and mask decoder for B photos of one size with P objects each.

    Args:
        model: a `SamVariantsModel`.
        photo: the geometry of photos.
    """

    def __init__(self, model: Any, photo: PhotoGeometry) -> None:
        super().__init__()
        self.model, self.photo = model, photo

    def forward(
        self,
        image_embeddings: Tensor,
        points: Tensor,
        labels: Tensor,
        boxes: Tensor,
        mask_prompts: Tensor,
        original_size: Tensor,
        mask_numbers: Tensor,
        finer_0: Tensor | None = None,
        finer_1: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Find M masks of each object.

        Args:
            image_embeddings: B×C×h×w.
            points: B×P×N×2 in pixels of the photo.
            labels: B×P×N: 1 include, 0 exclude, −1 not a point, −10 padding; float32, as everything that is prompted.
            boxes: B×P×4 in pixels of the photo; −10 four times for no box.
            mask_prompts: mask logits B×P×cells×cells over the model's input; NaN only for no mask.
            original_size: (height, width) of the photo, int64.
            mask_numbers: M int64: 0 is the single mask, 1 to 3 are those for ambiguous prompts.
            finer_0, finer_1: the decoder's finer maps, where it has skip connections.

        Returns:
            Mask logits B×P×M×height×width (above 0 in the mask) and B×P×M×cells×cells (as `mask_prompts` takes them),
            predicted IoU B×P×M, and object scores B×P (10 where the decoder has no head for it).
        """
        torch._check(image_embeddings.shape[0] == labels.shape[0])
        decoded = self.decode(image_embeddings, points, labels, boxes, mask_prompts, original_size, finer_0, finer_1)
        logits, scores = (x.index_select(1, mask_numbers) for x in (decoded.masks, decoded.iou_scores))
        logits, scores, object_scores = (
            x.unflatten(0, labels.shape[:2]) for x in (logits, scores, decoded.object_score_logits[:, 0])
        )
        return self.photo(logits, original_size), logits, scores, object_scores

    def decode(
        self,
        image_embeddings: Tensor,
        points: Tensor,
        labels: Tensor,
        boxes: Tensor,
        mask_prompts: Tensor | None,
        original_size: Tensor,
        finer_0: Tensor | None,
        finer_1: Tensor | None,
    ) -> DecodedMasks:
        """All masks of B·P objects, the single one first; arguments as in `forward`."""
        batch, objects, _ = labels.shape
        for given in (points, boxes, *([] if mask_prompts is None else [mask_prompts])):
            torch._check(given.shape[0] == batch)
            torch._check(given.shape[1] == objects)
        factors = (self.photo.fitted(original_size) / original_size).flip(0)
        has_box = (boxes != PADDING_COORDINATE).any(dim=-1)
        is_object = (labels != PADDING_LABEL).any(dim=-1) | has_box
        if mask_prompts is not None:
            is_object = is_object | ~mask_prompts.isnan().flatten(2).all(dim=2)
        encoder, decoder = self.model.prompt_encoder, self.model.mask_decoder
        prompt = encoder.encode_objects(
            (points * factors).float().flatten(0, 1),
            labels.long().flatten(0, 1),
            torch.where(has_box[..., None], (boxes * factors.repeat(2)).float(), boxes).flatten(0, 1),
            None if mask_prompts is None else mask_prompts.flatten(0, 1)[:, None],
            image_embeddings,
        )
        decoded = decoder.predict_masks(
            image_embeddings,
            encoder.get_dense_pe((image_embeddings.shape[2], image_embeddings.shape[3])),
            prompt.sparse,
            prompt.dense,
            None if finer_0 is None or finer_1 is None else [finer_0, finer_1],
            prompt.token_mask,
            is_object.flatten(),
        )
        if not decoder.config.dynamic_multimask_via_stability:
            return decoded
        stable, score = decoder.stable_masks(decoded.masks, decoded.iou_scores)
        return decoded._replace(
            masks=torch.cat([stable, decoded.masks[:, 1:]], dim=1),
            iou_scores=torch.cat([score, decoded.iou_scores[:, 1:]], dim=1),
        )
