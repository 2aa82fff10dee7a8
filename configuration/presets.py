"""The published variants, each stating only what differs from the defaults."""

from __future__ import annotations

import copy
from typing import Any

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig

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
}


def config_for(preset: str) -> SamVariantsConfig:
    """The configuration of a published variant.

    Args:
        preset: a name in `PRESETS`, for example `"mobile-sam"`.

    Returns:
        A fresh `SamVariantsConfig`; `SamVariantsModel(config_for("mobile-sam"))` has random weights.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    return SamVariantsConfig(**copy.deepcopy(PRESETS[preset]))
