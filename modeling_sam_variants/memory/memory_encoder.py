"""Memory encoder: a frame's image embedding and a mask become what is remembered of an object."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2CLS

from sam_variants.configuration.configuration_memory import MemoryEncoderConfig
from sam_variants.layers.cx_block import CXBlock
from sam_variants.layers.fuser import Fuser
from sam_variants.layers.mask_down_sampler import MaskDownSampler
from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine
from sam_variants.outputs import MemoryEncoderOutput
from sam_variants.pretrained_part import PretrainedPart, other_parts


class MemoryEncoder(PretrainedPart):
    """Fuses the image embedding with a mask into a memory (Ravi et al., 2024), with SAM 2's parameter names.

    Different from SAM 2's `MemoryEncoder`: one frame can serve the masks of many objects.

    Args:
        config: its sizes; the defaults are SAM 2's.
    """

    config: MemoryEncoderConfig
    base_model_prefix = "memory_encoder"
    main_input_name = "pix_feat"
    supports_gradient_checkpointing = False
    _no_split_modules = ["CXBlock"]
    _keys_to_ignore_on_load_unexpected = other_parts("memory_encoder")

    def __init__(self, config: MemoryEncoderConfig) -> None:
        super().__init__(config)
        activation: Any = ACT2CLS[config.hidden_act]
        self.mask_downsampler = MaskDownSampler(
            config.in_dim,
            config.mask_downsampler_kernel_size,
            config.mask_downsampler_stride,
            config.mask_downsampler_padding,
            config.mask_downsampler_total_stride,
            activation,
        )
        self.pix_feat_proj = nn.Conv2d(config.in_dim, config.in_dim, kernel_size=1)
        block = CXBlock(
            config.in_dim,
            config.fuser_kernel_size,
            config.fuser_padding,
            layer_scale_init_value=config.layer_scale_init_value,
        )
        self.fuser = Fuser(block, config.fuser_num_layers)
        self.position_encoding = PositionEmbeddingSine(config.position_channels)
        same_width = config.out_dim == config.in_dim
        self.out_proj = nn.Identity() if same_width else nn.Conv2d(config.in_dim, config.out_dim, kernel_size=1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CXBlock) and module.gamma is not None:
            init.constant_(module.gamma, self.config.layer_scale_init_value)

    def forward(self, pix_feat: Tensor, masks: Tensor, skip_mask_sigmoid: bool = False) -> MemoryEncoderOutput:
        """Make memories of P objects on a frame.

        Args:
            pix_feat: image embedding P×in_dim×h×w, or 1×in_dim×h×w for all objects.
            masks: P×1×H×W, logits or values that are taken as they are; H and W are h and w times
                `config.mask_downsampler_total_stride`.
            skip_mask_sigmoid: take `masks` as they are, instead of the sigmoid of logits.

        Returns:
            `MemoryEncoderOutput`.

        Raises:
            ValueError: for a wrong shape.
        """
        self._check_shapes(pix_feat, masks)
        if not skip_mask_sigmoid:
            masks = masks.sigmoid()
        fused = self.pix_feat_proj(pix_feat) + self.mask_downsampler(masks.to(pix_feat.dtype))
        features = self.out_proj(self.fuser(fused))
        return MemoryEncoderOutput(memory_features=features, memory_position=self.position_encoding(features))

    def _check_shapes(self, pix_feat: Tensor, masks: Tensor) -> None:
        channels, stride = self.config.in_dim, self.config.mask_downsampler_total_stride
        if pix_feat.ndim != 4 or pix_feat.shape[1] != channels:
            raise ValueError(f"pix_feat has shape {tuple(pix_feat.shape)}, expected objects×{channels}×height×width")
        size = (stride * pix_feat.shape[2], stride * pix_feat.shape[3])
        if masks.ndim != 4 or tuple(masks.shape[1:]) != (1, *size):
            raise ValueError(
                f"masks has shape {tuple(masks.shape)}, expected objects×1×{size[0]}×{size[1]}: {stride} times the "
                "size of pix_feat"
            )
        if pix_feat.shape[0] not in (1, masks.shape[0]):
            raise ValueError(
                f"pix_feat is for {pix_feat.shape[0]} objects and masks for {masks.shape[0]}: they must be equal, or "
                "pix_feat for 1"
            )
