"""Configuration of the SAM image encoder (ViT-B/L/H)."""

from typing import Any

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig

POS_EMBED_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")


@strict
class ImageEncoderViTConfig(ImageEncoderConfig):
    """Configuration of `ImageEncoderViT`; the defaults are SAM ViT-B.

    Args:
        patch_size: side of a patch in pixels; also the stride.
        embed_dim: width of the transformer.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden width of the MLP over `embed_dim`.
        qkv_bias: bias of the qkv projection.
        use_abs_pos: learned absolute positions, one per patch of a square of `image_size`.
        pos_embed_interpolation: how they are resized for inputs of another size, "bicubic", "bilinear" or "nearest"
            (the published code has no other sizes).
        use_rel_pos: decomposed relative positions in every attention.
        rel_pos_zero_init: start the relative positions at zero.
        window_size: side of the attention windows in patches; 0 makes every block global.
        global_attn_indexes: blocks with global attention.
        hidden_act: activation of the MLP.
        layer_norm_eps: epsilon of the layer norms.
    """

    model_type = "sam_variants_vit"
    attribute_map = {"hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_attention_heads": "num_heads"}

    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    use_abs_pos: bool = True
    pos_embed_interpolation: str = "bicubic"
    use_rel_pos: bool = True
    rel_pos_zero_init: bool = True
    window_size: int = 14
    global_attn_indexes: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} must be a multiple of num_heads={self.num_heads}")
        if self.pos_embed_interpolation not in POS_EMBED_INTERPOLATIONS:
            raise ValueError(
                f"pos_embed_interpolation={self.pos_embed_interpolation!r} must be one of {POS_EMBED_INTERPOLATIONS}"
            )
        super().__post_init__(**kwargs)

    @property
    def stride(self) -> int:
        return self.patch_size
