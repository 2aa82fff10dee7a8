"""The model that tracks objects through video: the image model with a memory."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.decoders.mask_decoder import DecodedMasks
from sam_variants.decoders.prompt_encoder import NOT_A_POINT_LABEL
from sam_variants.layers.mlp import MLP
from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine, sine_encoding_1d
from sam_variants.layers.sending import sent
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_bank import MemoryRules, Selection
from sam_variants.memory.memory_encoder import MemoryEncoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.outputs import ImageEncoderOutput
from sam_variants.transformers_video import VideoModelNames
from sam_variants.video_session import VideoSession

ABSENT_LOGIT = -1024.0
# How sure a mask is that was given as a prompt: its pixels get this logit and its negative.
GIVEN_MASK_LOGIT = 10.0


class FrameFeatures(NamedTuple):
    """An encoded frame: the embedding without memory, 1×C×h×w, and the decoder's finer maps, finest first."""

    embedding: Tensor
    skips: list[Tensor]


class TrackedObjects(NamedTuple):
    """The answer for N objects on one frame.

    Attributes:
        mask_logits: N×h×w at a quarter of the input's size; −1024 where the object is not visible.
        pointers: object pointers N×C.
        object_score_logits: N.
        iou_scores: N.
    """

    mask_logits: Tensor
    pointers: Tensor
    object_score_logits: Tensor
    iou_scores: Tensor


class SamVariantsVideoModel(VideoModelNames, SamVariantsModel):
    """Segment Anything 2 (Ravi et al., 2024) for video, over any image encoder; on images it is `SamVariantsModel`.

    The methods here compute one step for any number of objects; what is remembered is the business of the session
    that `start_session` gives. Parameter names are the official ones.

    Args:
        config: the composed configuration; `config_for("sam2.1-hiera-tiny")` gives a published one.
    """

    config: SamVariantsVideoConfig  # type: ignore[assignment]
    _keys_to_ignore_on_load_unexpected: list[str] = []
    _no_split_modules = [*SamVariantsModel._no_split_modules, "MemoryLayer", "CXBlock"]

    def __init__(self, config: SamVariantsVideoConfig) -> None:
        super(SamVariantsModel, self).__init__(config)
        self._build_image_parts(config)
        parts: Any = config
        width, memory_width = parts.vision_config.out_chans, parts.memory_encoder_config.out_dim
        self.memory_attention = MemoryAttention(parts.memory_attention_config)
        self.memory_encoder = MemoryEncoder(parts.memory_encoder_config)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, memory_width))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, width))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory_width)) if config.no_obj_embed_spatial else None
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = MLP(width, width, width, 3)
        self.obj_ptr_tpos_proj = nn.Linear(width, memory_width) if config.proj_tpos_enc_in_obj_ptrs else nn.Identity()
        self.position_embedding = PositionEmbeddingSine(width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SamVariantsVideoModel):
            vectors = (module.maskmem_tpos_enc, module.no_mem_pos_enc, module.no_obj_ptr, module.no_obj_embed_spatial)
            for vector in vectors:
                if vector is not None:
                    init.trunc_normal_(vector, std=self.config.initializer_range)

    def start_session(self, processor: Any = None, **options: Any) -> VideoSession:
        """Begin to track objects through a video; see `VideoSession` for the options.

        Args:
            processor: the `SamVariantsProcessor` of this model; None makes the one that belongs to it.
        """
        return VideoSession(self, processor, **options)

    def memory_rules(self) -> MemoryRules:
        """How far frames look, from the configuration."""
        return MemoryRules(**{name: getattr(self.config, name) for name in MemoryRules.__dataclass_fields__})

    def encode_frame(self, pixel_values: Tensor) -> FrameFeatures:
        """Run the image encoder on one frame, 1×3×H×W."""
        return self.frame_features(self.image_encoder(pixel_values))

    def frame_features(self, encoded: ImageEncoderOutput) -> FrameFeatures:
        """What the decoder and the memory need of an encoded frame."""
        return FrameFeatures(*self._decoder_maps(encoded))

    def without_memory(self, features: FrameFeatures) -> Tensor:
        """The embedding of a frame that looks at no memory, 1×C×h×w."""
        if self.no_mem_embed is None:
            return features.embedding
        return features.embedding + self.no_mem_embed.reshape(1, -1, 1, 1)

    def with_memory(
        self, features: FrameFeatures, selections: Sequence[Selection], num_frames: int | None = None
    ) -> Tensor:
        """Let a frame look at the memories of N objects whose selections have one layout.

        Args:
            features: the frame.
            selections: what it looks at, per object.
            num_frames: length of the video, if it is known.

        Returns:
            N×C×h×w.
        """
        embedding = features.embedding
        memory = torch.stack([self._memory_tokens(selection, embedding.dtype) for selection in selections])
        position = torch.stack([self._memory_positions(selection, embedding) for selection in selections])
        pointers, pointer_positions = self._pointer_tokens(selections, embedding, num_frames)
        attended = self.memory_attention(
            curr=embedding.flatten(2).transpose(1, 2),
            memory=torch.cat([memory, pointers], dim=1),
            curr_pos=self.position_embedding(embedding).flatten(2).transpose(1, 2),
            memory_pos=torch.cat([position, pointer_positions], dim=1),
            num_obj_ptr_tokens=pointers.shape[1],
        )
        return attended.transpose(1, 2).unflatten(2, embedding.shape[-2:])

    @staticmethod
    def _memory_tokens(selection: Selection, dtype: torch.dtype) -> Tensor:
        """The mask memories in a row, tokens×memory width."""
        return torch.cat([record.memory.to(dtype) for _, record in selection.memories])

    def _memory_positions(self, selection: Selection, embedding: Tensor) -> Tensor:
        """Their position encodings: place in the map and age."""
        place = self.memory_encoder.position_encoding(embedding)[0].flatten(1).T
        # The last row belongs to conditioning frames, the first to the frame before.
        slots = [(age or self.config.num_maskmem) - 1 for age, _ in selection.memories]
        ages = torch.stack([self.maskmem_tpos_enc[slot, 0] for slot in slots])  # a list as an index would be waited for
        return (place + ages).flatten(0, 1)

    def _pointer_tokens(
        self, selections: Sequence[Selection], embedding: Tensor, num_frames: int | None
    ) -> tuple[Tensor, Tensor]:
        """Object pointers cut into tokens of the memory's width, and their encodings, N×tokens×memory width."""
        memory_width = self.config.memory_encoder_config.out_dim
        if not selections[0].pointers:
            nothing = embedding.new_zeros(len(selections), 0, memory_width)
            return nothing, nothing
        pointers = torch.stack([torch.stack([record.pointer for _, record in s.pointers]) for s in selections])
        tokens = pointers.unflatten(-1, (-1, memory_width))
        if not self.config.add_tpos_enc_to_obj_ptrs:
            tokens = tokens.flatten(1, 2)
            return tokens, torch.zeros_like(tokens)
        distances = torch.tensor(
            [[distance for distance, _ in s.pointers] for s in selections], dtype=embedding.dtype, device="cpu"
        )
        distances = sent(distances, embedding.device)
        longest = max(self.max_pointers(num_frames) - 1, 1)
        width = pointers.shape[-1] if self.config.proj_tpos_enc_in_obj_ptrs else memory_width
        encoded = self.obj_ptr_tpos_proj(sine_encoding_1d(distances / longest, width).to(embedding.dtype))
        return tokens.flatten(1, 2), encoded.repeat_interleave(tokens.shape[2], dim=1)

    def max_pointers(self, num_frames: int | None) -> int:
        """How many object pointers a frame looks at in a video of that length."""
        limit = self.config.max_obj_ptrs_in_encoder
        return limit if num_frames is None else min(num_frames, limit)

    def answer_prompts(
        self,
        features: FrameFeatures,
        image_embeddings: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_logits: Tensor | None = None,
        is_first: bool = False,
    ) -> TrackedObjects:
        """Decode masks of N objects on one frame, with prompts or (when tracking) without.

        Args:
            features: the frame.
            image_embeddings: N×C×h×w (or 1×C×h×w for objects without memory).
            points: N×K×2 in pixels of the model's input.
            labels: N×K: 1 include, 0 exclude.
            boxes: N×4.
            mask_logits: N×1×h×w, an earlier answer to be improved.
            is_first: whether these are the first prompts of objects that the frame holds no memory of.
        """
        return self.choose(
            self.decode_candidates(features, image_embeddings, points, labels, boxes, mask_logits, is_first)
        )

    def decode_candidates(
        self,
        features: FrameFeatures,
        image_embeddings: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_logits: Tensor | None = None,
        is_first: bool = False,
    ) -> DecodedMasks:
        """All candidates among which `answer_prompts` chooses; its arguments. Training teaches each of them."""
        num_points = (0 if labels is None else labels.shape[1]) + (0 if boxes is None else 2)  # corners count
        multimask = (is_first or self.config.multimask_output_for_tracking) and (
            self.config.multimask_min_pt_num <= num_points <= self.config.multimask_max_pt_num
        )
        return self._decode(features, image_embeddings, (points, labels, boxes, mask_logits), multimask)

    def choose(self, decoded: DecodedMasks) -> TrackedObjects:
        """The candidate of each object with the highest predicted IoU."""
        scores = decoded.object_score_logits
        is_visible = scores > 0
        masks = torch.where(is_visible[..., None, None], decoded.masks, ABSENT_LOGIT)
        best = decoded.iou_scores.argmax(dim=1, keepdim=True)
        token = decoded.object_tokens
        if token.shape[1] > 1:
            token = token.take_along_dim(best[..., None], dim=1)
        return TrackedObjects(
            mask_logits=masks.take_along_dim(best[..., None, None], dim=1)[:, 0],
            pointers=self._pointer(token[:, 0], is_visible),
            object_score_logits=scores[:, 0],
            iou_scores=decoded.iou_scores.take_along_dim(best, dim=1)[:, 0],
        )

    def accept_masks(self, features: FrameFeatures, masks: Tensor) -> TrackedObjects:
        """Take masks that were given as prompts for the answer, and find the pointers that belong to them.

        Args:
            features: the frame.
            masks: N×H×W bool at the model's input size.
        """
        given = masks[:, None].to(features.embedding.dtype)
        logits = given * (2 * GIVEN_MASK_LOGIT) - GIVEN_MASK_LOGIT
        size = tuple(4 * side for side in features.embedding.shape[-2:])
        logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False, antialias=True)
        prompts = (None, None, None, self.mask_downsample(given))
        decoded = self._decode(features, features.embedding, prompts, multimask=False)
        is_there = masks.flatten(1).any(dim=1, keepdim=True)
        pointers = self._pointer(decoded.object_tokens[:, 0], decoded.object_score_logits > 0)
        return TrackedObjects(
            mask_logits=logits[:, 0].to(given.dtype),
            pointers=torch.where(is_there, pointers, self.no_obj_ptr),
            object_score_logits=torch.where(is_there[:, 0], GIVEN_MASK_LOGIT, -GIVEN_MASK_LOGIT).to(given.dtype),
            iou_scores=torch.ones_like(is_there[:, 0], dtype=given.dtype),
        )

    def remember(
        self, features: FrameFeatures, mask_logits: Tensor, object_score_logits: Tensor, is_prompted: bool
    ) -> Tensor:
        """The mask memories of N objects on one frame.

        Args:
            features: the frame.
            mask_logits: N×h×w.
            object_score_logits: N.
            is_prompted: whether the masks come from prompts.

        Returns:
            N×tokens×memory width in `config.memory_dtype`.
        """
        embedding = features.embedding
        stride = self.config.vision_config.stride
        size = (embedding.shape[2] * stride, embedding.shape[3] * stride)
        logits = F.interpolate(mask_logits[:, None].float(), size, mode="bilinear", align_corners=False)
        binarize = is_prompted and self.config.binarize_mask_from_pts_for_mem_enc
        masks = (logits > 0).float() if binarize else logits.sigmoid()
        masks = masks * self.config.sigmoid_scale_for_mem_enc + self.config.sigmoid_bias_for_mem_enc
        memory = self.memory_encoder(embedding, masks.to(embedding.dtype), skip_mask_sigmoid=True).memory_features
        if self.no_obj_embed_spatial is not None:
            is_absent = (object_score_logits <= 0).to(memory.dtype)[:, None, None, None]
            memory = memory + is_absent * self.no_obj_embed_spatial[..., None, None]
        return memory.flatten(2).transpose(1, 2).to(getattr(torch, self.config.memory_dtype))

    def _decode(
        self,
        features: FrameFeatures,
        image_embeddings: Tensor,
        prompts: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
        multimask: bool,
    ) -> DecodedMasks:
        """Run prompt encoder and mask decoder; objects without points and boxes get one that is no point."""
        points, labels, boxes, mask_logits = prompts
        if points is None and boxes is None:
            num_objects = image_embeddings.shape[0] if mask_logits is None else mask_logits.shape[0]
            points = image_embeddings.new_zeros(num_objects, 1, 2, dtype=torch.float32)
            labels = torch.full((num_objects, 1), NOT_A_POINT_LABEL, device=points.device)
        encoded = self.prompt_encoder.encode_objects(points, labels, boxes, mask_logits, image_embeddings)
        sparse: Any = encoded.sparse
        size = (image_embeddings.shape[2], image_embeddings.shape[3])
        return self.mask_decoder(
            image_embeddings,
            self.prompt_encoder.get_dense_pe(size).to(image_embeddings.dtype),
            sparse,
            encoded.dense.expand(sparse.shape[0], -1, -1, -1),
            multimask,
            high_resolution_features=features.skips or None,
            token_mask=encoded.token_mask,
        )

    def _pointer(self, tokens: Tensor, is_visible: Tensor) -> Tensor:
        """Object pointers N×C of output tokens N×C; a fixed one for what is not visible (N×1 bool)."""
        return torch.where(is_visible, self.obj_ptr_proj(tokens), self.no_obj_ptr)
