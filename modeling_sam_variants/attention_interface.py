"""How the attention cores of a pretrained model reach transformers' attention interface."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sam_variants.layers.attention_core import AttentionCore, eager_attention


def _eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """transformers' calling convention around `eager_attention`."""
    output, probabilities = eager_attention(query, key, value, attention_mask, scaling, dropout)
    return output.transpose(1, 2), probabilities


class InterfaceAttention:
    """The attention function that a configuration names at the moment of the call.

    Args:
        config: configuration whose `_attn_implementation` decides.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        dropout_p: float,
    ) -> tuple[Tensor, Tensor | None]:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _eager_attention_forward)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        output, weights = function(module, query, key, value, mask, scaling=scale, dropout=dropout_p, is_causal=False)
        return output.transpose(1, 2), weights


def bind_attention(model: nn.Module, config: PreTrainedConfig) -> None:
    """Let every attention core of `model` that has no owner yet follow `config`."""
    for module in model.modules():
        if isinstance(module, AttentionCore) and module.attention_function is None:
            module.attention_function = InterfaceAttention(config)
