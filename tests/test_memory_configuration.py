"""The configurations of the memory modules, and the published parameters that they give."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_encoder import MemoryEncoder

REFUSED_ATTENTION = {
    "d_model": ({"d_model": 20, "num_heads": 2}, r"d_model=20 .*num_heads=8"),
    "num_heads": ({"num_heads": 0}, "num_heads=0"),
    "num_layers": ({"num_layers": 0}, "num_layers=0"),
    "dropout": ({"dropout": 1.0}, "dropout=1.0"),
    "activation": ({"activation": "reluu"}, "activation='reluu'"),
    "feat_sizes": ({"feat_sizes": (3, 3, 3)}, "feat_sizes"),
    "feat_sizes zero": ({"feat_sizes": (3, 0)}, "feat_sizes"),
    "rope_theta": ({"rope_theta": 0}, "rope_theta=0"),
}
REFUSED_ENCODER = {
    "out_dim": ({"out_dim": 6}, "out_dim=6"),
    "num_pos_feats": ({"num_pos_feats": 2}, "num_pos_feats=2"),
    "total stride": ({"mask_downsampler_total_stride": 12}, "mask_downsampler_total_stride=12"),
    "stride": ({"mask_downsampler_stride": 1}, "mask_downsampler_stride=1"),
    "padding": ({"mask_downsampler_padding": 0}, "mask_downsampler_padding=0"),
    "fuser": ({"fuser_padding": 2}, "fuser_kernel_size=7"),
    "fuser layers": ({"fuser_num_layers": 0}, "fuser_num_layers=0"),
    "activation": ({"hidden_act": "none"}, "hidden_act='none'"),
}
# Every parameter of the published files by a pattern, with its shape: SAM 2 and 2.1, all sizes.
PUBLISHED = {
    r"layers\.[0-3]\.self_attn\.(q|k|v|out)_proj\.weight": (256, 256),
    r"layers\.[0-3]\.cross_attn_image\.(q|out)_proj\.weight": (256, 256),
    r"layers\.[0-3]\.cross_attn_image\.(k|v)_proj\.weight": (256, 64),
    r"layers\.[0-3]\.(self_attn|cross_attn_image)\.(q|k|v|out)_proj\.bias": (256,),
    r"layers\.[0-3]\.linear1\.weight": (2048, 256),
    r"layers\.[0-3]\.linear1\.bias": (2048,),
    r"layers\.[0-3]\.linear2\.weight": (256, 2048),
    r"layers\.[0-3]\.linear2\.bias": (256,),
    r"(layers\.[0-3]\.norm[123]|norm)\.(weight|bias)": (256,),
    r"mask_downsampler\.encoder\.0\.weight": (4, 1, 3, 3),
    r"mask_downsampler\.encoder\.3\.weight": (16, 4, 3, 3),
    r"mask_downsampler\.encoder\.6\.weight": (64, 16, 3, 3),
    r"mask_downsampler\.encoder\.9\.weight": (256, 64, 3, 3),
    r"mask_downsampler\.encoder\.12\.weight": (256, 256, 1, 1),
    r"mask_downsampler\.encoder\.(0\.bias|1\.weight|1\.bias)": (4,),
    r"mask_downsampler\.encoder\.(3\.bias|4\.weight|4\.bias)": (16,),
    r"mask_downsampler\.encoder\.(6\.bias|7\.weight|7\.bias)": (64,),
    r"mask_downsampler\.encoder\.(9\.bias|10\.weight|10\.bias|12\.bias)": (256,),
    r"pix_feat_proj\.weight": (256, 256, 1, 1),
    r"pix_feat_proj\.bias": (256,),
    r"fuser\.layers\.[01]\.dwconv\.weight": (256, 1, 7, 7),
    r"fuser\.layers\.[01]\.(gamma|dwconv\.bias|norm\.weight|norm\.bias|pwconv2\.bias)": (256,),
    r"fuser\.layers\.[01]\.pwconv1\.weight": (1024, 256),
    r"fuser\.layers\.[01]\.pwconv1\.bias": (1024,),
    r"fuser\.layers\.[01]\.pwconv2\.weight": (256, 1024),
    r"out_proj\.weight": (64, 256, 1, 1),
    r"out_proj\.bias": (64,),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED_ATTENTION.values(), ids=REFUSED_ATTENTION)
def test_attention_configuration_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryAttentionConfig(**changes)


@pytest.mark.parametrize(("changes", "message"), REFUSED_ENCODER.values(), ids=REFUSED_ENCODER)
def test_encoder_configuration_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryEncoderConfig(**changes)


def test_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        models = [MemoryAttention(MemoryAttentionConfig()), MemoryEncoder(MemoryEncoderConfig())]
    state = {key: tuple(value.shape) for model in models for key, value in model.state_dict().items()}
    assert len(state) == 106 + 38 + 2
    for pattern, shape in PUBLISHED.items():
        found = {key: state.pop(key) for key in list(state) if re.fullmatch(pattern, key)}
        assert found, pattern
        assert set(found.values()) == {shape}, found
    assert state == {}
