"""Hiera, the hierarchical trunk of SAM 2's image encoder."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sam_variants.layers.multi_scale_block import HieraNorm, MultiScaleBlock
from sam_variants.layers.patch_embed import PatchEmbed
from sam_variants.layers.token_linear import is_plain_inference, is_unhooked

# Tokens that the windowed blocks of the first stages take at a time on a CPU, so that they stay in its caches.
BAND_TOKENS = 8192
PATCH_STRIDE = 4


class HieraLayer(GradientCheckpointingLayer, MultiScaleBlock):
    """A `MultiScaleBlock` that can be recomputed in the backward pass."""


class BlockPlan(NamedTuple):
    """What distinguishes one block of the trunk from the others; the names are `MultiScaleBlock`'s."""

    dim: int
    dim_out: int
    num_heads: int
    q_stride: tuple[int, int] | None
    window_size: int


def plan_blocks(
    embed_dim: int,
    num_heads: int,
    stages: Sequence[int],
    dim_mul: float,
    head_mul: float,
    window_spec: Sequence[int],
    global_att_blocks: Sequence[int],
    q_pool: int,
    q_stride: tuple[int, int],
) -> list[BlockPlan]:
    """The blocks of all stages; the first of a stage widens, pools, and has the window of the stage before."""
    plans: list[BlockPlan] = []
    width, heads = embed_dim, num_heads
    for stage, depth in enumerate(stages):
        for index in range(depth):
            width_in, changes = width, stage > 0 and index == 0
            if changes:
                width, heads = int(width * dim_mul), int(heads * head_mul)
            window = 0 if len(plans) in global_att_blocks else window_spec[stage - 1 if changes else stage]
            plans.append(BlockPlan(width_in, width, heads, q_stride if changes and stage <= q_pool else None, window))
    return plans


def count_nested_blocks(plans: Sequence[BlockPlan]) -> int:
    """How many blocks, from the first on, stay inside the windows of the first, pooled or not."""
    side = plans[0].window_size
    for index, plan in enumerate(plans):
        if plan.window_size == 0 or plan.window_size != side:
            return index
        side //= plan.q_stride[0] if plan.q_stride else 1
    return len(plans)


class Hiera(nn.Module):
    """Hiera (Ryali et al., 2023) with windowed and global attention, as in SAM 2's `Hiera`.

    The blocks before the first change of windows work inside windows that know nothing of each other. They run on the
    windows as if these were small images: the map is cut once, not in every block. On a CPU the map goes through them
    in bands of windows.

    Args:
        embed_dim: width of stage 0.
        num_heads: attention heads of stage 0.
        drop_path_rate: stochastic depth of the last block; earlier blocks get proportionally less.
        q_pool: number of stages, from stage 1 on, whose first block pools its queries.
        q_stride: factors of that pooling.
        stages: blocks per stage.
        dim_mul, head_mul: factors of width and heads from stage to stage.
        window_pos_embed_bkg_spatial_size: size of the learned positions that are stretched over the whole map.
        window_spec: side of the attention windows per stage; the first block of a stage has the window of the stage
            before. The learned positions inside a window have the side of the first.
        global_att_blocks: blocks with global attention.
        return_interm_layers: return the map of every stage, not only the last.
        in_chans: image channels.
        mlp_ratio: hidden width of the MLPs over the stage's width.
        norm_layer: makes a normalisation layer from the number of channels.
        act_layer: class of the activation of the MLPs.

    Raises:
        ValueError: as many windows as stages are not given, `q_pool` is no number of later stages, or a pooling block
            is global.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: tuple[int, int] = (2, 2),
        stages: Sequence[int] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: Sequence[int] = (14, 14),
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_att_blocks: Sequence[int] = (12, 16, 20),
        return_interm_layers: bool = True,
        in_chans: int = 3,
        mlp_ratio: float = 4.0,
        norm_layer: Callable[[int], nn.Module] = HieraNorm,
        act_layer: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        if len(window_spec) != len(stages):
            raise ValueError(f"window_spec={window_spec} must hold one side for each of the {len(stages)} stages")
        if not 0 <= q_pool < len(stages):
            raise ValueError(f"q_pool={q_pool} must be at least 0 and below the number of stages, {len(stages)}")
        stage_ends = [end - 1 for end in accumulate(stages)]
        self.stage_ends = stage_ends if return_interm_layers else stage_ends[-1:]
        self.drop_path_rate = drop_path_rate
        self.patch_embed = PatchEmbed((7, 7), (PATCH_STRIDE, PATCH_STRIDE), (3, 3), in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))
        plans = plan_blocks(
            embed_dim, num_heads, stages, dim_mul, head_mul, window_spec, global_att_blocks, q_pool, q_stride
        )
        rates = torch.linspace(0, drop_path_rate, len(plans), device="cpu").tolist()
        more: dict[str, Any] = {"mlp_ratio": mlp_ratio, "norm_layer": norm_layer, "act_layer": act_layer}
        self.blocks = nn.ModuleList(
            HieraLayer(**plan._asdict(), drop_path=rate, **more) for plan, rate in zip(plans, rates, strict=True)
        )
        self.window_side = window_spec[0]
        self.num_nested_blocks = count_nested_blocks(plans)

    def _get_pos_embed(self, size: tuple[int, int], frame: tuple[int, int] | None = None) -> Tensor:
        """The positions of a map of `size`, 1×h×w×C: one stretched over the map plus one repeated in every window.

        The map need not be a multiple of the window, as it must in the original. It may be the upper left part of a
        larger one of size `frame`.
        """
        frame = size if frame is None else frame
        background = F.interpolate(self.pos_embed.float(), frame, mode="bicubic", align_corners=False)
        background = background[:, :, : size[0], : size[1]]
        repeats = (-(-size[0] // self.window_side), -(-size[1] // self.window_side))
        window = self.pos_embed_window.repeat(1, 1, *repeats)[:, :, : size[0], : size[1]]
        return (background + window).to(window.dtype).permute(0, 2, 3, 1)

    def forward(
        self, x: Tensor, all_maps: list[Tensor] | None = None, frame_size: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """Encode images.

        Args:
            x: B×in_chans×H×W. The sides should be multiples of the coarsest stage's stride, so that every stage halves
                them exactly.
            all_maps: a list that takes in the maps before the first block and behind every block, B×C×h×w.
            frame_size: (height, width) in pixels of a larger image that these are the upper left part of.

        Returns:
            The maps of the stages, finest first, B×C×h×w, or only the last without `return_interm_layers`.
        """
        tokens_bhwc = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        frame = None if frame_size is None else (frame_size[0] // PATCH_STRIDE, frame_size[1] // PATCH_STRIDE)
        tokens_bhwc = tokens_bhwc + self._get_pos_embed((tokens_bhwc.shape[1], tokens_bhwc.shape[2]), frame)
        kept: dict[int, Tensor] = {}
        first = 0
        if all_maps is None and self._can_cut(tokens_bhwc):
            kept = self._run_in_windows(tokens_bhwc)
            first = self.num_nested_blocks
            tokens_bhwc = kept[first - 1]
        # The maps that are returned lie on the way to the result, so that they can retain a gradient.
        x_bchw = tokens_bhwc.permute(0, 3, 1, 2)
        if all_maps is not None:
            all_maps.append(x_bchw)
        for index in range(first, len(self.blocks)):
            x_bchw = self.blocks[index](x_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if index in self.stage_ends:
                kept[index] = x_bchw.permute(0, 2, 3, 1)
            if all_maps is not None:
                all_maps.append(x_bchw)
        return [kept[end].permute(0, 3, 1, 2) for end in self.stage_ends]

    def _can_cut(self, tokens_bhwc: Tensor) -> bool:
        """Whether windows fill the map, no block drops samples, which windows would be taken for, and nobody watches.

        Hooks of the blocks, such as those that record attentions, are called once per block with whole maps.
        """
        drops = self.training and self.drop_path_rate > 0
        nested = self.blocks[: self.num_nested_blocks]
        return (
            self.num_nested_blocks > 0
            and not drops
            and not any(n % self.window_side for n in tokens_bhwc.shape[1:3])
            and all(is_unhooked(module) for block in nested for module in block.modules())
        )

    def _run_in_windows(self, tokens_bhwc: Tensor) -> dict[int, Tensor]:
        """Run the leading blocks, in bands where that helps: by block, the maps of stage ends and of the last."""
        batch, height, width, _ = tokens_bhwc.shape
        rows = height
        if tokens_bhwc.device.type == "cpu" and is_plain_inference():
            rows = self.window_side * max(1, BAND_TOKENS // max(1, batch * width * self.window_side))
        bands = [self._run_band(band) for band in tokens_bhwc.split(rows, dim=1)]
        if len(bands) == 1:
            return bands[0]
        return {index: torch.cat([band[index] for band in bands], dim=1) for index in bands[0]}

    def _run_band(self, tokens_bhwc: Tensor) -> dict[int, Tensor]:
        """Cut a map into windows, run the leading blocks on them, and put together what is kept."""
        batch, height, width, channels = tokens_bhwc.shape
        side = self.window_side
        rows, columns = height // side, width // side
        grid = tokens_bhwc.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
        windows = grid.reshape(-1, side, side, channels)
        kept = {}
        for index in range(self.num_nested_blocks):
            windows = self.blocks[index](windows)
            if index in self.stage_ends or index == self.num_nested_blocks - 1:
                side = windows.shape[1]
                grid = windows.unflatten(0, (batch, rows, columns)).transpose(2, 3)
                kept[index] = grid.flatten(3, 4).flatten(1, 2)
        return kept
