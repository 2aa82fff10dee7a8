"""Configuration of SAM 2's image encoder: Hiera trunk and FPN neck."""

from itertools import accumulate
from typing import Any

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig

FPN_INTERPOLATIONS = ("nearest", "bilinear")
FUSE_TYPES = ("sum", "avg")


@strict
class HieraConfig(ImageEncoderConfig):
    """Configuration of `ImageEncoder`; the defaults are SAM 2's base-plus layout with a width of 96.

    Args:
        embed_dim: width of stage 0.
        num_heads: attention heads of stage 0.
        drop_path_rate: stochastic depth of the last block; earlier blocks get proportionally less.
        q_pool: number of stages, from stage 1 on, whose first block pools its queries. Every stage must halve the map
            of the one before it, because the neck doubles its maps.
        q_stride: factors of that pooling.
        stages: blocks per stage.
        dim_mul: factor of the width from stage to stage.
        head_mul: factor of the number of heads.
        mlp_ratio: hidden width of the MLP over the stage's width.
        window_pos_embed_bkg_spatial_size: size of the learned positions that are stretched over the whole map.
        window_spec: side of the attention windows per stage; the first block of a stage has the window of the stage
            before. The learned positions inside a window have the side of the first.
        global_att_blocks: blocks with global attention, counted over all stages.
        fpn_interp_model: how the neck doubles a map, "nearest" or "bilinear".
        fuse_type: what it does with the doubled and the finer map, "sum" or "avg".
        fpn_top_down_levels: levels, finest first, that take in the coarser one; None for all.
        scalp: number of coarsest levels that are computed and then left out. Three must remain, with strides 4, 8, 16.
        hidden_act: activation of the MLPs.
        layer_norm_eps: epsilon of the layer norms.
    """

    model_type = "sam_variants_hiera"
    attribute_map = {"num_attention_heads": "num_heads"}

    embed_dim: int = 96
    num_heads: int = 1
    drop_path_rate: float | int = 0.0
    q_pool: int = 3
    q_stride: list[int] | tuple[int, ...] = (2, 2)
    stages: list[int] | tuple[int, ...] = (2, 3, 16, 3)
    dim_mul: float | int = 2.0
    head_mul: float | int = 2.0
    mlp_ratio: float | int = 4.0
    window_pos_embed_bkg_spatial_size: list[int] | tuple[int, ...] = (14, 14)
    window_spec: list[int] | tuple[int, ...] = (8, 4, 14, 7)
    global_att_blocks: list[int] | tuple[int, ...] = (12, 16, 20)
    fpn_interp_model: str = "nearest"
    fuse_type: str = "sum"
    fpn_top_down_levels: list[int] | tuple[int, ...] | None = (2, 3)
    scalp: int = 1
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_stages()
        self._check_windows()
        self._check_neck()
        if self.image_size <= 0 or self.image_size % self.stride:
            raise ValueError(f"image_size={self.image_size} must be a positive multiple of the stride {self.stride}")
        super().__post_init__(**kwargs)

    def _check_stages(self) -> None:
        if not self.stages or min(self.stages) < 1:
            raise ValueError(f"stages={self.stages} must hold a positive number of blocks for every stage")
        if self.q_pool != len(self.stages) - 1 or list(self.q_stride) != [2, 2]:
            raise ValueError(
                f"q_pool={self.q_pool} and q_stride={self.q_stride} must be {len(self.stages) - 1} and (2, 2): every "
                f"one of the {len(self.stages)} stages halves the map of the one before it"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={self.drop_path_rate} must be at least 0 and below 1")
        heads = self.num_heads
        for width in self.backbone_channel_list[::-1]:
            if heads < 1 or width % heads:
                raise ValueError(
                    f"num_heads={self.num_heads} with head_mul={self.head_mul} gives a stage of width {width} "
                    f"{heads} heads, which must divide it"
                )
            heads = int(heads * self.head_mul)

    def _check_windows(self) -> None:
        size = self.window_pos_embed_bkg_spatial_size
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"window_pos_embed_bkg_spatial_size={size} must hold a positive height and width")
        if len(self.window_spec) != len(self.stages) or min(self.window_spec) < 1:
            raise ValueError(f"window_spec={self.window_spec} must hold one side for each of {len(self.stages)} stages")
        if any(side % self.q_stride[0] for side in self.window_spec[:-1]):
            raise ValueError(
                f"window_spec={self.window_spec}: all but the last are pooled and must be multiples of "
                f"{self.q_stride[0]}"
            )
        depth, pooling = self.num_hidden_layers, set(accumulate(self.stages[:-1]))
        if not set(self.global_att_blocks) <= set(range(depth)) - pooling:
            raise ValueError(
                f"global_att_blocks={self.global_att_blocks} must name blocks from 0 to {depth - 1}, without "
                f"{sorted(pooling)}, which pool their queries and are windowed"
            )

    def _check_neck(self) -> None:
        levels = len(self.stages)
        if self.scalp < 0 or levels - self.scalp != 3:
            raise ValueError(f"scalp={self.scalp} must leave three of the {levels} levels")
        if self.fpn_interp_model not in FPN_INTERPOLATIONS:
            raise ValueError(f"fpn_interp_model={self.fpn_interp_model!r} must be one of {FPN_INTERPOLATIONS}")
        if self.fuse_type not in FUSE_TYPES:
            raise ValueError(f"fuse_type={self.fuse_type!r} must be one of {FUSE_TYPES}")
        if not set(self.fpn_top_down_levels or ()) <= set(range(levels)):
            raise ValueError(
                f"fpn_top_down_levels={self.fpn_top_down_levels} must name levels from 0 to {levels - 1}, or be None"
            )

    @property
    def num_hidden_layers(self) -> int:
        return sum(self.stages)

    @property
    def hidden_size(self) -> int:
        return self.backbone_channel_list[0]

    @property
    def backbone_channel_list(self) -> list[int]:
        """Widths of the stages, coarsest first."""
        widths = [self.embed_dim]
        for _ in self.stages[1:]:
            widths.append(int(widths[-1] * self.dim_mul))
        return widths[::-1]

    @property
    def stride(self) -> int:
        return 16

    @property
    def pads_images(self) -> bool:
        return False

    @property
    def high_resolution_channels(self) -> tuple[int, int]:
        return (self.out_chans, self.out_chans)
