"""transformers' side of the benchmark `everything`: its processor, and its decoder behind our image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import SamConfig, SamImageProcessorPil, SamModel
from transformers.models.sam.image_processing_pil_sam import _rle_to_mask

from sam_variants.checkpoint_layouts.layout_transformers_sam import (
    TRANSFORMERS_SAM,
    prompts_and_decoder_to_transformers,
)
from sam_variants.checkpoint_layouts.renames import RenameTable
from sam_variants.mask_generation.nms import nms
from sam_variants.modeling_sam_variants import SamVariantsModel

ENCODER = "vision_encoder."
# What projects the encoder's maps for the decoder's skip connections: `get_image_embeddings` of ours has done it.
SKIP_PROJECTIONS = ("mask_decoder.conv_s0.", "mask_decoder.conv_s1.")


class TorchvisionFreeProcessor(SamImageProcessorPil):
    """transformers' image processor with our non-maximum suppression, because theirs needs torchvision."""

    def post_process_for_mask_generation(
        self, all_masks: Any, all_scores: Tensor, all_boxes: Tensor, crops_nms_thresh: float
    ) -> tuple[list[np.ndarray], Tensor, list[Any], Tensor]:
        """As theirs: decoded masks, scores, run-length codes and boxes of those that stay, best first."""
        kept = nms(all_boxes.float(), all_scores, crops_nms_thresh)
        codes = [all_masks[index] for index in kept]
        return [_rle_to_mask(code) for code in codes], all_scores[kept], codes, all_boxes[kept]


def their_processor(image_size: int) -> TorchvisionFreeProcessor:
    """transformers' image processor for a model input of so many pixels."""
    side = {"height": image_size, "width": image_size}
    return TorchvisionFreeProcessor(size={"longest_edge": image_size}, pad_size=side)


class OurEncoder(nn.Module):
    """An image encoder of ours in the place of transformers', with what hangs on it.

    Args:
        model: whose embeddings are given.
    """

    def __init__(self, model: SamVariantsModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, **_: Any) -> list[Tensor]:
        """The maps that the decoder takes, finest first, the embedding last."""
        maps = self.model.get_image_embeddings(pixel_values)
        return [maps] if isinstance(maps, Tensor) else list(maps)


class SkippedInto(nn.Module):
    """A step of upscaling to which a finer map is added, as SAM 2's decoder does.

    Args:
        step: the step itself.
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step
        self.finer_map: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """N×C×h×w → N×C'×2h×2w."""
        x = self.step(x)
        return x if self.finer_map is None else x + self.finer_map


class SamModelOnOurEncoder(SamModel):
    """transformers' `SamModel` whose image encoder is ours, so that a model that it does not have can be compared.

    Prompt encoder and decoder compute what they always do; maps for skip connections are added between their steps.

    Args:
        config: of prompt encoder and decoder.
        ours: the model whose weights and image encoder these are.
    """

    def __init__(self, config: SamConfig, ours: SamVariantsModel) -> None:
        super().__init__(config)
        rows = [row for row in TRANSFORMERS_SAM.rows if not getattr(row, "theirs", "").startswith(ENCODER)]
        weights = {
            name: tensor
            for name, tensor in ours.state_dict().items()
            if name.startswith(("prompt_encoder.", "mask_decoder.")) and not name.startswith(SKIP_PROJECTIONS)
        }
        found = self.load_state_dict(RenameTable("SamModel without encoder", rows).to_theirs(weights), strict=False)
        lacking = [name for name in found.missing_keys if not name.startswith(ENCODER)]
        if lacking or found.unexpected_keys:
            raise ValueError(f"SamModel lacks {lacking} and has no place for {found.unexpected_keys}")
        self.vision_encoder: Any = OurEncoder(ours)
        decoder: Any = self.mask_decoder
        decoder.upscale_conv1, decoder.upscale_conv2 = map(SkippedInto, (decoder.upscale_conv1, decoder.upscale_conv2))

    def get_image_embeddings(self, pixel_values: Tensor, **kwargs: Any) -> list[Tensor]:
        """All maps of the encoder, to be passed on as `image_embeddings`."""
        return self.vision_encoder(pixel_values, **kwargs)

    def forward(self, image_embeddings: Tensor | Sequence[Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """As theirs, with the maps of `get_image_embeddings`, ours or this one's."""
        *finer_maps, embedding = [image_embeddings] if isinstance(image_embeddings, Tensor) else image_embeddings
        decoder: Any = self.mask_decoder
        for step, finer_map in zip((decoder.upscale_conv2, decoder.upscale_conv1), finer_maps, strict=False):
            step.finer_map = finer_map
        return super().forward(image_embeddings=embedding, **kwargs)


def transformers_twin(ours: SamVariantsModel) -> SamModelOnOurEncoder:
    """transformers' prompt encoder and decoder with the weights of one of our models, behind its image encoder.

    Raises:
        ValueError: for a model that has what SAM's decoder hasn't, skip connections aside.
    """
    config: Any = ours.config
    prompts, decoder = config.prompt_encoder_config, config.mask_decoder_config
    if decoder.pred_obj_scores or decoder.sam2_transformer or decoder.iou_prediction_use_sigmoid:
        raise ValueError("transformers' SamModel has no place for the weights of a SAM 2 decoder")
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_dim": 8}
    return SamModelOnOurEncoder(
        SamConfig(
            vision_config=tiny | {"num_pos_feats": prompts.embed_dim // 2, "output_channels": 8, "image_size": 64},
            **prompts_and_decoder_to_transformers(config),
        ),
        ours,
    ).eval()
