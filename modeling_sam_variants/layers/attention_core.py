"""The one place where attention is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


class AttentionCore(nn.Module):
    """Scaled dot-product attention without parameters, shared by every attention layer.

    A layer that stands alone uses torch's fused kernel. A pretrained model sets `attention_function` on every core it
    holds, so that the implementation chosen for the model (`sdpa`, `eager`, …) is used and attention maps can be
    recorded from this module's second output.
    """

    attention_function: AttentionFunction | None = None

    def is_fused(self) -> bool:
        """Whether torch's fused kernel would be called and nobody wants to see the probabilities."""
        config = getattr(self.attention_function, "config", None)
        implementation = "sdpa" if self.attention_function is None else getattr(config, "_attn_implementation", None)
        return implementation == "sdpa" and not self._forward_hooks

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
        dropout_p: float = 0.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: B×heads×Nq×d.
            key: B×heads×Nk×d.
            value: B×heads×Nk×dv.
            mask: broadcastable to B×heads×Nq×Nk; bool (True takes part) or a float that is added to the logits.
            scale: factor on the logits; d^-0.5 when None.
            dropout_p: dropout on the attention probabilities, applied as given.

        Returns:
            Output B×heads×Nq×dv and the attention probabilities B×heads×Nq×Nk, or None where they are not computed.
        """
        if self.attention_function is not None:
            return self.attention_function(self, query, key, value, mask, scale, dropout_p)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p, scale=scale), None


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """The same attention written out, which also returns its probabilities; arguments as in `AttentionCore`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min) if mask.dtype == torch.bool else logits + mask
    probabilities = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(probabilities, dropout_p, training=dropout_p > 0) @ value, probabilities
