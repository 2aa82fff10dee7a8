"""SamVariantsModel and its parts as pretrained models, for every encoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.decoders.prompt_encoder import PromptEncoder
from sam_variants.encoders.encoder_table import IMAGE_ENCODERS
from sam_variants.layers.tiny_vit_attention import TinyAttention, attention_bias_indexes
from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import TINY_VISION, WIDTH, tiny_config, tiny_model

ENCODERS = sorted(TINY_VISION)
each_encoder = pytest.mark.parametrize("name", ENCODERS)


def prompts(batch: int = 2, objects: int = 3, points: int = 2) -> dict[str, Tensor]:
    labels = torch.ones(batch, objects, points, dtype=torch.long)
    labels[..., 1:] = 0
    return {"input_points": torch.rand(batch, objects, points, 2) * 60, "input_labels": labels}


def outputs_of(model: SamVariantsModel, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = model(**inputs)
    return out.pred_masks, out.iou_scores


def test_every_encoder_has_a_tiny_configuration() -> None:
    assert {values["model_type"] for values in TINY_VISION.values()} == set(IMAGE_ENCODERS)


@each_encoder
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (32, 16)])
def test_any_multiple_of_the_stride(name: str, size: tuple[int, int]) -> None:
    model = tiny_model(name)
    masks, scores = outputs_of(model, pixel_values=torch.randn(2, 3, *size), **prompts())
    assert masks.shape == (2, 3, 3, size[0] // 4, size[1] // 4)
    assert scores.shape == (2, 3, 3)
    assert masks.isfinite().all()


@each_encoder
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = tiny_model(name).train()
    inputs = prompts()
    boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0]]).expand(2, 3, 4)
    masks = torch.randn(2, 3, 16, 16)
    masks[0, 0] = torch.nan  # one object without a mask prompt: no_mask_embed
    x = torch.randn(2, 3, 64, 64)
    with_box = model(pixel_values=x, input_boxes=boxes, input_masks=masks, **inputs)
    without = model(pixel_values=x, multimask_output=False, **inputs)
    total = sum(output.pred_masks.square().mean() + output.iou_scores.square().mean() for output in (with_box, without))
    total.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # a shift of all keys, or in front of a norm over the same channels, changes nothing
    assert [key for key in dead if not key.endswith(("k_proj.bias", "neck.0.bias"))] == []


@each_encoder
@pytest.mark.parametrize("shards", ["5GB", "40KB"])
def test_saved_and_loaded_is_the_same_bit_for_bit(name: str, shards: str, tmp_path: Path, poison_empty: None) -> None:
    model = tiny_model(name)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), **prompts(1)}
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "40KB")
    for auto in (AutoModel, AutoModelForMaskGeneration):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is SamVariantsModel
        assert not loaded.training
        for expected, found in zip(outputs_of(model, **inputs), outputs_of(loaded, **inputs), strict=True):
            assert torch.equal(expected, found)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in loaded.state_dict().items())


@each_encoder
def test_one_part_loads_alone_and_out_of_a_whole_checkpoint(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "whole")
    for child in ("image_encoder", "prompt_encoder", "mask_decoder"):
        part = getattr(model, child)
        part.save_pretrained(tmp_path / child)
        for folder in ("whole", child):
            loaded = type(part).from_pretrained(tmp_path / folder)
            assert loaded.state_dict().keys() == part.state_dict().keys()
            assert all(torch.equal(part.state_dict()[key], value) for key, value in loaded.state_dict().items())
        assert type(AutoModel.from_pretrained(tmp_path / child)) is type(part)


def test_non_persistent_indexes_are_refilled_after_the_meta_device(tmp_path: Path, poison_empty: None) -> None:
    tiny_model("tiny_vit").save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    indexes = [module for module in loaded.modules() if isinstance(module, TinyAttention)]
    assert indexes
    for module in indexes:
        assert torch.equal(module.attention_bias_idxs, attention_bias_indexes(module.resolution))


@each_encoder
def test_eager_equals_sdpa_and_records(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), **prompts()}
    with torch.no_grad():
        out = eager(**inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(out.pred_masks, outputs_of(model, **inputs)[0], atol=1e-5, rtol=0)
    blocks = sum(1 for key, _ in model.image_encoder.named_modules() if key.endswith(".core"))
    assert len(out.vision_attentions) == blocks
    assert len(out.mask_decoder_attentions) == 7  # three in each of two blocks, and the last
    for attention in (*out.vision_attentions, *out.mask_decoder_attentions):
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]), atol=1e-5, rtol=0)
    assert len(out.vision_hidden_states) == model.config.vision_config.num_hidden_layers + 1
    model.set_attn_implementation("eager")
    assert model.image_encoder.config._attn_implementation == "eager"
    torch.testing.assert_close(outputs_of(model, **inputs)[0], out.pred_masks, atol=1e-6, rtol=0)


@each_encoder
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    model = tiny_model(name)
    twin = copy.deepcopy(model)
    twin.activation_checkpointing_enable()
    x, prompt = torch.randn(2, 3, 64, 64), prompts()
    calls = []
    for candidate in (model.train(), twin.train()):
        modules = candidate.image_encoder.modules()
        layer: Any = next(x for x in modules if isinstance(x, GradientCheckpointingLayer) and hasattr(x, "attn"))
        counter: list[int] = []
        layer.attn.register_forward_pre_hook(lambda *_, counter=counter: counter.append(1))
        candidate(pixel_values=x, **prompt).pred_masks.square().mean().backward()
        calls.append(len(counter))
    assert calls == [1, 2]  # the second model computed the layer again
    for (key, one), (_, two) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, msg=key)


@each_encoder
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(name)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), **prompts(1)}
    expected = outputs_of(model, **inputs)[0]
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    found = outputs_of(half, **inputs | {"pixel_values": inputs["pixel_values"].to(dtype)})[0]
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.2 * expected.std()


@each_encoder
def test_compiles_without_a_graph_break(name: str) -> None:
    model = tiny_model(name)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), **prompts(1)}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outputs_of(compiled, **inputs)[0], outputs_of(model, **inputs)[0], atol=1e-5, rtol=0)


@each_encoder
def test_exports_with_any_number_of_images_objects_and_points(name: str) -> None:
    model = tiny_model(name)
    batch, objects, points = (torch.export.Dim(axis, min=2, max=8) for axis in ("batch", "objects", "points"))
    shapes = {
        "pixel_values": {0: batch},
        "input_points": {0: batch, 1: objects, 2: points},
        "input_labels": {0: batch, 1: objects, 2: points},
    }
    example = {"pixel_values": torch.randn(2, 3, 64, 64), **prompts(2, 3, 2)}
    exported = torch.export.export(model, (), example, dynamic_shapes=shapes)
    other = {"pixel_values": torch.randn(3, 3, 64, 64), **prompts(3, 2, 4)}
    found = exported.module()(**other)
    torch.testing.assert_close(found.pred_masks, outputs_of(model, **other)[0], atol=1e-5, rtol=0)


@each_encoder
def test_disk_offload(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    device_map = {"image_encoder": "cpu", "prompt_encoder": "disk", "mask_decoder": "disk"}
    loaded = AutoModel.from_pretrained(tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload")
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), **prompts(1)}
    # The decoder folds weights that are there, not ones that come and go: other roundings.
    torch.testing.assert_close(outputs_of(loaded, **inputs)[0], outputs_of(model, **inputs)[0], atol=1e-5, rtol=0)


@each_encoder
def test_image_embeddings_are_computed_once_for_any_number_of_prompts(name: str) -> None:
    model = tiny_model(name)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embeddings = model.get_image_embeddings(x)
    for _ in range(2):
        prompt = prompts()
        expected = outputs_of(model, pixel_values=x, **prompt)[0]
        assert torch.equal(outputs_of(model, image_embeddings=embeddings, **prompt)[0], expected)
    assert isinstance(embeddings, list) == (model.config.mask_decoder_config.high_resolution_channels is not None)


@each_encoder
def test_another_image_size_at_load(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, image_size=128)
    assert loaded.config.image_size == 128
    assert loaded.prompt_encoder.config.image_embedding_size == 8
    assert loaded.prompt_encoder.get_dense_pe().shape == (1, WIDTH, 8, 8)
    inputs = {"pixel_values": torch.randn(1, 3, 128, 128), **prompts(1)}
    assert torch.equal(outputs_of(loaded, **inputs)[0], outputs_of(model, **inputs)[0])


@each_encoder
def test_fuse(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), **prompts(1)}
    expected = outputs_of(model, **inputs)[0]
    assert model.fuse() is model
    torch.testing.assert_close(outputs_of(model, **inputs)[0], expected, atol=1e-4, rtol=0)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with pytest.raises(ValueError, match="fused"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="fused"):
        model.train()


@each_encoder
def test_without_prompts_there_is_one_answer_per_image(name: str) -> None:
    masks, scores = outputs_of(tiny_model(name), pixel_values=torch.randn(2, 3, 64, 64))
    assert masks.shape[:3] == (2, 1, 3)
    assert scores.shape == (2, 1, 3)


def test_parts_are_built_from_presets_alone() -> None:
    config = tiny_config("tiny_vit")
    assert isinstance(SamVariantsModel(config).prompt_encoder, PromptEncoder)
    assert isinstance(SamVariantsModel(config).mask_decoder, MaskDecoder)


def test_tiny_vit_learning_rate_scales_and_other_image_sizes() -> None:
    encoder = tiny_model("tiny_vit").image_encoder
    encoder.set_layer_lr_decay(0.5)
    assert encoder.patch_embed.seq[0].c.weight.lr_scale == 0.125
    assert encoder.layers[1].blocks[0].attn.qkv.weight.lr_scale == 0.25
    assert encoder.neck[0].weight.lr_scale == 1.0
    assert encoder.no_weight_decay_keywords() == {"attention_biases"}
    encoder.set_imgsz((96, 128))
    assert encoder.layers[2].input_resolution == (6, 8)
    with pytest.raises(ValueError, match="multiples of the stride 16"):
        encoder.set_imgsz((100, 128))


def test_cached_attention_bias_follows_the_parameter() -> None:
    attention = TinyAttention(8, 4, 2, 1, (3, 3)).eval()
    with torch.no_grad():
        attention.attention_biases.normal_()
        first = attention.ab
        assert attention.ab is first
        attention.load_state_dict({key: value + 1 for key, value in attention.state_dict().items()})
        assert torch.equal(attention.ab, first + 1)
        attention.to(torch.bfloat16)
        assert attention.ab.dtype == torch.bfloat16
