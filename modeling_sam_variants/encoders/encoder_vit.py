"""The plain ViT of Segment Anything (ViT-B, ViT-L, ViT-H)."""

from functools import partial
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2CLS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.encoders.encoder_base import ImageEncoderBase
from sam_variants.encoders.neck import build_neck
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.patch_embed import PatchEmbed
from sam_variants.layers.re_attention import REAttention
from sam_variants.layers.vit_block import Block
from sam_variants.outputs import ImageEncoderOutput


class ViTLayer(GradientCheckpointingLayer, Block):
    """A `Block` that can be recomputed in the backward pass."""


class ImageEncoderViT(ImageEncoderBase):
    """SAM's ViT with windowed and global attention (Kirillov et al., 2023), with the published parameter names.

    Takes any image whose sides are multiples of the patch size, not only squares of `config.image_size`. For another
    size the absolute positions are resized as `config.pos_embed_interpolation` says, and the relative positions of
    the global blocks linearly; the parameters keep the shapes of `config.image_size`.

    Args:
        config: its sizes; the defaults are SAM ViT-B's.
    """

    config: ImageEncoderViTConfig
    _no_split_modules = ["ViTLayer"]
    _can_record_outputs = {"attentions": OutputRecorder(AttentionCore, index=1)}

    def __init__(self, config: ImageEncoderViTConfig) -> None:
        super().__init__(config)
        width, patch = config.embed_dim, (config.patch_size, config.patch_size)
        activation: Any = nn.GELU if config.hidden_act == "gelu" else ACT2CLS[config.hidden_act]
        side = config.image_size // config.patch_size
        self.patch_embed = PatchEmbed(patch, patch, in_chans=config.in_chans, embed_dim=width)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, width)) if config.use_abs_pos else None
        self.blocks = nn.ModuleList(
            ViTLayer(
                width,
                config.num_heads,
                config.mlp_ratio,
                config.qkv_bias,
                norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
                act_layer=activation,
                use_rel_pos=config.use_rel_pos,
                rel_pos_zero_init=config.rel_pos_zero_init,
                window_size=0 if index in config.global_attn_indexes else config.window_size,
                input_size=(side, side),
            )
            for index in range(config.depth)
        )
        self.neck = build_neck(width, config.out_chans)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ImageEncoderViT) and module.pos_embed is not None:
            init.zeros_(module.pos_embed)
        elif isinstance(module, REAttention) and module.use_rel_pos:
            for table in (module.rel_pos_h, module.rel_pos_w):
                if self.config.rel_pos_zero_init:
                    init.zeros_(table)
                else:
                    init.trunc_normal_(table, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    def _position_embedding(self, position: Tensor, size: tuple[int, int]) -> Tensor:
        """The absolute positions, 1×side×side×C, for a map of `size`: 1×h×w×C."""
        if tuple(position.shape[1:3]) == size:
            return position
        mode = self.config.pos_embed_interpolation
        align_corners = None if mode == "nearest" else False
        resized = F.interpolate(position.permute(0, 3, 1, 2).float(), size, mode=mode, align_corners=align_corners)
        return resized.permute(0, 2, 3, 1).to(position.dtype)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        frame_size: tuple[int, int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageEncoderOutput:
        """Encode images.

        Args:
            pixel_values: B×in_chans×H×W, normalised; both sides multiples of the patch size.
            frame_size: (height, width) of a padded image that these are the upper left part of; its positions are
                taken, absolute and relative.
            output_hidden_states: also return the maps, B×embed_dim×h×w, before the first block and behind every block.

        Returns:
            `ImageEncoderOutput` with B×out_chans×H/patch_size×W/patch_size.

        Raises:
            ValueError: for a wrong shape.
        """
        output_hidden_states = kwargs.get("output_hidden_states")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        tokens_bhwc = self.patch_embed(self.check_pixel_values(pixel_values, frame_size))
        frame = height, width = (tokens_bhwc.shape[1], tokens_bhwc.shape[2])
        if frame_size is not None:
            frame = (frame_size[0] // self.config.patch_size, frame_size[1] // self.config.patch_size)
        if self.pos_embed is not None:
            tokens_bhwc = tokens_bhwc + self._position_embedding(self.pos_embed, frame)[:, :height, :width]
        # The maps that are returned lie on the way to the result, so that they can retain a gradient.
        x_bchw = tokens_bhwc.permute(0, 3, 1, 2)
        maps = [x_bchw] if output_hidden_states else []
        for block in self.blocks:
            x_bchw = block(x_bchw.permute(0, 2, 3, 1), frame).permute(0, 3, 1, 2)
            if output_hidden_states:
                maps.append(x_bchw)
        return ImageEncoderOutput(
            last_hidden_state=self.neck(x_bchw),
            hidden_states=tuple(maps) if output_hidden_states else None,
        )
