"""What of a model that tracks becomes a file of its own, beside what it needs for photos (`export_graphs`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL
from sam_variants.hub_scripts.export_graphs import ModelGraph, PromptGraph
from sam_variants.layers.position_embedding_sine import sine_encoding_1d
from sam_variants.modeling_sam_variants_video import ABSENT_LOGIT, FrameFeatures


class FrameGraph(ModelGraph):
    """The image encoder of a model that tracks, which also needs the embedding that has seen no memory."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """B×3×side×side → what `ImageGraph` gives, and the embedding as memory attention takes it, B×C×h×w."""
        frame = self.model.encode_frame(pixel_values)
        return self.model.without_memory(frame), *frame.skips, frame.embedding.clone()


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
            memories: P×M×hw×memory width, which are rounded as `config.memory_dtype` says.
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
        # Here and not in the memory encoder: on the way to a file, numbers between two steps may go to either side.
        memories = memories.to(getattr(torch, model.config.memory_dtype)).float()
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
            P×hw×memory width, for memory attention to round.
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
        return memory.flatten(2).transpose(1, 2)
