"""The two-way transformer of the mask decoder: tokens and image attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from sam_variants.layers.attention import Attention
from sam_variants.layers.mlp import MLPBlock


class TwoWayAttentionBlock(nn.Module):
    """Self-attention on tokens, tokens → image, MLP on tokens, image → tokens (segment-anything).

    Args:
        embedding_dim: width of tokens and image.
        num_heads: heads of every attention.
        mlp_dim: hidden width of the MLP.
        activation: class of its activation.
        attention_downsample_rate: factor by which the cross-attentions are narrower.
        skip_first_layer_pe: self-attention without position term and without residual, as in the first block.
        layer_norm_eps: epsilon of the four norms.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim, eps=layer_norm_eps)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim, eps=layer_norm_eps)
        self.mlp = self.build_mlp(embedding_dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(embedding_dim, eps=layer_norm_eps)
        self.norm4 = nn.LayerNorm(embedding_dim, eps=layer_norm_eps)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    @staticmethod
    def build_mlp(embedding_dim: int, mlp_dim: int, activation: type[nn.Module]) -> nn.Module:
        """The tokens' MLP; the SAM 2 form overrides it."""
        return MLPBlock(embedding_dim, mlp_dim, activation)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor, token_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One round of the exchange.

        Args:
            queries: tokens B×N×C.
            keys: image tokens B×HW×C.
            query_pe: position term of the tokens, B×N×C.
            key_pe: position term of the image tokens, B×HW×C.
            token_mask: B×1×1×N bool, False for padding tokens, which nothing attends to; None when there are none.

        Returns:
            Tokens B×N×C and image tokens B×HW×C.
        """
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries, token_mask)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries, token_mask)
        queries = self.norm1(queries)

        k = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, k, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(k, queries + query_pe, queries, token_mask))
        return queries, keys


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention from tokens to the image (segment-anything).

    Args:
        depth: number of blocks.
        embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, layer_norm_eps: as in the block.
    """

    block_class: type[TwoWayAttentionBlock] = TwoWayAttentionBlock

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            self.block_class(
                embedding_dim,
                num_heads,
                mlp_dim,
                activation,
                attention_downsample_rate,
                skip_first_layer_pe=index == 0,
                layer_norm_eps=layer_norm_eps,
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim, eps=layer_norm_eps)

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor, token_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Exchange information between tokens and image.

        Args:
            image_embedding: B×C×h×w.
            image_pe: its position encoding, B×C×h×w (or 1×C×h×w).
            point_embedding: tokens B×N×C, also used as their own position term.
            token_mask: B×N bool, False for padding tokens, which take part in no attention; None when there are none.

        Returns:
            Tokens B×N×C and image tokens B×hw×C.
        """
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        mask = None if token_mask is None else token_mask[:, None, None, :]
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries, keys, point_embedding, key_pe, mask)
        attended = self.final_attn_token_to_image(queries + point_embedding, keys + key_pe, keys)
        return self.norm_final_attn(queries + attended), keys
