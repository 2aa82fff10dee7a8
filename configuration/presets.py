"""The published variants, each stating only what differs from the defaults."""

from __future__ import annotations

import copy
from typing import Any

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig

# What prompts and decoder of every SAM 2 have and those of SAM don't.
SAM2_PROMPT_ENCODER: dict[str, Any] = {"pad_boxes": True}
SAM2_MASK_DECODER: dict[str, Any] = {
    "high_resolution_channels": [256, 256],
    "sam2_transformer": True,
    "iou_prediction_use_sigmoid": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "use_multimask_token_for_obj_ptr": True,
    "dynamic_multimask_via_stability": True,
}
# What its automatic mask generator has other than SAM's.
SAM2_MASK_GENERATION: dict[str, Any] = {"pred_iou_thresh": 0.8}
# What SAM 2.0 lacks; SAM 2.1's switches are the defaults.
SAM2_0: dict[str, Any] = {
    "no_obj_embed_spatial": False,
    "add_tpos_enc_to_obj_ptrs": False,
    "proj_tpos_enc_in_obj_ptrs": False,
    "use_signed_tpos_enc_to_obj_ptrs": False,
}
HIERA_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "stages": [1, 2, 7, 2],
        "global_att_blocks": [5, 7, 9],
        "window_pos_embed_bkg_spatial_size": [7, 7],
    },
    "small": {
        "stages": [1, 2, 11, 2],
        "global_att_blocks": [7, 10, 13],
        "window_pos_embed_bkg_spatial_size": [7, 7],
    },
    "base-plus": {"embed_dim": 112, "num_heads": 2},
    "large": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": [2, 6, 36, 4],
        "global_att_blocks": [23, 33, 43],
        "window_pos_embed_bkg_spatial_size": [7, 7],
        "window_spec": [8, 4, 16, 8],
    },
}


def sam2(size: str, version: dict[str, Any]) -> dict[str, Any]:
    """One row of `PRESETS`: a size in `HIERA_SIZES` with a version's switches."""
    return {
        "model_type": SamVariantsVideoConfig.model_type,
        "vision_config": {"model_type": "sam_variants_hiera", **HIERA_SIZES[size]},
        "prompt_encoder_config": SAM2_PROMPT_ENCODER,
        "mask_decoder_config": SAM2_MASK_DECODER,
        "mask_generation": SAM2_MASK_GENERATION,
        **version,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "sam-vit-base": {"vision_config": {"model_type": "sam_variants_vit"}},
    "sam-vit-large": {
        "vision_config": {
            "model_type": "sam_variants_vit",
            "embed_dim": 1024,
            "depth": 24,
            "num_heads": 16,
            "global_attn_indexes": [5, 11, 17, 23],
        }
    },
    "sam-vit-huge": {
        "vision_config": {
            "model_type": "sam_variants_vit",
            "embed_dim": 1280,
            "depth": 32,
            "num_heads": 16,
            "global_attn_indexes": [7, 15, 23, 31],
        }
    },
    "mobile-sam": {"vision_config": {"model_type": "sam_variants_tiny_vit"}},
    **{f"sam2.1-hiera-{size}": sam2(size, {}) for size in HIERA_SIZES},
    **{f"sam2-hiera-{size}": sam2(size, SAM2_0) for size in HIERA_SIZES},
}


def config_for(preset: str) -> SamVariantsConfig:
    """The configuration of a published variant.

    Args:
        preset: a name in `PRESETS`, for example `"mobile-sam"`.

    Returns:
        A fresh `SamVariantsConfig`, for the presets of SAM 2 and 2.1 a `SamVariantsVideoConfig`;
        `AutoModel.from_config(config_for("mobile-sam"))` has random weights.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    values = copy.deepcopy(PRESETS[preset])
    model_type = values.pop("model_type", SamVariantsConfig.model_type)
    config_class = SamVariantsVideoConfig if model_type == SamVariantsVideoConfig.model_type else SamVariantsConfig
    return config_class(**values)
