"""Memory encoder and memory attention where the goldens don't look: refusals, dropout, loading, objects, tracing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case_differences, load_golden
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.memory_attention_layer import MemoryAttentionLayer
from sam_variants.layers.position_embedding_sine import sine_encoding_1d
from sam_variants.layers.rope_attention import RoPEAttention, axial_rotary_angles, rotate_pairs
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_encoder import MemoryEncoder
from tests.tiny import randomize

ATTENTION: dict[str, Any] = {
    "d_model": 16,
    "num_layers": 2,
    "dim_feedforward": 24,
    "kv_in_dim": 8,
    "num_heads": 2,
    "feat_sizes": (3, 2),
}
ENCODER: dict[str, Any] = {"in_dim": 16, "out_dim": 8, "mask_downsampler_total_stride": 4}
FLAGS = ("pos_enc_at_input", "pos_enc_at_attn", "pos_enc_at_cross_attn_keys", "pos_enc_at_cross_attn_queries")

EXACT_GOLDENS = ("sam2_memory_attention", "sam2_memory_attention_layer", "ul_memory_attention")


def attention(**changes: Any) -> MemoryAttention:
    """Two layers for a 3×2 map with random, never-zero weights, in eval mode."""
    return randomize(MemoryAttention(MemoryAttentionConfig(**{**ATTENTION, **changes}))).eval()  # type: ignore[return-value]


def encoder(**changes: Any) -> MemoryEncoder:
    """Masks four times the size of the map, random, never-zero weights, in eval mode."""
    return randomize(MemoryEncoder(MemoryEncoderConfig(**{**ENCODER, **changes}))).eval()  # type: ignore[return-value]


def tokens(objects: int = 2, num_maps: int = 2, num_pointers: int = 3) -> dict[str, Any]:
    """A frame of 3×2 tokens and memories of so many maps, with object pointers."""
    length = 6 * num_maps + num_pointers
    return {
        "curr": torch.randn(objects, 6, 16),
        "memory": torch.randn(objects, length, 8),
        "curr_pos": torch.randn(objects, 6, 16),
        "memory_pos": torch.randn(objects, length, 8),
        "num_obj_ptr_tokens": num_pointers,
    }


def images(objects: int = 2) -> dict[str, Tensor]:
    return {"pix_feat": torch.randn(objects, 16, 3, 5), "masks": torch.randn(objects, 1, 12, 20)}


PARTS: dict[str, tuple[Any, Any]] = {"memory_attention": (attention, tokens), "memory_encoder": (encoder, images)}
each_part = pytest.mark.parametrize("name", PARTS)


def result_of(output: Any) -> Tensor:
    return getattr(output, "memory_features", output)


@pytest.mark.parametrize("name", EXACT_GOLDENS)
def test_outputs_equal_the_reference_within_rounding(name: str) -> None:
    golden = load_golden(name)
    for case in golden.config["cases"]:
        assert max(case_differences(golden, case).values()) <= 1e-5, case["name"]


@pytest.mark.parametrize("switched_on", [(), FLAGS[:1], FLAGS[1:2], FLAGS[2:3], FLAGS[3:], FLAGS])
def test_positions_enter_where_the_configuration_says(switched_on: tuple[str, ...]) -> None:
    model = attention(num_layers=1, **{flag: flag in switched_on for flag in FLAGS})
    given = tokens()
    curr, memory, curr_pos, memory_pos, num_pointers = given.values()
    layer: Any = model.layers[0]
    x = curr + 0.1 * curr_pos if "pos_enc_at_input" in switched_on else curr
    tgt = layer.norm1(x)
    q = tgt + curr_pos if "pos_enc_at_attn" in switched_on else tgt
    x = x + layer.self_attn(q, q, tgt)
    tgt = layer.norm2(x)
    q = tgt + curr_pos if "pos_enc_at_cross_attn_queries" in switched_on else tgt
    k = memory + memory_pos if "pos_enc_at_cross_attn_keys" in switched_on else memory
    x = x + layer.cross_attn_image(q, k, memory, num_k_exclude_rope=num_pointers)
    x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
    torch.testing.assert_close(model(**given), model.norm(x))


@pytest.mark.parametrize(
    "changes", [{"rope_theta": 10.0}, {"feat_sizes": (2, 3)}, {"activation": "gelu"}, {"layer_norm_eps": 0.1}], ids=str
)
def test_settings_reach_the_layers(changes: dict[str, Any]) -> None:
    model, other, given = attention(), attention(**changes), tokens()
    other.load_state_dict(model.state_dict())
    assert (other(**given) - model(**given)).abs().max() > 1e-4
    rotary = [module for module in model.modules() if isinstance(module, RoPEAttention)]
    assert [module._map_size(6) for module in rotary] == [(2, 3)] * 4, "feat_sizes is width, height"


@each_part
def test_a_batch_gives_what_its_objects_give_alone(name: str) -> None:
    build, inputs = PARTS[name]
    model, batch = build(), inputs(3)
    together = result_of(model(**batch))
    for row in range(3):
        one = {key: value[row : row + 1] if isinstance(value, Tensor) else value for key, value in batch.items()}
        torch.testing.assert_close(result_of(model(**one)), together[row : row + 1], atol=1e-5, rtol=1e-5)


@each_part
def test_one_frame_serves_many_objects(name: str) -> None:
    build, inputs = PARTS[name]
    model, batch = build(), inputs(3)
    shared = {key: batch[key][:1] for key in ("curr", "curr_pos", "pix_feat") if key in batch}
    views = {key: value.expand(3, *value.shape[1:]) for key, value in shared.items()}
    copies = {key: value.repeat(3, *[1] * (value.ndim - 1)) for key, value in shared.items()}
    expected = result_of(model(**{**batch, **copies}))
    for given in (views, shared):
        actual = result_of(model(**{**batch, **given}))
        assert actual.shape[0] == 3
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_one_frame_attends_to_itself_once() -> None:
    model = attention()
    batches: list[int] = []
    for module in model.modules():
        if isinstance(module, AttentionCore):
            module.register_forward_hook(lambda _, inputs, output: batches.append(inputs[0].shape[0]))
    given = tokens(3)
    model(**{**given, "curr": given["curr"][:1], "curr_pos": given["curr_pos"][:1]})
    assert batches == [1, 3, 3, 3]


def test_memory_may_be_kept_in_another_dtype_and_pointers_may_be_alone_or_absent() -> None:
    model = attention()
    given = tokens()
    kept = {key: given[key].bfloat16() for key in ("memory", "memory_pos")}
    exact = {key: value.float() for key, value in kept.items()}
    assert torch.equal(model(**{**given, **kept}), model(**{**given, **exact}))
    for num_maps, num_pointers in ((0, 2), (1, 0)):
        assert model(**tokens(1, num_maps, num_pointers)).isfinite().all()
    curr, memory, *_ = given.values()
    assert model(curr, memory[:, :12]).shape == curr.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curr": torch.zeros(2, 6, 8)}, r"curr has shape \(2, 6, 8\)"),
        ({"curr": torch.zeros(3, 6, 16)}, "curr is for 3 objects and memory for 2"),
        ({"curr": torch.zeros(2, 0, 16)}, "curr has shape"),
        ({"memory": torch.zeros(2, 15, 16)}, r"memory has shape \(2, 15, 16\)"),
        ({"memory": torch.zeros(15, 8)}, "memory has shape"),
        ({"num_obj_ptr_tokens": 2}, "num_obj_ptr_tokens=2"),
        ({"num_obj_ptr_tokens": 21}, "num_obj_ptr_tokens=21"),
        ({"num_obj_ptr_tokens": -3}, "num_obj_ptr_tokens=-3"),
        ({"memory_pos": torch.zeros(2, 14, 8)}, "memory_pos has shape"),
        ({"curr_pos": torch.zeros(6, 2, 16)}, "curr_pos has shape"),
    ],
)
def test_attention_refuses_other_shapes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention()(**{**tokens(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": torch.zeros(2, 1, 12, 24)}, r"masks has shape \(2, 1, 12, 24\), expected objects×1×12×20"),
        ({"masks": torch.zeros(2, 3, 12, 20)}, "masks has shape"),
        ({"masks": torch.zeros(2, 12, 20)}, "masks has shape"),
        ({"pix_feat": torch.zeros(2, 8, 3, 5)}, r"pix_feat has shape \(2, 8, 3, 5\)"),
        ({"pix_feat": torch.zeros(3, 16, 3, 5)}, "pix_feat is for 3 objects and masks for 2"),
    ],
)
def test_encoder_refuses_other_shapes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder()(**{**images(), **changes})


def test_sigmoid_is_skipped_when_asked() -> None:
    model, given = encoder(), images()
    skipped = model(given["pix_feat"], given["masks"].sigmoid(), skip_mask_sigmoid=True)
    assert torch.equal(skipped.memory_features, model(**given).memory_features)
    assert skipped.memory_position.shape == skipped.memory_features.shape == (2, 8, 3, 5)
    wide = encoder(out_dim=16)
    assert not list(wide.out_proj.parameters())
    assert wide(**given).memory_features.shape == (2, 16, 3, 5)


def test_dropout_is_real_in_train_mode_and_absent_in_eval_mode() -> None:
    given = tokens()
    model, without = attention(dropout=0.5), attention(dropout=0.0)
    without.load_state_dict(model.state_dict())
    assert torch.equal(without.train()(**given), model(**given))
    model.train()
    assert not torch.equal(model(**given), model(**given))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert not torch.equal(model(**given), model(**given)), "no dropout on the attention probabilities"


@pytest.mark.parametrize("where", ["dropout1", "dropout2", "dropout3", "dropout"])
def test_every_branch_has_its_dropout(where: str) -> None:
    layer = MemoryAttentionLayer(16, 24, dropout=0.0, kv_in_dim=8, feat_sizes=(3, 2)).train()
    given = tokens()
    tgt, memory, query_pos, pos, num_pointers = given.values()
    expected = layer(tgt, memory, pos, query_pos, num_pointers)
    layer.get_submodule(where).p = 0.5
    assert not torch.equal(layer(tgt, memory, pos, query_pos, num_pointers), expected)


@each_part
def test_loads_out_of_a_whole_checkpoint_and_alone(name: str, tmp_path: Path, poison_empty: None) -> None:
    build, inputs = PARTS[name]
    model, given = build(), inputs()
    width = {"embed_dim": 16, "depth": 1, "num_heads": 2, "out_chans": 16, "image_size": 64}
    SamVariantsVideoConfig(
        vision_config={"model_type": "sam_variants_vit", **width},
        prompt_encoder_config={"embed_dim": 16},
        mask_decoder_config={"transformer_dim": 16, "transformer_num_heads": 2},
        memory_attention_config=MemoryAttentionConfig(**ATTENTION),
        memory_encoder_config=MemoryEncoderConfig(**ENCODER),
    ).save_pretrained(tmp_path / "whole")
    others = {"image_encoder.patch_embed.proj.weight", "maskmem_tpos_enc", "no_mem_embed", "obj_ptr_proj.layers.0.bias"}
    others |= {f"{part}.norm.weight" for part in PARTS if part != name}
    state = {key: torch.ones(3) for key in others} | {f"{name}.{key}": x for key, x in model.state_dict().items()}
    save_file(state, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    out_of_whole, info = type(model).from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    model.save_pretrained(tmp_path / "alone")
    alone = AutoModel.from_pretrained(tmp_path / "alone")
    assert type(alone) is type(model)
    for loaded in (out_of_whole, alone):
        assert torch.equal(result_of(loaded(**given)), result_of(model(**given)))


@each_part
def test_initialisation_alone_fills_every_tensor(name: str, poison_empty: None) -> None:
    built = type(PARTS[name][0]())(PARTS[name][0]().config)
    with torch.device("meta"):
        model = type(built)(built.config)
    model.to_empty(device="cpu").init_weights()
    wanted = dict(built.named_parameters())
    for key, tensor in model.named_parameters():
        if wanted[key].std(correction=0) > 0:
            assert 0.5 < tensor.std() / wanted[key].std() < 2, key
        else:
            assert torch.equal(tensor, wanted[key]), key
    gammas = [tensor for key, tensor in model.named_parameters() if key.endswith("gamma")]
    assert len(gammas) == (2 if name == "memory_encoder" else 0)
    assert all(torch.equal(gamma, torch.full_like(gamma, 1e-6)) for gamma in gammas)


@each_part
def test_gradient_reaches_every_parameter(name: str) -> None:
    build, inputs = PARTS[name]
    model, given = build(), inputs()
    result = result_of(model(**given))
    (result * torch.randn_like(result)).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 1e-6] == []


def test_checkpointing_gives_the_same_gradients() -> None:
    model, given = attention(dropout=0.0).train(), tokens()
    model(**given).square().mean().backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model(**given).square().mean().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], msg=key)


def test_eager_attention_gives_every_map() -> None:
    model, given = attention(), tokens()
    expected = model(**given)
    model.set_attn_implementation("eager")
    maps: list[Tensor] = []
    recorder = MemoryAttention._can_record_outputs["memory_attentions"]
    for module in model.modules():
        if isinstance(module, recorder.target_class):
            module.register_forward_hook(lambda _, inputs, output: maps.append(output[recorder.index]))
    torch.testing.assert_close(model(**given), expected)
    assert [tuple(x.shape) for x in maps] == [(2, 2, 6, 6), (2, 2, 6, 15)] * 2
    for x in maps:
        torch.testing.assert_close(x.sum(dim=-1), torch.ones(x.shape[:-1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_part
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    build, inputs = PARTS[name]
    model: PreTrainedModel = build()
    given = inputs()
    expected = result_of(model(**given))
    half = {key: value.to(dtype) if isinstance(value, Tensor) else value for key, value in given.items()}
    half |= {key: given[key] for key in ("masks",) if key in given}  # logits may stay float32
    actual = result_of(model.to(dtype)(**half))
    assert actual.dtype == dtype
    assert (actual.float() - expected).norm() < 0.05 * expected.norm()


@each_part
def test_exports_with_a_free_number_of_objects(name: str) -> None:
    build, inputs = PARTS[name]
    model = build()
    two, three = inputs(2), inputs(3)
    objects = torch.export.Dim("objects", min=2, max=8)
    shapes = {key: {0: objects} if isinstance(value, Tensor) else None for key, value in two.items()}
    with torch.no_grad():
        program = torch.export.export(model, (), two, dynamic_shapes=shapes, strict=False)
        assert "complex" not in str(program.graph), "complex numbers don't export everywhere"
        torch.testing.assert_close(result_of(program.module()(**three)), result_of(model(**three)))


@each_part
def test_compiles_into_one_graph(name: str) -> None:
    build, inputs = PARTS[name]
    model, given = build(), inputs()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(result_of(compiled(**given)), result_of(model(**given)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)], ids=str
)
def test_complex_and_real_rotation_are_one(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = axial_rotary_angles(8, (2, 3))
    cos, sin = angles.cos(), angles.sin()
    x = torch.randn(2, 1, 3, 6, 8).to(dtype).requires_grad_()
    first, second = x.detach().double().unflatten(-1, (-1, 2)).unbind(-1)
    exact = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
    weights = torch.randn(8).to(dtype)
    gradients = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr("sam_variants.layers.rope_attention.COMPLEX_DEVICES", devices)
        turned = rotate_pairs(x, cos, sin)
        assert turned.dtype == dtype
        torch.testing.assert_close(turned.double(), exact, rtol=0, atol=tolerance)
        gradients += torch.autograd.grad((turned * weights).sum(), x)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().min() > 0


def test_time_is_encoded_as_sines_then_cosines() -> None:
    times = torch.tensor([[0, 3], [-2, 7]])
    encoding = sine_encoding_1d(times, 8, temperature=100)
    assert encoding.shape == (2, 2, 8)
    assert encoding.dtype == torch.float32
    angles = times[..., None] / torch.tensor([1.0, 1.0, 10.0, 10.0])
    torch.testing.assert_close(encoding, torch.cat((angles.sin(), angles.cos()), dim=-1))
    assert sine_encoding_1d(times.bfloat16(), 8).dtype == torch.bfloat16
    for dim in (0, 7):
        with pytest.raises(ValueError, match=f"dim .* got {dim}"):
            sine_encoding_1d(times, dim)
