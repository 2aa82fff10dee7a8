"""One tiny configuration per encoder: a test that sweeps `TINY_VISION` covers a new encoder when its row exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig, vision_config_from
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for

WIDTH = 32
MEMORY_WIDTH = 16

TINY_VISION: dict[str, dict[str, Any]] = {
    "tiny_vit": {
        "model_type": "sam_variants_tiny_vit",
        "image_size": 64,
        "embed_dims": [16, 24, 32, 40],
        "depths": [1, 1, 1, 1],
        "num_heads": [2, 2, 2, 2],
        "window_sizes": [4, 4, 4, 4],
        "strides": [2, 2, 1],
        "out_chans": WIDTH,
        "num_classes": 0,
    },
    "vit": {
        "model_type": "sam_variants_vit",
        "image_size": 64,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "out_chans": WIDTH,
        "window_size": 3,
        "global_attn_indexes": [1],
    },
    "hiera": {
        "model_type": "sam_variants_hiera",
        "image_size": 64,
        "embed_dim": 8,
        "stages": [1, 2, 3, 1],
        "global_att_blocks": [4],
        "window_spec": [8, 4, 6, 3],
        "window_pos_embed_bkg_spatial_size": [5, 5],
        "out_chans": WIDTH,
    },
}
TINY_VISION["tiny_vit_with_skips"] = TINY_VISION["tiny_vit"] | {"use_high_resolution_features": True}


def tiny_config(name: str, **fields: Any) -> SamVariantsConfig:
    """The composed tiny configuration of an encoder in TINY_VISION; `fields` go into the composed configuration."""
    vision_config = vision_config_from(TINY_VISION[name])
    return SamVariantsConfig(
        vision_config=vision_config,
        prompt_encoder_config={"embed_dim": WIDTH},
        mask_decoder_config={
            "transformer_dim": WIDTH,
            "transformer_num_heads": 4,
            "transformer_mlp_dim": 64,
            "iou_head_hidden_dim": WIDTH,
            "high_resolution_channels": vision_config.high_resolution_channels,
        },
        **fields,
    )


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Leave no parameter or statistic at zero or one, so that no path of the model is silently dead."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.3 * noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif tensor.ndim < 2:
                tensor.copy_(0.1 * noise)
            else:
                tensor.add_(0.05 * noise)
    return model


def tiny_model(name: str, seed: int = 0, **fields: Any) -> SamVariantsModel:
    """A tiny model in eval mode without a zero anywhere."""
    model = randomize(SamVariantsModel(tiny_config(name, **fields)), seed)
    return model.eval()  # type: ignore[return-value]


def save_tiny(folder: Path, name: str = "tiny_vit", seed: int = 0, **fields: Any) -> Path:
    """Write a tiny model with its processor, as `from_pretrained` and the command take it; return the folder."""
    model = tiny_model(name, seed, **fields)
    model.save_pretrained(folder)
    processor_for(model).save_pretrained(folder)
    return folder


def tiny_video_config(name: str = "tiny_vit_with_skips", **fields: Any) -> SamVariantsVideoConfig:
    """SAM 2.1's form of the decoder and a small memory over an encoder in TINY_VISION."""
    image = tiny_config(name)
    decoder = image.mask_decoder_config.to_dict() | {
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "iou_prediction_use_sigmoid": True,
        "use_multimask_token_for_obj_ptr": True,
    }
    memory = {"d_model": WIDTH, "kv_in_dim": MEMORY_WIDTH, "num_layers": 2, "dim_feedforward": 64}
    return SamVariantsVideoConfig(
        vision_config=dict(TINY_VISION[name]),
        prompt_encoder_config={"embed_dim": WIDTH, "pad_boxes": True},
        mask_decoder_config=decoder,
        **{
            "memory_attention_config": memory,
            "memory_encoder_config": {"in_dim": WIDTH, "out_dim": MEMORY_WIDTH},
            **fields,
        },
    )


def tiny_video_model(name: str = "tiny_vit_with_skips", seed: int = 0, **fields: Any) -> SamVariantsVideoModel:
    """A tiny model that tracks, in eval mode without a zero anywhere."""
    model = randomize(SamVariantsVideoModel(tiny_video_config(name, **fields)), seed)
    # Random scores would call most objects invisible, and all invisible objects are alike.
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)  # type: ignore[arg-type]
    return model.eval()  # type: ignore[return-value]


def save_tiny_video(folder: Path, name: str = "tiny_vit_with_skips", seed: int = 0, **fields: Any) -> Path:
    """The same as `save_tiny` with a model that tracks."""
    model = tiny_video_model(name, seed, **fields)
    model.save_pretrained(folder)
    processor_for(model).save_pretrained(folder)
    return folder
