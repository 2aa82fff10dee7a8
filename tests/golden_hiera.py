"""SAM 2's image encoder as the goldens know it: maps behind every block, outputs in dicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.fpn_neck import FpnNeck
from sam_variants.encoders.hiera import Hiera
from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine


def values_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a specification whose values are plain."""
    return {key: value for key, value in spec.items() if not key.startswith("_")}


class ObservedHiera(Hiera):
    """`Hiera` whose blocks the reference observes: they get whole maps in a second pass, the result is the first's."""

    def forward(self, x: Tensor, all_maps: list[Tensor] | None = None) -> list[Tensor]:
        levels = super().forward(x)
        maps: list[Tensor] = []
        for level, slow in zip(levels, super().forward(x, maps), strict=True):
            torch.testing.assert_close(level, slow, atol=1e-5, rtol=1e-5)
        assert len(maps) == len(self.blocks) + 1
        return levels


def build_hiera(spec: dict[str, Any]) -> nn.Module:
    return ObservedHiera(**values_of(spec))


def build_wide_fpn_neck(**arguments: Any) -> nn.Module:
    """One form of the reference encodes positions in 256 channels, whatever the width."""
    return FpnNeck(**arguments, position_encoding=PositionEmbeddingSine(256))


class DictImageEncoder(ImageEncoder):
    """`ImageEncoder` with the official names of its outputs."""

    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)
        levels = [*output.high_resolution_features, output.last_hidden_state]
        return {
            "vision_features": levels[-1],
            "vision_pos_enc": [self.neck.position_encoding(level) for level in levels],
            "backbone_fpn": levels,
        }


def build_image_encoder(spec: dict[str, Any]) -> nn.Module:
    trunk, neck = values_of(spec["trunk"]), values_of(spec["neck"])
    config = HieraConfig(
        image_size=128,
        out_chans=neck.pop("d_model"),
        scalp=spec["scalp"],
        fpn_interp_model=neck["fpn_interp_model"],
        fpn_top_down_levels=neck["fpn_top_down_levels"],
        **trunk,
    )
    assert config.backbone_channel_list == neck["backbone_channel_list"]
    encoder = DictImageEncoder(config)
    if "position_encoding" not in neck:
        encoder.neck.position_encoding = PositionEmbeddingSine(256)
    return encoder


def run_position_embedding(module: Hiera, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The positions of a square map and of one that is not."""
    return {"16x16": module._get_pos_embed((16, 16)), "24x40": module._get_pos_embed((24, 40))}


def run_image_encoder(module: DictImageEncoder, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The reference kept one position encoding whole and of another the mean of every channel."""
    output = module(inputs["x"])
    positions = output.pop("vision_pos_enc")
    return {
        **output,
        "vision_pos_enc_last": positions[-1],
        "vision_pos_enc_first_mean": positions[0].mean(dim=(0, 2, 3)),
    }
