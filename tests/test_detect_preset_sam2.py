"""SAM 2 and 2.1: what names and shapes show of a checkpoint's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import (
    TINY,
    image_keys,
    same_tensors,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from inventories import inventory
from transformers import AutoModel

from sam_variants.checkpoint_layouts.detect_preset import detect_config, fits, image_part
from sam_variants.checkpoint_layouts.found_sizes import found_values
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.presets import PRESETS, SAM2_0, config_for

SAM2_PRESETS = [preset for preset in PRESETS if preset.startswith("sam2")]


def our_shapes(values: dict[str, Any] | SamVariantsConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model that is never filled."""
    config = SamVariantsVideoConfig(**values) if isinstance(values, dict) else values
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def finetuned(preset: str, **changes: Any) -> SamVariantsConfig:
    """A preset's configuration with changed fields, a dict for those of a part."""
    config = config_for(preset)
    for name, value in changes.items():
        part = getattr(config, name)
        setattr(config, name, type(part)(**{**part.to_dict(), **value}) if isinstance(value, dict) else value)
    return config


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("sam2.1-hiera-small", {"num_maskmem": 4}),
        ("sam2-hiera-large", {"memory_attention_config": {"num_layers": 2, "dim_feedforward": 512}}),
        ("sam2.1-hiera-base-plus", {"mask_decoder_config": {"num_multimask_outputs": 5, "iou_head_depth": 4}}),
        ("sam2.1-hiera-tiny", {"memory_encoder_config": {"fuser_num_layers": 3, "layer_scale_init_value": 0.0}}),
        ("sam2-hiera-tiny", {"no_obj_embed_spatial": True}),
    ],
)
def test_finetuned_sizes_are_read_from_shapes(
    preset: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What shapes do not show of the image encoder is that of the preset that has such an encoder."""
    config = finetuned(preset, **changes)
    assert detect_config(our_shapes(config), "the file").to_dict() == config.to_dict()
    assert "the file fits no preset: its configuration was built from the shapes" in caplog.text


@pytest.mark.parametrize("preset", SAM2_PRESETS)
def test_image_parts_are_told_from_whole_models(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    published = inventory(preset.replace("-", "_"))["shapes"]
    images = image_keys({name.removeprefix("sam_"): tuple(shape) for name, shape in published.items()})
    config = detect_config(images, "the file")
    assert type(config) is SamVariantsConfig
    assert config.to_dict() == image_part(config_for(preset)).to_dict()
    assert not caplog.records
    without_vector = {name: shape for name, shape in images.items() if name != "no_mem_embed"}
    assert detect_config(without_vector, "the file").to_dict() == {**config.to_dict(), "use_no_mem_embed": False}
    assert "fits no preset" in caplog.text


def test_an_unknown_hiera_is_asked_for(tmp_path: Path) -> None:
    torch.save({"model": export_state_dict(tiny_model("sam2"), "sam2")}, tmp_path / "finetuned.pt")
    hidden = "num_heads, window_spec, global_att_blocks, the decoder's number of heads"
    with pytest.raises(ValueError, match=f"shapes do not show {hidden}: found .*'stages': .* preset= with one of"):
        load_checkpoint(tmp_path / "finetuned.pt")


def test_what_a_file_lacks_is_named() -> None:
    shapes = our_shapes(TINY["sam2"])
    for name in ("memory_attention.norm.weight", "image_encoder.neck.convs.0.conv.weight"):
        with pytest.raises(ValueError, match=f"^x lacks the key '{name}', without which"):
            detect_config({other: shape for other, shape in shapes.items() if other != name}, "x")
    with pytest.raises(ValueError, match=r"^x has parameters of other dimensions"):
        detect_config({**shapes, "image_encoder.trunk.patch_embed.proj.weight": (8,)}, "x")


def test_a_bare_state_dict_of_ours_is_read(tmp_path: Path) -> None:
    """Without config.json, with or without the memory."""
    model = tiny_model("sam2")
    for name, config in (("video", model.config), ("images", image_part(model.config))):
        expected = model.state_dict() if name == "video" else image_keys(model.state_dict())
        torch.save({f"module.{key}": tensor for key, tensor in expected.items()}, tmp_path / f"{name}.pt")
        loaded = load_checkpoint(tmp_path / f"{name}.pt", preset=config)
        assert same_tensors(loaded.state_dict(), expected)


SIZES = st.fixed_dictionaries(
    {
        "embed_dim": st.sampled_from([4, 8, 12]),
        "stages": st.lists(st.integers(1, 3), min_size=4, max_size=4),
        "mlp_ratio": st.sampled_from([2.0, 3.0, 4.0]),
        "window_pos_embed_bkg_spatial_size": st.tuples(st.integers(1, 5), st.integers(1, 5)).map(list),
        "window_spec": st.sampled_from([[8, 4, 6, 3], [4, 2, 2, 1], [16, 8, 4, 2]]),
    }
)


@settings(deadline=None, max_examples=20)
@given(
    vision=SIZES,
    depths=st.tuples(*[st.integers(1, 3)] * 5),
    masks=st.integers(1, 4),
    memory_width=st.sampled_from([8, 16, 32]),
    version=st.sampled_from([{}, SAM2_0]),
)
def test_shapes_show_what_the_configuration_says(
    vision: dict[str, Any], depths: tuple[int, ...], masks: int, memory_width: int, version: dict[str, Any]
) -> None:
    """Whatever the sizes are, those found in the shapes of such a model are its configuration's and no other's."""
    values = {
        **TINY["sam2"],
        **version,
        "vision_config": {**TINY["sam2"]["vision_config"], **vision, "global_att_blocks": [], "out_chans": 32},
        "prompt_encoder_config": {**TINY["sam2"]["prompt_encoder_config"], "embed_dim": 32},
        "mask_decoder_config": {
            **TINY["sam2"]["mask_decoder_config"],
            "transformer_dim": 32,
            "high_resolution_channels": [32, 32],
            "num_multimask_outputs": masks,
            "transformer_depth": depths[0],
            "iou_head_depth": 1 + depths[1],
        },
        "memory_attention_config": {"d_model": 32, "num_layers": depths[2], "kv_in_dim": memory_width},
        "memory_encoder_config": {"in_dim": 32, "out_dim": memory_width, "fuser_num_layers": depths[3]},
        "num_maskmem": depths[4],
    }
    found = found_values(our_shapes(values), "the file")
    config = SamVariantsVideoConfig(**values)
    assert fits(found, config)
    for part, name in [("vision_config", "mlp_ratio"), ("memory_attention_config", "num_layers")]:
        assert not fits({**found, part: {**found[part], name: found[part][name] + 1}}, config)
