"""Self-attention of the SAM image encoder, with decomposed relative positions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.compiled_operators import is_compiled_inference
from sam_variants.layers.token_linear import TokenLinear, is_plain_inference, token_product

# Fewer tokens, as in windows, are left to the fused kernel; a block of queries has 8 MB of logits.
MIN_TOKENS = 1024
QUERY_BLOCK = 512


def get_rel_pos(size: int, rel_pos: Tensor, frame: int | None = None) -> Tensor:
    """Look up the embedding of every distance between two tokens along one axis.

    A table learned for another size is resized linearly, as in segment-anything.

    Args:
        size: tokens along the axis.
        rel_pos: number of distances×head_dim, the learned table.
        frame: tokens along the axis of a larger map that these are a part of, whose distances count; `size` when None.

    Returns:
        size×size×head_dim, indexed by query and key.
    """
    frame = size if frame is None else frame
    num_distances = 2 * frame - 1
    if rel_pos.shape[0] != num_distances:
        rel_pos = F.interpolate(rel_pos.float().T[None], size=num_distances, mode="linear")[0].T.to(rel_pos.dtype)
    coords = torch.arange(size, device=rel_pos.device)
    return rel_pos[coords[:, None] - coords[None, :] + frame - 1]


def decomposed_rel_pos_terms(
    query: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    size: tuple[int, int],
    frame: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of MViTv2's attention bias (https://arxiv.org/abs/2112.01526).

    Args:
        query: B×heads×(H·W)×head_dim, not scaled.
        rel_pos_h: table of vertical distances.
        rel_pos_w: table of horizontal distances.
        size: (H, W) in tokens.
        frame: (H, W) of the map whose distances count, see `get_rel_pos`.

    Returns:
        B×heads×(H·W)×H by the keys' rows and B×heads×(H·W)×W by their columns.
    """
    query_grid = query.unflatten(2, size)
    frame = size if frame is None else frame
    bias_h = torch.einsum("bnhwc,hkc->bnhwk", query_grid, get_rel_pos(size[0], rel_pos_h, frame[0]))
    bias_w = torch.einsum("bnhwc,wkc->bnhwk", query_grid, get_rel_pos(size[1], rel_pos_w, frame[1]))
    return bias_h.flatten(2, 3), bias_w.flatten(2, 3)


def decomposed_rel_pos_bias(
    query: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    size: tuple[int, int],
    frame: tuple[int, int] | None = None,
) -> Tensor:
    """The vertical plus the horizontal term, B×heads×(H·W)×(H·W), for the scaled products of queries and keys."""
    bias_h, bias_w = decomposed_rel_pos_terms(query, rel_pos_h, rel_pos_w, size, frame)
    return (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)


def rows_pay(query: Tensor) -> bool:
    """Whether `attend_by_rows` is the way to go: inference on a CPU with so many tokens that the bias is huge."""
    is_inference = is_plain_inference() or is_compiled_inference()
    return query.device.type == "cpu" and query.shape[2] >= MIN_TOKENS and is_inference


def attend_by_rows(query: Tensor, key: Tensor, value: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """Attention with a decomposed bias that never exists as a whole (it takes 800 MB in SAM ViT-B).

    Args:
        query, key, value: B×heads×N×d.
        bias_h, bias_w: the bias' terms, B×heads×N×H and B×heads×N×W.

    Returns:
        B×heads×N×d.
    """
    output = torch.empty_like(query)
    for image in range(query.shape[0]):
        for head in range(query.shape[1]):
            # Contiguous, because products of strided matrices can be a hundred times slower.
            queries = (query[image, head] * query.shape[-1] ** -0.5).contiguous()
            keys, values = key[image, head].contiguous(), value[image, head].T.contiguous()
            for start in range(0, len(queries), QUERY_BLOCK):
                block = slice(start, start + QUERY_BLOCK)
                logits = token_product(queries[block], keys)
                by_rows = logits.unflatten(1, (bias_h.shape[-1], bias_w.shape[-1]))
                by_rows += bias_h[image, head, block, :, None]
                by_rows += bias_w[image, head, block, None]
                output[image, head, block] = token_product(logits.softmax(dim=-1), values)
    return output


# A compiler takes it as it is: unrolled it would be a thousand operations.
_rows_operator = torch.library.custom_op(
    "sam_variants::attend_by_rows",
    attend_by_rows,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor bias_h, Tensor bias_w) -> Tensor",
)


@_rows_operator.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    return torch.empty_like(query)


class REAttention(nn.Module):
    """Multi-head self-attention on a channels-last map; follows `Attention` of segment-anything's image encoder.

    Different from there: a table that doesn't start at zero is drawn from a truncated normal distribution (the
    original takes the switch and ignores it).

    Args:
        dim: channels.
        num_heads: attention heads; must divide `dim`.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        use_rel_pos: whether a learned relative position bias is added to the attention scores.
        rel_pos_zero_init: whether the relative position tables start at zero.
        input_size: (H, W) for which the tables are made; needed with `use_rel_pos`.

    Raises:
        ValueError: `num_heads` doesn't divide `dim`, or `use_rel_pos` without `input_size`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must be positive and divide dim {dim}, got {num_heads}.")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = TokenLinear(dim, dim * 3, bias=qkv_bias)
        self.proj = TokenLinear(dim, dim)
        self.core = AttentionCore()
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None:
                raise ValueError(
                    "input_size must be given as (height, width) in tokens with use_rel_pos=True, got None."
                )
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, self.head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, self.head_dim))
            if not rel_pos_zero_init:
                nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
                nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def forward(self, x: Tensor, frame: tuple[int, int] | None = None) -> Tensor:
        """Attend within a map of any size, B×H×W×dim to B×H×W×dim; `frame` as in `decomposed_rel_pos_terms`."""
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.use_rel_pos and rows_pay(query) and self.core.is_fused():
            terms = decomposed_rel_pos_terms(query, self.rel_pos_h, self.rel_pos_w, (height, width), frame)
            attend: Any = _rows_operator if torch.compiler.is_compiling() else attend_by_rows
            attended = attend(query, key, value, *terms)
        else:
            bias = None
            if self.use_rel_pos:
                bias = decomposed_rel_pos_bias(query, self.rel_pos_h, self.rel_pos_w, (height, width), frame)
            attended, _ = self.core(query, key, value, mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, dim))
