"""Optimiser groups: every trained parameter once, at the rate of its depth, decayed where it is a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import TINY_VISION, tiny_model, tiny_video_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sam_variants.training.lora import add_lora
from sam_variants.training.parameter_groups import parameter_groups

RATE, WEIGHT_DECAY, LAYER_DECAY = 1e-3, 0.05, 0.5
# Depth by the beginning of a name in the tiny encoders: blocks from the last one down, then what lies before them.
DEPTHS = {
    "vit": {
        "neck.0": 0,
        "blocks.2.attn.qkv.weight": 1,
        "blocks.1.attn.rel_pos_h": 2,
        "blocks.0.norm1.bias": 3,
        "patch_embed.proj": 4,
        "pos_embed": 4,
    },
    "hiera": {
        "neck.convs.0": 0,
        "trunk.blocks.6.attn.qkv": 1,
        "trunk.blocks.3.mlp.layers.0": 4,
        "trunk.blocks.0.norm1": 7,
        "trunk.patch_embed.proj": 8,
        "trunk.pos_embed": 8,
        "trunk.pos_embed_window": 8,
    },
    # TinyViT's own rule: the last block at the full rate, the patch embedding like the first block.
    "tiny_vit": {
        "neck.0": 0,
        "layers.3.blocks.0.attn.attention_biases": 0,
        "layers.2.downsample.conv1.c": 1,
        "layers.2.blocks.0.mlp.fc1": 1,
        "layers.1.blocks.0.local_conv.bn": 2,
        "layers.0.blocks.0.conv1.c": 3,
        "patch_embed.seq.0.c": 3,
    },
}
NOT_DECAYED = (
    "attention_biases",
    "rel_pos_h",
    "rel_pos_w",
    "pos_embed",
    "pos_embed_window",
    "no_mem_embed",
    "no_mem_pos_enc",
    "maskmem_tpos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "iou_token.weight",
    "mask_tokens.weight",
    "obj_score_token.weight",
    "point_embeddings.0.weight",
    "not_a_point_embed.weight",
    "no_mask_embed.weight",
)
DECAYED = ("qkv.weight", "proj.weight", "lin1.weight", "q_proj.weight", "conv_s0.weight", "output_upscaling.0.weight")


def places(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The group of every parameter by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def models() -> Iterator[Any]:
    for name in TINY_VISION:
        yield pytest.param(lambda name=name: tiny_model(name), id=name)
    yield pytest.param(tiny_video_model, id="video")
    yield pytest.param(lambda: tiny_video_model("hiera"), id="sam2-video")
    yield pytest.param(lambda: tiny_model("tiny_vit").image_encoder, id="encoder-alone")
    yield pytest.param(lambda: nn.ModuleDict({"student": tiny_model("tiny_vit").image_encoder}), id="student")


@pytest.mark.parametrize("build", models())
@pytest.mark.parametrize("layer_decay", [1.0, LAYER_DECAY])
def test_every_trained_parameter_is_in_one_group(build: Any, layer_decay: float) -> None:
    model = build()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    groups = parameter_groups(model, RATE, WEIGHT_DECAY, layer_decay)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in model.parameters()} - {id(frozen)}
    assert [group["lr"] for group in groups] == [RATE * layer_decay ** group["layer"] for group in groups]
    if layer_decay == 1:
        assert [(group["layer"], group["weight_decay"]) for group in groups] == [(0, WEIGHT_DECAY), (0, 0.0)]
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("name", DEPTHS)
def test_the_rate_falls_with_the_depth(name: str) -> None:
    model = tiny_model(name)
    found = places(model, parameter_groups(model, RATE, WEIGHT_DECAY, LAYER_DECAY))
    for start, layer in DEPTHS[name].items():
        layers = {group["layer"] for full, group in found.items() if full.startswith(f"image_encoder.{start}")}
        assert layers == {layer}, start
    outside = {group["layer"] for full, group in found.items() if not full.startswith("image_encoder.")}
    assert outside == {0}


def test_tiny_vit_follows_its_own_rule() -> None:
    model = tiny_model("tiny_vit")
    model.image_encoder.set_layer_lr_decay(0.9)  # another than is asked for
    found = places(model, parameter_groups(model, RATE, WEIGHT_DECAY, LAYER_DECAY))
    for name, parameter in model.image_encoder.named_parameters():
        assert found[f"image_encoder.{name}"]["lr"] == pytest.approx(RATE * parameter.lr_scale), name
    assert found["image_encoder.patch_embed.seq.0.c.weight"]["lr"] == RATE * LAYER_DECAY**3


@pytest.mark.parametrize("build", [lambda: tiny_model("vit"), tiny_video_model, lambda: tiny_video_model("hiera")])
def test_only_matrices_are_decayed(build: Any) -> None:
    model = build()
    found = places(model, parameter_groups(model, RATE, WEIGHT_DECAY, LAYER_DECAY))
    for name, group in found.items():
        is_plain = name.endswith(("bias", "gamma", *NOT_DECAYED)) or "norm" in name or ".bn." in name
        if is_plain:
            assert group["weight_decay"] == 0, name
        elif name.endswith(DECAYED):
            assert group["weight_decay"] == WEIGHT_DECAY, name
        assert group["weight_decay"] == 0 or model.get_parameter(name).ndim > 1, name


def test_an_encoder_can_name_more_that_is_not_decayed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("tiny_vit")
    monkeypatch.setattr(type(model.image_encoder), "no_weight_decay_keywords", lambda self: {"fc1"})
    found = places(model, parameter_groups(model, RATE, WEIGHT_DECAY))
    assert found["image_encoder.layers.1.blocks.0.mlp.fc1.weight"]["weight_decay"] == 0
    assert found["image_encoder.layers.1.blocks.0.mlp.fc2.weight"]["weight_decay"] == WEIGHT_DECAY


@pytest.mark.parametrize("name", DEPTHS)
def test_adapters_have_the_depth_of_their_layers(name: str) -> None:
    block = {"vit": "blocks.0", "hiera": "trunk.blocks.0", "tiny_vit": "layers.1.blocks.0"}[name]
    depth = {"vit": 3, "hiera": 7, "tiny_vit": 2}[name]
    model = add_lora(tiny_model(name))
    found = places(model, parameter_groups(model, RATE, WEIGHT_DECAY, LAYER_DECAY))
    for side in "AB":
        group = found[f"base_model.model.image_encoder.{block}.attn.qkv.lora_{side}.default.weight"]
        assert (group["layer"], group["weight_decay"]) == (depth, WEIGHT_DECAY)
    decoder = [group["layer"] for full, group in found.items() if ".mask_decoder." in full]
    assert set(decoder) == {0}
    assert len(found) == len([parameter for parameter in model.parameters() if parameter.requires_grad])


def test_the_groups_of_a_model_for_several_processes(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = tiny_model("vit")
        wrapped = parameter_groups(DistributedDataParallel(model), RATE, WEIGHT_DECAY, LAYER_DECAY)
        alone = parameter_groups(model, RATE, WEIGHT_DECAY, LAYER_DECAY)
    finally:
        torch.distributed.destroy_process_group()
    assert [list(map(id, group.pop("params"))) for group in wrapped] == [
        list(map(id, group.pop("params"))) for group in alone
    ]
    assert wrapped == alone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 0.05), "learning_rate=0.0"),
        ((float("nan"), 0.05), "learning_rate=nan"),
        ((1e-3, -0.1), "weight_decay=-0.1"),
        ((1e-3, 0.05, 0.0), "layer_decay=0.0"),
        ((1e-3, 0.05, 1.1), "layer_decay=1.1"),
    ],
)
def test_numbers_out_of_their_range(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parameter_groups(nn.Linear(2, 2), *arguments)


def test_nothing_to_train_and_nothing_to_tell_the_depth_by() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), RATE, WEIGHT_DECAY)
    with pytest.raises(ValueError, match=r"layer_decay=0\.5 needs an image encoder.* Linear has none"):
        parameter_groups(nn.Linear(2, 2), RATE, WEIGHT_DECAY, LAYER_DECAY)
    for name in ("vit", "tiny_vit"):
        encoder = tiny_model(name).image_encoder
        encoder.register_parameter("stray", nn.Parameter(torch.zeros(2, 2)))
        with pytest.raises(ValueError, match="the depth of 'stray'"):
            parameter_groups(encoder, RATE, WEIGHT_DECAY, LAYER_DECAY)
        assert parameter_groups(encoder, RATE, WEIGHT_DECAY)
