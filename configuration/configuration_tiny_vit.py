"""Configuration of TinyViT, the image encoder of MobileSAM."""

from typing import Any

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig

# The published code gives the depthwise convolution of PatchMerging stride 1 for these widths, and 2 for all others.
STRIDE_ONE_WIDTHS = (320, 448, 576)


@strict
class TinyViTConfig(ImageEncoderConfig):
    """Configuration of `TinyViT`; the defaults are MobileSAM's encoder.

    Args:
        num_classes: width of the unused classifier that the published weights carry; 0 leaves it out.
        embed_dims, depths, num_heads, window_sizes: one value per stage; stage 0 is convolutional and ignores its
            number of heads and its window.
        strides: stride of the downsampling behind stages 0, 1, … (one fewer than stages). None reproduces the
            published rule: 1 where the next stage is 320, 448 or 576 wide, else 2.
        mlp_ratio: hidden width of the MLP over the stage's width.
        drop_rate: dropout in the MLPs.
        drop_path_rate: stochastic depth of the last block; earlier blocks get proportionally less.
        mbconv_expand_ratio: expansion of the convolutional blocks of stage 0.
        local_conv_size: kernel of the depthwise convolution inside every transformer block.
        layer_lr_decay: learning-rate factor from one layer to the one before it.
        use_high_resolution_features: also return the maps of stages 0 and 1 for a decoder with skip connections.
        hidden_act: activation of convolutional blocks and MLPs.
        layer_norm_eps: epsilon of the layer norms in the blocks (the neck has 1e-6).
    """

    model_type = "sam_variants_tiny_vit"
    attribute_map = {"num_hidden_layers": "num_stages"}

    num_classes: int = 1000
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 7, 14, 7)
    strides: list[int] | tuple[int, ...] | None = None
    mlp_ratio: float | int = 4.0
    drop_rate: float | int = 0.0
    drop_path_rate: float | int = 0.0
    mbconv_expand_ratio: float | int = 4.0
    local_conv_size: int = 3
    layer_lr_decay: float | int = 0.8
    use_high_resolution_features: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-5

    def __post_init__(self, **kwargs: Any) -> None:
        stages = len(self.embed_dims)
        for name in ("depths", "num_heads", "window_sizes"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name}={getattr(self, name)} must have one value for each of the {stages} stages")
        if self.strides is None:
            self.strides = [1 if width in STRIDE_ONE_WIDTHS else 2 for width in self.embed_dims[1:]]
        if len(self.strides) != stages - 1 or not set(self.strides) <= {1, 2}:
            raise ValueError(f"strides={self.strides} must hold {stages - 1} values, each 1 or 2")
        for width, heads in list(zip(self.embed_dims, self.num_heads, strict=True))[1:]:
            if width % heads:
                raise ValueError(f"embed_dims={self.embed_dims} must be multiples of num_heads={self.num_heads}")
        if self.image_size % self.stride:
            raise ValueError(f"image_size={self.image_size} must be a multiple of the stride {self.stride}")
        if self.use_high_resolution_features and self.stride != 16:
            raise ValueError(
                f"use_high_resolution_features needs a stride of 16, strides={self.strides} give {self.stride}"
            )
        super().__post_init__(**kwargs)

    @property
    def num_stages(self) -> int:
        return len(self.embed_dims)

    @property
    def hidden_size(self) -> int:
        return self.embed_dims[-1]

    @property
    def stride(self) -> int:
        stride = 4
        for factor in self.strides or ():
            stride *= factor
        return stride

    @property
    def high_resolution_channels(self) -> tuple[int, int] | None:
        return (self.embed_dims[0], self.embed_dims[1]) if self.use_high_resolution_features else None
