"""The prompt encoder: points, boxes and masks become tokens and a dense map."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.position_embedding_random import PositionEmbeddingRandom
from sam_variants.pretrained_part import PretrainedPart, other_parts

NOT_A_POINT_LABEL = -1
PADDING_LABEL = -10
PADDING_COORDINATE = -10


class PromptEmbeddings(NamedTuple):
    """Embedded prompts of N objects: tokens N×K×C, dense map N×C×h×w, and which tokens are real, N×K bool."""

    sparse: Tensor | None
    dense: Tensor
    token_mask: Tensor | None


class PromptEncoder(PretrainedPart):
    """Embeds points, boxes and masks (segment-anything), with the official parameter names.

    Args:
        config: widths and sizes.
    """

    config: PromptEncoderConfig
    base_model_prefix = "prompt_encoder"
    main_input_name = "points"
    supports_gradient_checkpointing = False
    _keys_to_ignore_on_load_unexpected = other_parts("prompt_encoder")

    def __init__(self, config: PromptEncoderConfig) -> None:
        super().__init__(config)
        width, hidden = config.embed_dim, config.mask_in_chans
        activation: Any = ACT2CLS[config.hidden_act]
        self.pe_layer = PositionEmbeddingRandom(width // 2, config.positional_scale)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, hidden // 4, kernel_size=2, stride=2),
            LayerNorm2d(hidden // 4, config.layer_norm_eps),
            activation(),
            nn.Conv2d(hidden // 4, hidden, kernel_size=2, stride=2),
            LayerNorm2d(hidden, config.layer_norm_eps),
            activation(),
            nn.Conv2d(hidden, width, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, width)
        self.post_init()

    def get_dense_pe(self, image_embedding_size: tuple[int, int] | None = None) -> Tensor:
        """Position encoding of the image embedding, 1×C×h×w; the size defaults to the configuration's."""
        side = self.config.image_embedding_size
        size = (side, side) if image_embedding_size is None else image_embedding_size
        if self.config.pad_input:
            return self.pe_layer(size)[None]
        return self.pe_layer((side, side))[None, :, : size[0], : size[1]]

    @staticmethod
    def _look_up(embedding: nn.Embedding, device: torch.device) -> Tensor:
        """The embedding's only row, 1×C, by calling it, so that offloaded weights are brought in."""
        return embedding(torch.zeros(1, dtype=torch.long, device=device))

    def _embed_points(self, points: Tensor, labels: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Points N×K×2 in pixels and labels N×K → N×K×C; labels below 0 have no position."""
        positions = self.pe_layer.forward_with_coords(points + 0.5, image_size)
        rows = (self.not_a_point_embed, *self.point_embeddings)
        table = torch.cat([self._look_up(row, points.device) for row in rows])
        positions = torch.where(labels[..., None] >= 0, positions, positions.new_zeros(()))
        return positions.to(table.dtype) + table[(labels + 1).clamp(0, 4)]

    def _embed_boxes(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Boxes N×M×4 in pixels → two corner tokens each, N×2M×C."""
        corners = boxes.reshape(boxes.shape[0], -1, 2)
        labels = torch.arange(corners.shape[1], device=boxes.device) % 2 + 2
        return self._embed_points(corners, labels.expand(corners.shape[:2]), image_size)

    def _embed_masks(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits N×1×H×W → N×C×h×w; other sizes than four per cell are resized first."""
        wanted = (4 * size[0], 4 * size[1])
        if tuple(masks.shape[-2:]) != wanted:
            if not self.config.pad_input:
                raise ValueError(
                    f"masks have {tuple(masks.shape[-2:])} cells, but the image embedding has room for {wanted}: "
                    "prepare masks together with their images, which have no padding here"
                )
            masks = F.interpolate(masks.float(), wanted, mode="bilinear", align_corners=False)
        dtype: Any = self.mask_downscaling[0].weight.dtype
        return self.mask_downscaling(masks.to(dtype))

    def _no_mask(self, num_objects: int, size: tuple[int, int], device: torch.device) -> Tensor:
        return self._look_up(self.no_mask_embed, device)[:, :, None, None].expand(num_objects, -1, *size)

    def _sizes(self, size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sizes of the image embedding and of the image that positions refer to."""
        side = self.config.image_embedding_size
        size = (side, side) if size is None else size
        if not self.config.pad_input:
            return size, (self.config.input_image_size, self.config.input_image_size)
        stride = self.config.input_image_size // side
        return size, (size[0] * stride, size[1] * stride)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_embedding_size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed prompts as the official code does; a not-a-point token follows points that come without boxes.

        Args:
            points: positions N×K×2 (x, y in pixels of the input image) and labels N×K: 1 foreground, 0 background,
                2 and 3 corners of a box, −1 not a point.
            boxes: N×4, N×M×4 or N×M×2×2, x1, y1, x2, y2 in pixels.
            masks: logits N×1×H×W.
            image_embedding_size: (h, w) of the image embedding; the configuration's square when None.

        Returns:
            Tokens N×K×C and dense map N×C×h×w.

        Raises:
            ValueError: when the prompts disagree on the number of objects.
        """
        size, image_size = self._sizes(image_embedding_size)
        num_objects = self._count_objects(points, boxes, masks)
        given = [prompt for prompt in (points and points[0], boxes, masks) if prompt is not None]
        device = given[0].device if given else self.device
        tokens = []
        if points is not None:
            coordinates, labels = points
            if boxes is None:
                coordinates = F.pad(coordinates, (0, 0, 0, 1))
                labels = F.pad(labels, (0, 1), value=NOT_A_POINT_LABEL)
            tokens.append(self._embed_points(coordinates, labels, image_size))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes, image_size))
        dense = self._no_mask(num_objects, size, device) if masks is None else self._embed_masks(masks, size)
        nothing = dense.new_zeros(num_objects, 0, self.config.embed_dim)
        return torch.cat([nothing, *tokens], dim=1), dense

    @staticmethod
    def _count_objects(points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> int:
        counts = {
            name: value.shape[0]
            for name, value in (("points", points and points[0]), ("boxes", boxes), ("masks", masks))
            if value is not None
        }
        first = next(iter(counts.values()), 1)
        if any(count != first for count in counts.values()):
            raise ValueError(f"prompts disagree on the number of objects: {counts}")
        return first

    def _padded(self, has_points: Tensor | None, has_box: Tensor | None) -> Tensor | None:
        """Which objects get a not-a-point token, N×1 bool, or None; None in stands for no such prompts."""
        if has_points is None:
            return has_box if self.config.pad_boxes else None
        if has_box is None:
            return has_points
        return has_points | has_box if self.config.pad_boxes else has_points & ~has_box

    def encode_objects(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        image_embedding: Tensor,
    ) -> PromptEmbeddings:
        """Embed prompts of objects that have different numbers of them, so that each gets what it would get alone.

        Args:
            points: N×K×2 pixels.
            labels: N×K; −10 marks padding.
            boxes: N×4 pixels; a box of −10 only marks an object without one.
            masks: logits N×1×H×W; a mask of NaN only marks an object without one.
            image_embedding: B×C×h×w, for its size and device.

        Returns:
            `PromptEmbeddings`; `sparse` and `token_mask` are None without points and boxes.
        """
        size, image_size = self._sizes((image_embedding.shape[2], image_embedding.shape[3]))
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        num_objects = given[0].shape[0] if given else 1
        tokens: list[Tensor] = []
        validity: list[Tensor] = []
        has_points = has_box = None
        if points is not None and labels is not None:
            tokens.append(self._embed_points(points, labels, image_size))
            validity.append(labels != PADDING_LABEL)
            has_points = validity[-1].any(dim=-1, keepdim=True)
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes[:, None], image_size))
            has_box = (boxes != PADDING_COORDINATE).any(dim=-1, keepdim=True)
            validity.append(has_box.expand(-1, 2))
        padded = self._padded(has_points, has_box)
        if padded is not None:
            tokens.append(self._look_up(self.not_a_point_embed, padded.device).expand(num_objects, 1, -1))
            validity.append(padded)
        dense = self._no_mask(num_objects, size, image_embedding.device)
        if masks is not None:
            has_mask = ~masks.isnan().flatten(1).all(dim=1)[:, None, None, None]
            dense = torch.where(has_mask, self._embed_masks(masks.nan_to_num(nan=0.0), size), dense)
        if not tokens:
            return PromptEmbeddings(None, dense, None)
        return PromptEmbeddings(torch.cat(tokens, dim=1), dense, torch.cat(validity, dim=1))
