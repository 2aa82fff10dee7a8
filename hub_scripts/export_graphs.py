"""What of a model becomes a file of its own: modules that take and return tensors alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.decoders.mask_decoder import DecodedMasks
from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL
from sam_variants.layers.position_embedding_sine import sine_encoding_1d
from sam_variants.modeling_sam_variants_video import ABSENT_LOGIT, FrameFeatures


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


class FrameGraph(ModelGraph):
    """The same of a model that tracks, which also needs the embedding that has seen no memory."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """B×3×side×side → what `ImageGraph` gives, and the embedding as memory attention takes it, B×C×h×w."""
        frame = self.model.encode_frame(pixel_values)
        return self.model.without_memory(frame), *frame.skips, frame.embedding.clone()


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
        return by_row @ masks.float() @ by_column.T >= 0.5

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


class ObjectGraph(PromptGraph):
    """`SamVariantsVideoModel.answer_prompts` for P objects on a frame: their first prompts, or none when tracked."""

    def forward(  # type: ignore[override]
        self,
        image_embeddings: Tensor,
        points: Tensor,
        labels: Tensor,
        boxes: Tensor,
        original_size: Tensor,
        finer_0: Tensor | None = None,
        finer_1: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Find one mask of each object.

        Args:
            image_embeddings: P×C×h×w, of prompted objects those of the frame, of tracked ones from memory attention.
            points, labels, boxes: 1×P×N×2, 1×P×N and 1×P×4 as in `PromptGraph`; labels of a tracked object are −1.
            original_size: (height, width) of the frame, int64.
            finer_0, finer_1: the decoder's finer maps, where it has skip connections.

        Returns:
            Mask logits P×cells×cells, object pointers P×C, object scores P, above 0 where the object is visible, and
            predicted IoU P.
        """
        torch._check(image_embeddings.shape[0] == labels.shape[1])
        decoded = self.decode(image_embeddings, points, labels, boxes, None, original_size, finer_0, finer_1)
        config = self.model.config
        kinds = torch.arange(decoded.iou_scores.shape[1])
        is_candidate = self._takes_several(labels[0], boxes[0])[:, None] == (kinds > 0)
        best = torch.where(is_candidate, decoded.iou_scores, -torch.inf).argmax(dim=1)
        is_visible = decoded.object_score_logits > 0
        described_by = best if config.mask_decoder_config.use_multimask_token_for_obj_ptr else torch.zeros_like(best)
        logits, scores = (of_each(x, best) for x in (decoded.masks, decoded.iou_scores))
        pointers = self.model.obj_ptr_proj(of_each(decoded.object_tokens, described_by))
        return (
            torch.where(is_visible[..., None], logits, ABSENT_LOGIT),
            torch.where(is_visible, pointers, self.model.no_obj_ptr),
            decoded.object_score_logits[:, 0],
            scores,
        )

    def _takes_several(self, labels: Tensor, boxes: Tensor) -> Tensor:
        """P bool: whether the best of several masks is taken, which depends on the number of points."""
        config = self.model.config
        has_box = (boxes != PADDING_COORDINATE).any(dim=-1)
        is_tracked = (labels < 0).all(dim=-1) & ~has_box
        num_points = torch.where(is_tracked, 0, (labels != PADDING_LABEL).sum(dim=-1) + 2 * has_box)
        several = (num_points >= config.multimask_min_pt_num) & (num_points <= config.multimask_max_pt_num)
        return several if config.multimask_output_for_tracking else several & ~is_tracked


def of_each(x: Tensor, kind: Tensor) -> Tensor:
    """N×M×… and one of the M kinds for each of N → N×…."""
    index = kind.reshape(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return x.gather(1, index)[:, 0]


class MaskPromptGraph(PromptGraph):
    """`SamVariantsVideoModel.accept_masks` for masks of P objects at the frame's size."""

    def forward(  # type: ignore[override]
        self,
        mask: Tensor,
        frame_embeddings: Tensor,
        original_size: Tensor,
        finer_0: Tensor | None = None,
        finer_1: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Masks P×height×width bool, and the frame as `FrameGraph` gives it → what `ObjectGraph` returns."""
        finer = [] if finer_0 is None or finer_1 is None else [finer_0, finer_1]
        given = self.photo.on_input(mask, original_size)
        return tuple(self.model.accept_masks(FrameFeatures(frame_embeddings, finer), given))


class MemoryAttentionGraph(ModelGraph):
    """`SamVariantsVideoModel.with_memory` for P objects that look at M memories and K object pointers each."""

    def forward(
        self, frame_embeddings: Tensor, memories: Tensor, ages: Tensor, pointers: Tensor, distances: Tensor
    ) -> Tensor:
        """Let a frame look at what is remembered.

        Args:
            frame_embeddings: 1×C×h×w without memory.
            memories: P×M×hw×memory width.
            ages: P×M int64, how many steps old each is; 0 for prompted frames.
            pointers: P×K×C.
            distances: P×K int64, how many frames ago each was made.

        Returns:
            The image embeddings P×C×h×w for the decoder.
        """
        model, objects, memory_width = self.model, memories.shape[0], memories.shape[3]
        place = model.memory_encoder.position_encoding(frame_embeddings)[0].flatten(1).T
        slots = torch.where(ages > 0, ages, model.config.num_maskmem) - 1
        position = place + model.maskmem_tpos_enc[slots][:, :, 0]
        pieces = pointers.shape[2] // memory_width
        tokens = pointers.unflatten(2, (pieces, memory_width))
        pointer_position = self._pointer_position(distances, pieces, memory_width)
        attended = model.memory_attention(
            curr=tokens_of(frame_embeddings, objects),
            memory=torch.cat([memories.flatten(1, 2), tokens.flatten(1, 2)], dim=1),
            curr_pos=tokens_of(model.position_embedding(frame_embeddings), objects),
            memory_pos=torch.cat([position.flatten(1, 2), pointer_position], dim=1),
            num_obj_ptr_tokens=pointers.shape[1] * pieces,
        )
        return attended.transpose(1, 2).unflatten(2, frame_embeddings.shape[-2:])

    def _pointer_position(self, distances: Tensor, pieces: int, memory_width: int) -> Tensor:
        """The encodings of the pointers' tokens, P×K·pieces×memory width."""
        config = self.model.config
        if not config.add_tpos_enc_to_obj_ptrs:
            return torch.zeros(distances.shape[0], distances.shape[1] * pieces, memory_width)
        width = pieces * memory_width if config.proj_tpos_enc_in_obj_ptrs else memory_width
        times = distances.float() / max(config.max_obj_ptrs_in_encoder - 1, 1)
        encoded = self.model.obj_ptr_tpos_proj(sine_encoding_1d(times, width))
        return encoded[:, :, None].expand(-1, -1, pieces, -1).flatten(1, 2)


def tokens_of(image: Tensor, objects: int) -> Tensor:
    """1×C×h×w → objects×hw×C, with a copy for each: a view that repeats one would only take two objects or more."""
    return image.flatten(2).transpose(1, 2).repeat(objects, 1, 1)


class MemoryEncoderGraph(ModelGraph):
    """`SamVariantsVideoModel.remember` for P objects on one frame."""

    def forward(
        self, frame_embeddings: Tensor, mask_logits: Tensor, object_scores: Tensor, is_prompted: Tensor
    ) -> Tensor:
        """Make memories.

        Args:
            frame_embeddings: 1×C×h×w without memory.
            mask_logits: P×4h×4w.
            object_scores: P.
            is_prompted: P bool, whether the mask comes from a prompt.

        Returns:
            P×hw×memory width, rounded as `config.memory_dtype` says.
        """
        model, config = self.model, self.model.config
        size = [side * config.vision_config.stride for side in frame_embeddings.shape[-2:]]
        logits = F.interpolate(mask_logits[:, None], size, mode="bilinear", align_corners=False)
        masks = logits.sigmoid()
        if config.binarize_mask_from_pts_for_mem_enc:
            masks = torch.where(is_prompted[:, None, None, None], (logits > 0).float(), masks)
        masks = masks * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        memory = model.memory_encoder(frame_embeddings, masks, skip_mask_sigmoid=True).memory_features
        if model.no_obj_embed_spatial is not None:
            is_absent = (object_scores <= 0).float()[:, None, None, None]
            memory = memory + is_absent * model.no_obj_embed_spatial[..., None, None]
        return memory.flatten(2).transpose(1, 2).to(getattr(torch, config.memory_dtype)).float()
