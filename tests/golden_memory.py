"""SAM 2's memory modules as the goldens know them: sequence-first tensors, outputs in dicts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.layers.memory_attention_layer import MemoryAttentionLayer
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_encoder import MemoryEncoder


class SequenceFirstMemoryAttention(MemoryAttention):
    """`MemoryAttention` on N×B×C, where `curr` and `curr_pos` may be lists of one level."""

    def forward(self, curr: Any, memory: Tensor, curr_pos: Any, memory_pos: Tensor, num_obj_ptr_tokens: int) -> Tensor:
        curr, curr_pos = (x[0] if isinstance(x, list) else x for x in (curr, curr_pos))
        batch_first = [x.transpose(0, 1) for x in (curr, memory, curr_pos, memory_pos)]
        return super().forward(*batch_first, num_obj_ptr_tokens).transpose(0, 1)


class DictMemoryEncoder(MemoryEncoder):
    """`MemoryEncoder` with the official names of its outputs."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        output = super().forward(*arguments, **named)
        return {"vision_features": output.memory_features, "vision_pos_enc": [output.memory_position]}


def layer_arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """What the layer and the whole module share. One form of the reference calls its attentions by shorter names."""
    cross = spec.get("cross_attention") or spec["cross_attn"]
    optional = ("dropout", "pos_enc_at_attn", "pos_enc_at_cross_attn_keys", "pos_enc_at_cross_attn_queries")
    return {
        "d_model": spec["d_model"],
        "dim_feedforward": spec["dim_feedforward"],
        "num_heads": cross["num_heads"],
        "kv_in_dim": cross["kv_in_dim"],
        "feat_sizes": cross["feat_sizes"],
        "rope_theta": cross.get("rope_theta", 10000.0),
        **{name: spec[name] for name in optional if name in spec},
    }


def build_memory_attention_layer(spec: dict[str, Any]) -> nn.Module:
    return MemoryAttentionLayer(**layer_arguments(spec))


def build_memory_attention(spec: dict[str, Any]) -> nn.Module:
    config = MemoryAttentionConfig(
        num_layers=spec["num_layers"],
        pos_enc_at_input=spec["pos_enc_at_input"],
        activation=spec["layer"].get("activation", "relu"),
        **layer_arguments(spec["layer"]),
    )
    return SequenceFirstMemoryAttention(config)


def build_memory_encoder(spec: dict[str, Any]) -> nn.Module:
    """One form of the reference has 64 position channels whatever the memory's width."""
    position = spec.get("position_encoding", {"num_pos_feats": 64})
    return DictMemoryEncoder(
        MemoryEncoderConfig(in_dim=spec["in_dim"], out_dim=spec["out_dim"], num_pos_feats=position["num_pos_feats"])
    )
