"""The two-way transformer of SAM 2's mask decoder: SAM's, with another class for the tokens' MLP."""

from __future__ import annotations

from torch import nn

from sam_variants.layers.mlp import MLP
from sam_variants.layers.two_way_transformer import TwoWayAttentionBlock, TwoWayTransformer


class SAM2TwoWayAttentionBlock(TwoWayAttentionBlock):
    """`TwoWayAttentionBlock` whose MLP is a two-layer `MLP`, so that its parameters have SAM 2's names."""

    @staticmethod
    def build_mlp(embedding_dim: int, mlp_dim: int, activation: type[nn.Module]) -> nn.Module:
        """The tokens' MLP, with parameters `layers.0` and `layers.1`."""
        return MLP(embedding_dim, mlp_dim, embedding_dim, num_layers=2, act=activation)


class SAM2TwoWayTransformer(TwoWayTransformer):
    """`TwoWayTransformer` of `SAM2TwoWayAttentionBlock`s."""

    block_class = SAM2TwoWayAttentionBlock
