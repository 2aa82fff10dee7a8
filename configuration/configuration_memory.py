"""Configuration of what SAM 2 remembers frames with: memory encoder and memory attention."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sam_variants.configuration.configuration_base import FamilyConfig


def _check_positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")


@strict
class MemoryEncoderConfig(FamilyConfig):
    """Configuration of `MemoryEncoder`; the defaults are those of every SAM 2 and 2.1.

    Args:
        in_dim: channels of the image embedding.
        out_dim: channels of a memory.
        num_pos_feats: channels of the memory's position encoding; None for `out_dim`, which memory attention needs.
        mask_downsampler_kernel_size, mask_downsampler_stride, mask_downsampler_padding: the convolutions that bring
            the mask to the size of the image embedding.
        mask_downsampler_total_stride: mask cells per cell of the image embedding, a power of the stride.
        fuser_num_layers: ConvNeXt blocks behind the sum of image and mask.
        fuser_kernel_size, fuser_padding: their depthwise convolution; the padding must keep the size.
        layer_scale_init_value: start value of their layer scale; there is none when ≤ 0.
        hidden_act: activation of the mask's convolutions.
        initializer_range: standard deviation of the normal initialisation.
    """

    base_config_key = "memory_encoder_config"
    model_type = "sam_variants_memory_encoder"
    attribute_map = {"hidden_size": "out_dim", "num_hidden_layers": "fuser_num_layers"}

    in_dim: int = 256
    out_dim: int = 64
    num_pos_feats: int | None = None
    mask_downsampler_kernel_size: int = 3
    mask_downsampler_stride: int = 2
    mask_downsampler_padding: int = 1
    mask_downsampler_total_stride: int = 16
    fuser_num_layers: int = 2
    fuser_kernel_size: int = 7
    fuser_padding: int = 3
    layer_scale_init_value: float | int = 1e-6
    hidden_act: str = "gelu"
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _check_positive(self, "in_dim", "out_dim", "mask_downsampler_kernel_size", "fuser_num_layers")
        channels = self.position_channels
        if channels < 4 or channels % 4:
            name = "out_dim" if self.num_pos_feats is None else "num_pos_feats"
            raise ValueError(
                f"{name}={channels} must be a positive multiple of 4: sines and cosines of rows and columns"
            )
        reached = self.mask_downsampler_stride
        while 1 < reached < self.mask_downsampler_total_stride:
            reached *= self.mask_downsampler_stride
        if self.mask_downsampler_stride < 2 or reached != self.mask_downsampler_total_stride:
            raise ValueError(
                f"mask_downsampler_total_stride={self.mask_downsampler_total_stride} must be a power of "
                f"mask_downsampler_stride={self.mask_downsampler_stride}, which must be at least 2"
            )
        kernel, stride = self.mask_downsampler_kernel_size, self.mask_downsampler_stride
        smallest, largest = max(0, (kernel - stride + 1) // 2), (kernel - 1) // 2
        if not smallest <= self.mask_downsampler_padding <= largest:
            raise ValueError(
                f"mask_downsampler_padding={self.mask_downsampler_padding} must be from {smallest} to {largest} for "
                f"mask_downsampler_kernel_size={kernel} and mask_downsampler_stride={stride}, so that sizes divide"
            )
        if self.fuser_kernel_size != 2 * self.fuser_padding + 1:
            raise ValueError(
                f"fuser_kernel_size={self.fuser_kernel_size} must be 2 * fuser_padding + 1 = "
                f"{2 * self.fuser_padding + 1}, so that the fuser keeps the size"
            )
        super().__post_init__(**kwargs)

    @property
    def position_channels(self) -> int:
        """Channels of the memory's position encoding."""
        return self.out_dim if self.num_pos_feats is None else self.num_pos_feats


@strict
class MemoryAttentionConfig(FamilyConfig):
    """Configuration of `MemoryAttention`; the defaults are those of every SAM 2 and 2.1.

    Args:
        d_model: channels of the image embedding.
        num_layers: layers, each with self-attention, attention to the memory and a feed-forward network.
        dim_feedforward: hidden width of the feed-forward network.
        kv_in_dim: channels of a memory.
        num_heads: attention heads.
        dropout: dropout on attention probabilities, in the feed-forward network and on every residual branch.
        activation: activation of the feed-forward network.
        rope_theta: base of the rotary frequencies.
        feat_sizes: width and height of the image embedding. Another number of tokens is taken as a square.
        pos_enc_at_input: add a tenth of the position encoding to the image embedding.
        pos_enc_at_attn: add it to queries and keys of the self-attention.
        pos_enc_at_cross_attn_keys: add the memory's position encoding to the keys of the attention to it.
        pos_enc_at_cross_attn_queries: add the image's to its queries.
        layer_norm_eps: epsilon of the layer norms.
        initializer_range: standard deviation of the normal initialisation.
    """

    base_config_key = "memory_attention_config"
    model_type = "sam_variants_memory_attention"
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "dim_feedforward",
        "hidden_act": "activation",
    }

    d_model: int = 256
    num_layers: int = 4
    dim_feedforward: int = 2048
    kv_in_dim: int = 64
    num_heads: int = 1
    dropout: float | int = 0.1
    activation: str = "relu"
    rope_theta: float | int = 10000.0
    feat_sizes: list[int] | tuple[int, ...] = (64, 64)
    pos_enc_at_input: bool = True
    pos_enc_at_attn: bool = False
    pos_enc_at_cross_attn_keys: bool = True
    pos_enc_at_cross_attn_queries: bool = False
    layer_norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _check_positive(self, "d_model", "num_layers", "dim_feedforward", "kv_in_dim", "num_heads")
        if self.d_model % (4 * self.num_heads):
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of 4 * num_heads={4 * self.num_heads}: a head turns "
                "pairs of channels by row and by column"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta={self.rope_theta} must be positive")
        if len(self.feat_sizes) != 2 or min(self.feat_sizes) < 1:
            raise ValueError(f"feat_sizes={self.feat_sizes} must be a positive width and height")
        super().__post_init__(**kwargs)
