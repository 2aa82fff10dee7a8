"""The image encoder of SAM 2 and 2.1: Hiera with a feature pyramid."""

from functools import partial
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2CLS
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.encoders.encoder_base import ImageEncoderBase
from sam_variants.encoders.fpn_neck import FpnNeck
from sam_variants.encoders.hiera import Hiera
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.outputs import ImageEncoderOutput


class ImageEncoder(ImageEncoderBase):
    """SAM 2's image encoder (Ravi et al., 2024), with the published parameter names.

    Takes any image whose sides are multiples of 16, the original of 32: others are padded with zeros on the right and
    at the bottom for the coarsest level, and the padding is cut off the result. Position encodings of the levels are
    not computed here.

    Args:
        config: its sizes; `config_for("sam2.1-hiera-tiny")` and its relatives hold the published ones.
    """

    config: HieraConfig
    _no_split_modules = ["HieraLayer"]
    _can_record_outputs = {"attentions": OutputRecorder(AttentionCore, index=1)}

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        activation: Any = nn.GELU if config.hidden_act == "gelu" else ACT2CLS[config.hidden_act]
        self.trunk = Hiera(
            config.embed_dim,
            config.num_heads,
            config.drop_path_rate,
            config.q_pool,
            (config.q_stride[0], config.q_stride[1]),
            config.stages,
            config.dim_mul,
            config.head_mul,
            config.window_pos_embed_bkg_spatial_size,
            config.window_spec,
            config.global_att_blocks,
            in_chans=config.in_chans,
            mlp_ratio=config.mlp_ratio,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
            act_layer=activation,
        )
        self.neck = FpnNeck(
            config.out_chans,
            config.backbone_channel_list,
            fpn_interp_model=config.fpn_interp_model,
            fuse_type=config.fuse_type,
            fpn_top_down_levels=config.fpn_top_down_levels,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Hiera):
            init.zeros_(module.pos_embed)
            init.zeros_(module.pos_embed_window)

    def get_input_embeddings(self) -> nn.Module:
        return self.trunk.patch_embed

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        frame_size: tuple[int, int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageEncoderOutput:
        """Encode images.

        Args:
            pixel_values: B×in_chans×H×W, normalised; both sides multiples of 16.
            frame_size: (height, width) of a padded image that these are the upper left part of; its positions are
                taken.
            output_hidden_states: also return the maps, B×C×h×w, before the first block and behind every block (of the
                padded image where a side is no multiple of 32).

        Returns:
            `ImageEncoderOutput` with the coarsest kept level, B×out_chans×H/16×W/16, and as `high_resolution_features`
            the finer ones at H/4 and H/8, finest first, with as many channels.

        Raises:
            ValueError: for a wrong shape.
        """
        output_hidden_states = kwargs.get("output_hidden_states")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        pixel_values = self.check_pixel_values(pixel_values, frame_size)
        height, width = pixel_values.shape[2], pixel_values.shape[3]
        coarsest_stride = self.config.stride * 2**self.config.scalp
        if height % coarsest_stride or width % coarsest_stride:
            pixel_values = F.pad(pixel_values, (0, -width % coarsest_stride, 0, -height % coarsest_stride))
        maps: list[Tensor] | None = [] if output_hidden_states else None
        if frame_size is not None:  # padded like the images
            frame_size = (
                frame_size[0] + -frame_size[0] % coarsest_stride,
                frame_size[1] + -frame_size[1] % coarsest_stride,
            )
        levels, _ = self.neck(self.trunk(pixel_values, maps, frame_size), encode_positions=False)
        kept = levels[: len(levels) - self.config.scalp]
        kept = [
            level[:, :, : height // stride, : width // stride] for level, stride in zip(kept, (4, 8, 16), strict=True)
        ]
        return ImageEncoderOutput(
            last_hidden_state=kept[-1],
            high_resolution_features=tuple(kept[:-1]),
            hidden_states=None if maps is None else tuple(maps),
        )
