"""SAM 2 and 2.1: the tables of transformers' two layouts, and their configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoint_models import (
    THEIR_IMAGE_PARTS,
    THEIR_VIDEO,
    TINY,
    image_keys,
    tiny_model,
)
from inventories import SAM2_SIZES, inventory, shapes_of, stand_ins
from transformers import AutoModel, Sam2VideoConfig

from sam_variants.checkpoint_layouts.detect_preset import image_part
from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.presets import PRESETS, config_for

SAM2_PRESETS = [preset for preset in PRESETS if preset.startswith("sam2")]
VIDEO, IMAGES = LAYOUTS["transformers-sam2-video"], LAYOUTS["transformers-sam2"]


@pytest.mark.parametrize("size", SAM2_SIZES)
def test_transformers_keys(size: str) -> None:
    """The tables take transformers' full-size keys to ours, and back."""
    ours = {name.removeprefix("sam_"): shape for name, shape in inventory(f"sam2.1_hiera_{size}")["shapes"].items()}
    video, images = (inventory(f"hf_sam2.1_hiera_{size}{kind}")["shapes"] for kind in ("", "_image"))
    assert shapes_of(VIDEO.table.to_ours(stand_ins(video))) == ours
    assert shapes_of(VIDEO.table.to_theirs(stand_ins(ours))) == video
    assert shapes_of(IMAGES.table.to_ours(stand_ins(images))) == image_keys(ours)
    for source in (ours, image_keys(ours)):
        assert shapes_of(IMAGES.table.to_theirs(stand_ins(source))) == images


def test_transformers_names_one_by_one() -> None:
    """Each name goes where an independent comparison by outputs sent it, also where shapes would not tell."""
    expected = inventory("map_sam2_to_transformers")
    numbered = {name.removeprefix("sam_"): torch.full((1, 1), float(i)) for i, name in enumerate(expected)}
    for layout, kept in ((VIDEO, numbered), (IMAGES, image_keys(numbered))):
        renamed = layout.table.to_theirs(numbered)
        assert len(renamed) == len(kept) + 1 - 3  # one more copy of the Gaussian matrix, four points in one tensor
        for ours, theirs in zip(numbered, expected.values(), strict=True):
            name, _, row = theirs.removesuffix("]").partition("[")
            if ours in kept:
                assert renamed[name][int(row or 0)].item() == numbered[ours].item(), ours


@pytest.mark.parametrize("preset", SAM2_PRESETS)
def test_presets_in_transformers_configurations(preset: str) -> None:
    """Every preset has both of transformers' models, and comes back from their configurations unchanged."""
    config = config_for(preset)
    theirs = VIDEO.config_to(config)
    assert isinstance(theirs, Sam2VideoConfig)
    assert theirs.enable_occlusion_spatial_embedding == preset.startswith("sam2.1")
    assert theirs.enable_temporal_pos_encoding_for_object_pointers == preset.startswith("sam2.1")
    assert VIDEO.config_from(theirs.to_dict()).to_dict() == config.to_dict()
    for source in (config, image_part(config)):
        images = IMAGES.config_from(IMAGES.config_to(source).to_dict())
        assert type(images) is SamVariantsConfig
        assert images.to_dict() == image_part(config).to_dict()


def test_transformers_defaults_are_sam2_1_tiny() -> None:
    """Found without a table of ours: both defaults are the published tiny model."""
    config = config_for("sam2.1-hiera-tiny")
    assert VIDEO.config_from({}).to_dict() == config.to_dict()
    assert IMAGES.config_from({}).to_dict() == image_part(config).to_dict()


def test_the_base_of_rotary_embeddings_in_published_configurations(caplog: pytest.LogCaptureFixture) -> None:
    """Those on the Hub have a field that transformers warns about; nobody who loads them has to hear of it."""
    assert VIDEO.config_from({"memory_attention_rope_theta": 500}).memory_attention_config.rope_theta == 500
    new = {"rope_parameters": {"rope_type": "axial", "rope_theta": 300.0}}
    assert VIDEO.config_from({"memory_attention_rope_theta": 500, **new}).memory_attention_config.rope_theta == 300
    assert not caplog.records


def test_sizes_are_told_apart() -> None:
    configs = [config_for(preset).to_dict() for preset in SAM2_PRESETS]
    assert all(one != other for index, one in enumerate(configs) for other in configs[:index])


def test_unusual_configurations_there_and_back() -> None:
    for layout, values in ((VIDEO, THEIR_VIDEO), (IMAGES, THEIR_IMAGE_PARTS)):
        ours = layout.config_from(values)
        assert (ours.image_size, ours.vision_config.dim_mul, ours.vision_config.head_mul) == (64, 1.5, 1.0)
        assert ours.prompt_encoder_config.pad_boxes
        assert layout.config_from(layout.config_to(ours).to_dict()).to_dict() == ours.to_dict()
    assert (ours.model_type, ours.use_no_mem_embed) == ("sam_variants", True)


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field, at a dotted path, that has another value."""
    name, _, rest = path.partition(".")
    return {**values, name: changed(values.get(name, {}), rest, value) if rest else value}


BACKBONE = "vision_config.backbone_config"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{BACKBONE}.patch_stride", [2, 2], r"needs vision_config\.patch_stride=\[4, 4\], .* has \[2, 2\]"),
        (f"{BACKBONE}.embed_dim_per_stage", [16, 24, 36, 55], "embed_dim_per_stage"),
        (f"{BACKBONE}.num_attention_heads_per_stage", [2, 2, 2, 3], "num_attention_heads_per_stage"),
        ("vision_config.backbone_channel_list", [54, 36, 24, 8], "backbone_channel_list"),
        ("vision_config.backbone_feature_sizes", [[32, 32], [16, 16], [8, 8]], "backbone_feature_sizes"),
        ("vision_config.fpn_kernel_size", 3, "fpn_kernel_size=1"),
        ("prompt_encoder_config.image_size", [64, 96], "not square"),
        ("prompt_encoder_config.num_point_embeddings", 5, "num_point_embeddings=4"),
        ("mask_decoder_config.num_hidden_layers", 3, "num_hidden_layers=2"),
        ("mask_decoder_config.hidden_size", 64, "must share one width"),
    ],
)
def test_contradicting_transformers_configs_are_refused(path: str, value: Any, message: str) -> None:
    for layout, values in ((VIDEO, THEIR_VIDEO), (IMAGES, THEIR_IMAGE_PARTS)):
        with pytest.raises(ValueError, match=message):
            layout.config_from(changed(values, path, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 128),
        ("multimask_output_in_sam", False),
        ("memory_attention_downsample_rate", 2),
        ("memory_attention_rope_dropout", 0.2),
        ("memory_encoder_output_channels", 32),
        ("mask_downsampler_total_stride", 8),
        ("memory_fuser_intermediate_dim", 256),
    ],
)
def test_contradicting_video_configs_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"transformers' Sam2VideoModel needs {name}=.* has {value}"):
        VIDEO.config_from({**THEIR_VIDEO, name: value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("use_no_mem_embed", False),
        ("vision_config.fuse_type", "avg"),
        ("vision_config.fpn_interp_model", "bilinear"),
        ("prompt_encoder_config.pad_boxes", False),
        ("mask_decoder_config.iou_prediction_use_sigmoid", False),
        ("mask_decoder_config.transformer_act", "gelu"),
        ("binarize_mask_from_pts_for_mem_enc", False),
        ("memory_temporal_stride_for_eval", 2),
        ("use_signed_tpos_enc_to_obj_ptrs", False),
        ("memory_attention_config.pos_enc_at_attn", True),
        ("memory_encoder_config.out_dim", 32),
        ("memory_encoder_config.mask_downsampler_total_stride", 8),
    ],
)
def test_what_transformers_does_not_compute_is_refused(path: str, value: Any) -> None:
    values = changed(TINY["sam2"], path, value)
    if path == "memory_encoder_config.out_dim":
        values = changed(values, "memory_attention_config.kv_in_dim", value)
    with pytest.raises(ValueError, match=rf"transformers' Sam2VideoModel needs {path}=.* has {value!r}"):
        VIDEO.config_to(SamVariantsVideoConfig(**values))
    if "memory" not in path and path.startswith(("use_no", "vision", "prompt", "mask_decoder")):
        with pytest.raises(ValueError, match=rf"transformers' Sam2Model needs {path}="):
            IMAGES.config_to(SamVariantsVideoConfig(**values))


def test_other_architectures_are_refused() -> None:
    for layout, preset in ((VIDEO, "mobile-sam"), (IMAGES, "sam-vit-base")):
        with pytest.raises(ValueError, match=r"model_type='sam_variants_(video|hiera)', this configuration has"):
            layout.config_to(config_for(preset))


def test_what_a_layout_cannot_hold_is_refused() -> None:
    images: Any = AutoModel.from_config(image_part(tiny_model("sam2").config))
    for layout, missing in (("sam2", "mask_downsample"), ("transformers-sam2-video", "mask_downsample")):
        with pytest.raises(ValueError, match=rf"layout are missing: {missing}\.\*"):
            export_state_dict(images, layout)
    with pytest.raises(
        ValueError, match=r"do not belong to the transformers Sam2Model layout: .*image_encoder\.layers"
    ):
        export_state_dict(tiny_model("mobile-sam"), "transformers-sam2")
    state = {**stand_ins(inventory("sam2.1_hiera_tiny")["shapes"]), "image_encoder.trunk.body.0.weight": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"1 keys do not belong to the official SAM 2 layout: .*trunk\.body\.0\.weight$"
    ):
        LAYOUTS["sam2"].table.to_ours(state)
