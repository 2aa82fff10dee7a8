"""ViT's global attention block by block: the fused kernel's answers, and only where it may be used."""

from __future__ import annotations

import pytest
import torch
from tiny import randomize, tiny_model
from torch import Tensor

from sam_variants.layers import re_attention
from sam_variants.layers.re_attention import REAttention


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that go block by block; several blocks, the last one incomplete."""
    shapes: list[tuple[int, ...]] = []
    attend = re_attention.attend_by_rows

    def counted(query: Tensor, *others: Tensor) -> Tensor:
        shapes.append(tuple(query.shape))
        return attend(query, *others)

    monkeypatch.setattr(re_attention, "attend_by_rows", counted)
    monkeypatch.setattr(re_attention, "MIN_TOKENS", 40)
    monkeypatch.setattr(re_attention, "QUERY_BLOCK", 13)
    return shapes


@pytest.mark.parametrize("size", [(6, 8), (9, 5)])
def test_blocks_of_queries_equal_the_fused_kernel(size: tuple[int, int], calls: list[tuple[int, ...]]) -> None:
    layer: REAttention = randomize(REAttention(24, 3, use_rel_pos=True, input_size=size))  # type: ignore[assignment]
    x = torch.randn(2, *size, 24)
    expected = layer(x)  # with gradients
    assert not calls
    with torch.no_grad():
        found = layer(x)
    assert calls == [(2, 3, size[0] * size[1], 8)]
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-5)


def test_windows_and_maps_without_positions_stay_with_the_kernel(calls: list[tuple[int, ...]]) -> None:
    with torch.no_grad():
        REAttention(24, 3)(torch.randn(1, 8, 8, 24))
        REAttention(24, 3, use_rel_pos=True, input_size=(6, 6))(torch.randn(4, 6, 6, 24))
    assert not calls


def test_who_asks_for_attention_maps_gets_them(calls: list[tuple[int, ...]]) -> None:
    model = tiny_model("vit")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model.image_encoder(torch.randn(1, 3, 128, 128), output_attentions=True)
    assert not calls
    assert all(attention is not None for attention in outputs.attentions)
