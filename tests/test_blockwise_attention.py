"""Attention in blocks: equal to the fused kernel, and only where it may be used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sam_variants.layers import blockwise_attention as module
from sam_variants.layers import rope_attention
from sam_variants.layers.blockwise_attention import blocks_pay, blockwise_attention
from sam_variants.layers.memory_attention_layer import MemoryAttentionLayer
from sam_variants.layers.rope_attention import RoPEAttention

SIDE = 23  # 529 tokens, just enough


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of queries and of keys, the last ones incomplete."""
    monkeypatch.setattr(module, "QUERY_BLOCK", 200)
    monkeypatch.setattr(module, "KEY_BLOCK", 300)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the values of every call that RoPEAttention makes from now on."""
    shapes: list[tuple[int, ...]] = []

    def counted(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
        shapes.append(tuple(value.shape))
        return blockwise_attention(query, key, value)

    monkeypatch.setattr(rope_attention, "blockwise_attention", counted)
    return shapes


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 2),
    num_queries=st.integers(1, 500),
    num_keys=st.integers(1, 700),
    width=st.sampled_from([1, 4, 16]),
    value_width=st.sampled_from([1, 3, 16, 24]),
    sharpness=st.sampled_from([0.1, 1.0, 5.0]),
)
@torch.no_grad()
def test_equal_to_softmax(
    batch: int, heads: int, num_queries: int, num_keys: int, width: int, value_width: int, sharpness: float
) -> None:
    generator = torch.Generator().manual_seed(num_queries * 1000 + num_keys)
    query = torch.randn(batch, heads, num_queries, width, generator=generator) * sharpness
    key = torch.randn(batch, heads, num_keys, width, generator=generator)
    value = torch.randn(batch, heads, num_keys, value_width, generator=generator)
    expected = (query.double() @ key.double().mT * width**-0.5).softmax(dim=-1) @ value.double()
    answer = blockwise_attention(query, key, value)
    assert answer is not None
    assert answer.shape == expected.shape
    assert (answer - expected).abs().max() < 1e-4 * max(1.0, sharpness)


@torch.no_grad()
def test_logits_far_apart() -> None:
    """Up to where it overflows it is exact, and there it says so."""
    query, value = torch.ones(1, 1, 2, 1), torch.randn(1, 1, 600, 4)
    key = torch.zeros(1, 1, 600, 1)
    for largest, is_possible in ((60.0, True), (-200.0, True), (500.0, False)):
        key[0, 0, 450] = largest
        answer = blockwise_attention(query, key, value)
        assert (answer is not None) == is_possible
        if answer is not None:
            assert torch.allclose(answer, F.scaled_dot_product_attention(query, key, value), atol=1e-6)


@torch.no_grad()
def test_memory_attention_is_that_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-attention, attention to narrow memories of two objects with pointers, and the feed-forward blocks."""
    layer = MemoryAttentionLayer(32, 48, kv_in_dim=8).eval()
    tokens, memory = torch.randn(1, SIDE**2, 32), torch.randn(2, 2 * SIDE**2 + 4, 8)
    position = torch.randn_like(memory)
    calls = count_calls(monkeypatch)
    answer = layer(tokens, memory, position, num_k_exclude_rope=4)
    assert calls == [(1, 1, SIDE**2, 32), (2, 1, 2 * SIDE**2 + 4, 8)]
    monkeypatch.setattr(rope_attention, "blocks_pay", lambda query, key: False)
    assert torch.allclose(answer, layer(tokens, memory, position, num_k_exclude_rope=4), atol=1e-5)
    with torch.enable_grad():
        assert torch.allclose(answer, layer(tokens, memory, position, num_k_exclude_rope=4), atol=1e-5)
    assert len(calls) == 2


@pytest.mark.parametrize(("num_heads", "kv_in_dim"), [(2, 8), (1, 48)])
@torch.no_grad()
def test_other_attentions(num_heads: int, kv_in_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several heads, and memories wider than the attention, take projected values."""
    attention = RoPEAttention(32, num_heads, kv_in_dim=kv_in_dim, rope_k_repeat=True).eval()
    query, memory = torch.randn(1, SIDE**2, 32), torch.randn(1, 2 * SIDE**2, kv_in_dim)
    calls = count_calls(monkeypatch)
    answer = attention(query, memory, memory)
    assert calls == [(1, num_heads, 2 * SIDE**2, 32 // num_heads)]
    monkeypatch.setattr(rope_attention, "blocks_pay", lambda query, key: False)
    assert torch.allclose(answer, attention(query, memory, memory), atol=1e-5)


def test_the_core_computes_what_blocks_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, masks, dropout, recorded probabilities, other implementations, and what would overflow."""
    attention = RoPEAttention(16, 1, dropout=0.5).eval()
    x = torch.randn(1, SIDE**2, 16)
    calls = count_calls(monkeypatch)
    attention(x, x, x).sum().backward()
    assert attention.q_proj.weight.grad is not None
    with torch.no_grad():
        attention(x, x, x, torch.ones(SIDE**2, SIDE**2, dtype=torch.bool))
        attention.train()(x, x, x)
        hook = attention.eval().core.register_forward_hook(lambda *_: None)
        attention(x, x, x)
        hook.remove()
        attention.core.attention_function = lambda module, *inputs: (F.scaled_dot_product_attention(*inputs[:3]), None)
        attention(x, x, x)
        attention.core.attention_function = None
        assert calls == []
        expected = attention(x, x, x)
        assert len(calls) == 1
        monkeypatch.setattr(rope_attention, "blockwise_attention", lambda *_: None)
        assert torch.allclose(attention(x, x, x), expected, atol=1e-6)


def test_where_blocks_pay() -> None:
    few, many = torch.zeros(1, 1, 511, 4), torch.zeros(1, 1, 512, 4)
    assert not blocks_pay(many, many)
    with torch.no_grad():
        assert blocks_pay(many, many)
        assert not blocks_pay(few, many)
        assert not blocks_pay(many, few)
        assert not blocks_pay(many.bfloat16(), many.bfloat16())
        assert not blocks_pay(many.to("meta"), many.to("meta"))
