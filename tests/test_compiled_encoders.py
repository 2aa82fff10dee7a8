"""Fused operators compute what modules do, a compiler takes encoders whole with them, and exports don't see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sam_variants.layers import re_attention, token_linear
from sam_variants.layers.compiled_operators import FUSED_DTYPES, _convolution_operator, _linear_operator
from sam_variants.layers.fused_convolution import activated_in_place, convolved
from sam_variants.layers.tiny_vit_attention import TinyMLP
from sam_variants.layers.tiny_vit_convolutions import map_to_tokens, tokens_to_map
from sam_variants.layers.token_linear import TokenLinear, activated
from tests.tiny import TINY_VISION, tiny_model

pytestmark = pytest.mark.skipif(not FUSED_DTYPES, reason="PyTorch was built without oneDNN")

OWN_OPERATORS: dict[str, set[str]] = {
    "tiny_vit": {"convolution", "linear"},
    "vit": {"linear", "attend_by_rows"},
    "hiera": {"linear"},
}


@pytest.fixture
def fast_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny sizes take the ways of large ones."""
    monkeypatch.setattr(token_linear, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(re_attention, "MIN_TOKENS", 16)
    yield
    torch._dynamo.reset()


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1×1": {"kernel_size": 1, "bias": False},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "padding": (1, 0), "groups": 8},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
}


@torch.no_grad()
@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, None])
@pytest.mark.parametrize("case", sorted(CONVOLUTIONS))
def test_a_fused_convolution_is_its_modules(case: str, act: Any) -> None:
    convolution, activation = nn.Conv2d(8, 16, **CONVOLUTIONS[case]), None if act is None else act()
    for x in (torch.randn(2, 8, 6, 5).contiguous(memory_format=torch.channels_last), torch.randn(2, 8, 6, 5)):
        kept, plain = x.clone(), convolution(x)
        expected = plain if activation is None else activation(plain)
        torch.testing.assert_close(convolved(convolution, x, activation), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(x, kept)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(3, 4), (1, 4), (1, 1)])
def test_operators_keep_what_they_promise_a_compiler(batch: int, size: tuple[int, int]) -> None:
    """Shapes and strides of results, also for a single map with an odd stride between samples."""
    tokens, weight = torch.randn(batch, size[0] * size[1], 8), torch.randn(6, 8, 3, 3)
    for x in (tokens_to_map(tokens, size), tokens.transpose(1, 2).unflatten(2, size)):
        arguments = (x, weight, None, [1, 1], [1, 1], [1, 1], 1, "gelu")
        torch.library.opcheck(_convolution_operator, arguments, test_utils=("test_schema", "test_faketensor"))
    arguments = (tokens.transpose(0, 1), torch.randn(5, 8), None, "gelu")
    torch.library.opcheck(_linear_operator, arguments, test_utils=("test_schema", "test_faketensor"))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_maps_of_tokens_stay_channels_last_without_copies(batch: int) -> None:
    convolution, tokens = nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(batch, 12, 8)
    found = convolved(convolution, tokens_to_map(tokens, (3, 4)))
    assert tokens_to_map(tokens, (3, 4)).data_ptr() == tokens.data_ptr()
    assert map_to_tokens(found).is_contiguous()
    assert torch.ops.mkldnn._convolution_pointwise(
        tokens_to_map(tokens, (3, 4)), convolution.weight, None, [1, 1], [1, 1], [1, 1], 8, "none", [], "none"
    ).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_what_somebody_changed_is_called() -> None:
    """Hooks, quantised weights and other activations than the one that oneDNN knows go the plain way."""
    x = torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    convolution, linear, activation = nn.Conv2d(4, 4, 1), TokenLinear(4, 4), nn.GELU()
    seen: list[nn.Module] = []
    for module in (convolution, linear, activation):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    tokens = x.permute(0, 2, 3, 1)
    convolved(convolution, x)
    activated(linear, nn.GELU(), tokens)
    activated(TokenLinear(4, 4), activation, tokens)
    convolved(nn.Conv2d(4, 4, 1), x, activation)
    assert seen == [convolution, linear, activation, activation]
    rough = nn.GELU(approximate="tanh")
    layer = TokenLinear(4, 4)
    assert torch.equal(activated(layer, rough, tokens), rough(layer(tokens)))
    assert activated(layer.double(), nn.GELU(), tokens.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", FUSED_DTYPES)
def test_a_fused_linear_layer_is_its_modules(dtype: torch.dtype) -> None:
    layer, activation = TokenLinear(6, 5).to(dtype), nn.GELU()
    x = torch.randn(2, 7, 6).to(dtype)
    expected = activation(layer(x))
    assert expected.requires_grad
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    with torch.no_grad():
        found = activated(layer, activation, x)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(activated(layer, activation, x), expected)


@pytest.mark.parametrize("records", [True, False])
def test_an_activation_in_place_only_without_gradient(records: bool) -> None:
    x = torch.randn(5)
    kept = x.clone()
    with torch.set_grad_enabled(records):
        found = activated_in_place(nn.GELU(), x)
    torch.testing.assert_close(found, nn.functional.gelu(kept))
    assert torch.equal(x, kept) == records


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(OWN_OPERATORS))
def test_a_compiler_takes_a_whole_encoder(name: str, fast_paths: None) -> None:
    """No break in the graph, the fast operators in it, and the same embedding."""
    encoder: Any = tiny_model(name).image_encoder.fuse()
    operators: set[str] = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        operators.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x = torch.randn(1, 3, 64, 64)
    compiled: Any = torch.compile(encoder, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x).last_hidden_state, encoder(x).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert {name.split(".")[1] for name in operators if name.startswith("sam_variants.")} == OWN_OPERATORS[name]


def test_a_compiler_that_trains_sees_plain_layers(fast_paths: None) -> None:
    mlp, x = TinyMLP(8, 16), torch.randn(2, 5, 8)
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph.code)
        return graph.forward

    compiled: Any = torch.compile(mlp, backend=backend, fullgraph=True)
    compiled(x).sum().backward()
    with torch.no_grad():
        compiled(x)
    assert ["sam_variants.linear" in graph for graph in graphs] == [False, True]
    assert mlp.fc1.weight.grad is not None


@torch.no_grad()
def test_an_export_sees_plain_layers(fast_paths: None) -> None:
    encoder: Any = tiny_model("tiny_vit").image_encoder.fuse()
    exported = torch.export.export(encoder, (torch.randn(1, 3, 64, 64),), strict=False)
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not [target for target in targets if target.startswith(("sam_variants.", "mkldnn."))]
    assert any("conv2d" in target for target in targets)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(TINY_VISION))
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_fast_and_plain_encoders_agree(name: str, size: tuple[int, int], fast_paths: None) -> None:
    encoder: Any = tiny_model(name).image_encoder
    x = torch.randn(2, 3, *size)
    with torch.enable_grad():
        expected = encoder(x).last_hidden_state.detach()
    torch.testing.assert_close(encoder(x).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.fuse()(x).last_hidden_state, expected, atol=2e-5, rtol=1e-5)
