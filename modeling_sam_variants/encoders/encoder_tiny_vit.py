"""TinyViT, the image encoder of MobileSAM."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2CLS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.encoders.encoder_base import ImageEncoderBase
from sam_variants.encoders.neck import build_neck
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.tiny_vit_attention import BasicLayer, TinyViTBlock
from sam_variants.layers.tiny_vit_convolutions import (
    ConvLayer,
    MBConv,
    PatchMerging,
    TinyPatchEmbed,
    map_to_tokens,
    tokens_to_map,
)
from sam_variants.outputs import ImageEncoderOutput


class TinyViTConvolutionalLayer(GradientCheckpointingLayer, MBConv):
    """An `MBConv` that can be recomputed in the backward pass."""


class TinyViTTransformerLayer(GradientCheckpointingLayer, TinyViTBlock):
    """A `TinyViTBlock` that can be recomputed in the backward pass."""


class TinyViT(ImageEncoderBase):
    """TinyViT with SAM's neck (Wu et al., 2022; MobileSAM, Zhang et al., 2023), with the published parameter names.

    Takes any image whose sides are multiples of the stride, not only squares.

    Args:
        config: its sizes; the defaults are MobileSAM's.
    """

    config: TinyViTConfig
    _no_split_modules = ["TinyViTConvolutionalLayer", "TinyViTTransformerLayer"]
    _can_record_outputs = {"attentions": OutputRecorder(AttentionCore, index=1)}

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__(config)
        activation: Any = nn.GELU if config.hidden_act == "gelu" else ACT2CLS[config.hidden_act]
        self.patch_embed = TinyPatchEmbed(config.in_chans, config.embed_dims[0], config.image_size, activation)
        self.layers: Any = self._build_stages(config, activation)
        width = config.embed_dims[-1]
        # The published weights carry the classifier that TinyViT was pretrained with; the embedding does not use it.
        self.norm_head = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.num_classes else nn.Identity()
        self.head = nn.Linear(width, config.num_classes) if config.num_classes else nn.Identity()
        self.neck = build_neck(width, config.out_chans)
        self.post_init()
        self.set_layer_lr_decay(config.layer_lr_decay)

    @staticmethod
    def _build_stages(config: TinyViTConfig, activation: type[nn.Module]) -> nn.ModuleList:
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        side = config.image_size // 4
        strides = config.strides or ()
        stages = nn.ModuleList()
        for index, (width, depth) in enumerate(zip(config.embed_dims, config.depths, strict=True)):
            first = sum(config.depths[:index])
            has_next = index + 1 < config.num_stages
            shared: dict[str, Any] = {
                "dim": width,
                "input_resolution": (side, side),
                "depth": depth,
                "drop_path": rates[first : first + depth],
                "downsample": PatchMerging if has_next else None,
                "out_dim": config.embed_dims[index + 1] if has_next else None,
                "downsample_stride": strides[index] if has_next else None,
                "activation": activation,
            }
            if index == 0:
                stage: nn.Module = ConvLayer(
                    conv_expand_ratio=config.mbconv_expand_ratio, block_class=TinyViTConvolutionalLayer, **shared
                )
            else:
                stage = BasicLayer(
                    num_heads=config.num_heads[index],
                    window_size=config.window_sizes[index],
                    mlp_ratio=config.mlp_ratio,
                    drop=config.drop_rate,
                    local_conv_size=config.local_conv_size,
                    layer_norm_eps=config.layer_norm_eps,
                    block_class=TinyViTTransformerLayer,
                    **shared,
                )
            stages.append(stage)
            side = (side - 1) // strides[index] + 1 if has_next else side
        return stages

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    def set_imgsz(self, imgsz: tuple[int, int]) -> None:
        """Re-target every stage's `input_resolution` to images of (height, width) pixels.

        Raises:
            ValueError: when a side is no positive multiple of the stride.
        """
        if any(side <= 0 or side % self.config.stride for side in imgsz):
            raise ValueError(f"imgsz={tuple(imgsz)} must hold positive multiples of the stride {self.config.stride}")
        size = (imgsz[0] // 4, imgsz[1] // 4)
        self.patch_embed.patches_resolution = size
        for stage in self.layers:
            for module in (stage, stage.downsample, *stage.blocks):
                if hasattr(module, "input_resolution"):
                    module.input_resolution = size
            size = size if stage.downsample is None else stage.downsample.output_size(size)

    def no_weight_decay_keywords(self) -> set[str]:
        """Parameters that training should not decay, by a part of their name."""
        return {"attention_biases"}

    def set_layer_lr_decay(self, layer_lr_decay: float) -> None:
        """Give every parameter of layer i out of n the attribute `lr_scale` = layer_lr_decay^(n−1−i)."""
        depth = sum(self.config.depths)
        scales = [layer_lr_decay ** (depth - 1 - index) for index in range(depth)]

        def mark(module: nn.Module | None, scale: float) -> None:
            for parameter in module.parameters() if module is not None else ():
                parameter.lr_scale = scale  # type: ignore[attr-defined]

        mark(self.patch_embed, scales[0])
        index = 0
        for stage in self.layers:
            for block in stage.blocks:
                mark(block, scales[index])
                index += 1
            mark(stage.downsample, scales[index - 1])
        for module in (self.norm_head, self.head, self.neck):
            mark(module, scales[-1])

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        frame_size: tuple[int, int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageEncoderOutput:
        """Encode images.

        Args:
            pixel_values: B×in_chans×H×W, normalised; both sides multiples of the stride.
            frame_size: (height, width) of a padded image that these are the upper left part of; changes nothing,
                because TinyViT has no positions in the image.
            output_hidden_states: also return the maps behind the patch embedding and behind every stage.

        Returns:
            `ImageEncoderOutput` with B×out_chans×H/stride×W/stride.

        Raises:
            ValueError: for a wrong shape.
        """
        output_hidden_states = kwargs.get("output_hidden_states")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        pixel_values = self.check_pixel_values(pixel_values, frame_size)
        x = self.patch_embed(pixel_values.contiguous(memory_format=torch.channels_last))
        maps = [x] if output_hidden_states else []
        skips: list[Tensor] = []
        size = (x.shape[2], x.shape[3])
        for index, stage in enumerate(self.layers):
            x = stage.forward_blocks(x) if index == 0 else stage.forward_blocks(x, size)
            if self.config.use_high_resolution_features and index < 2:
                skips.append(x if x.ndim == 4 else tokens_to_map(x, size))
            if stage.downsample is not None:
                x = stage.downsample(x, size)
                size = stage.downsample.output_size(size)
            elif x.ndim == 4:
                x = map_to_tokens(x)
            if output_hidden_states:
                maps.append(tokens_to_map(x, size))
                x = map_to_tokens(maps[-1])  # by way of the returned map, so that it can retain a gradient
        return ImageEncoderOutput(
            last_hidden_state=self.neck(tokens_to_map(x, size)),
            high_resolution_features=tuple(skips) or None,
            hidden_states=tuple(maps) if output_hidden_states else None,
        )
