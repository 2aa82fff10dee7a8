"""Memory attention: a frame's image tokens look at what is remembered of other frames."""

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2CLS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import OutputRecorder

from sam_variants.configuration.configuration_memory import MemoryAttentionConfig
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.memory_attention_layer import MemoryAttentionLayer
from sam_variants.pretrained_part import PretrainedPart, other_parts

INPUT_POSITION_FACTOR = 0.1


class MemoryLayer(GradientCheckpointingLayer, MemoryAttentionLayer):
    """A `MemoryAttentionLayer` that can be recomputed in the backward pass."""


class MemoryAttention(PretrainedPart):
    """Conditions a frame on its memory (Ravi et al., 2024), with SAM 2's parameter names.

    Different from SAM 2's `MemoryAttention`: everything is batch-first, and one frame can serve the memories of many
    objects. An attention map is recorded for every attention, self and memory in turn.

    Args:
        config: its sizes; the defaults are SAM 2's.
    """

    config: MemoryAttentionConfig
    base_model_prefix = "memory_attention"
    main_input_name = "curr"
    _keys_to_ignore_on_load_unexpected = other_parts("memory_attention")
    _no_split_modules = ["MemoryLayer"]
    _can_record_outputs = {"memory_attentions": OutputRecorder(AttentionCore, index=1)}

    def __init__(self, config: MemoryAttentionConfig) -> None:
        super().__init__(config)
        activation: Any = ACT2CLS[config.activation]
        self.layers = nn.ModuleList(
            MemoryLayer(
                config.d_model,
                config.dim_feedforward,
                config.dropout,
                config.num_heads,
                config.kv_in_dim,
                activation,
                config.rope_theta,
                config.feat_sizes,
                config.pos_enc_at_attn,
                config.pos_enc_at_cross_attn_keys,
                config.pos_enc_at_cross_attn_queries,
                config.layer_norm_eps,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        curr: Tensor,
        memory: Tensor,
        curr_pos: Tensor | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """Bring the memories of P objects into a frame.

        Args:
            curr: the frame's image tokens, row by row, P×N×d_model; or 1×N×d_model for all objects, which saves their
                first self-attention.
            memory: P×M×kv_in_dim: maps of N tokens in a row, then `num_obj_ptr_tokens` object pointers. Its dtype may
                be another.
            curr_pos: position encoding of the image tokens, of their shape or 1×N×d_model.
            memory_pos: position encoding of the memory (with the time that has passed), of its shape or
                1×M×kv_in_dim.
            num_obj_ptr_tokens: memory tokens at the end that have no place in the image.

        Returns:
            P×N×d_model.

        Raises:
            ValueError: for a wrong shape.
        """
        self._check_tokens(curr, memory, num_obj_ptr_tokens)
        for name, position, tokens in (("curr_pos", curr_pos, curr), ("memory_pos", memory_pos, memory)):
            _check_position(name, position, tokens)
        memory = memory.to(curr.dtype)
        memory_pos = None if memory_pos is None else memory_pos.to(curr.dtype)
        output = curr
        if self.config.pos_enc_at_input and curr_pos is not None:
            output = output + INPUT_POSITION_FACTOR * curr_pos
        for layer in self.layers:
            output = layer(output, memory, memory_pos, curr_pos, num_k_exclude_rope=num_obj_ptr_tokens)
        return self.norm(output)

    def _check_tokens(self, curr: Tensor, memory: Tensor, num_obj_ptr_tokens: int) -> None:
        widths = {"curr": (curr, self.config.d_model), "memory": (memory, self.config.kv_in_dim)}
        for name, (tokens, width) in widths.items():
            if tokens.ndim != 3 or tokens.shape[2] != width:
                raise ValueError(f"{name} has shape {tuple(tokens.shape)}, expected objects×tokens×{width}")
        if curr.shape[0] not in (memory.shape[0], 1):
            raise ValueError(
                f"curr is for {curr.shape[0]} objects and memory for {memory.shape[0]}: they must be equal, or curr "
                "for 1"
            )
        num_tokens, num_mapped = curr.shape[1], memory.shape[1] - num_obj_ptr_tokens
        if num_tokens == 0:
            raise ValueError(f"curr has shape {tuple(curr.shape)}: there must be at least one token")
        if not 0 <= num_obj_ptr_tokens <= memory.shape[1] or num_mapped % num_tokens:
            raise ValueError(
                f"memory has {memory.shape[1]} tokens with num_obj_ptr_tokens={num_obj_ptr_tokens}, expected maps of "
                f"{num_tokens} tokens (as many as curr has) and the object pointers behind them"
            )


def _check_position(name: str, position: Tensor | None, tokens: Tensor) -> None:
    if position is None:
        return
    shape = tuple(tokens.shape)
    if tuple(position.shape) not in (shape, (1, *shape[1:])):
        raise ValueError(f"{name} has shape {tuple(position.shape)}, expected {shape} or 1 instead of {shape[0]}")
