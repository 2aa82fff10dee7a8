"""Tiny models with random weights for the checkpoint tests, and how two models are compared."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from sam_variants.configuration.presets import SAM2_0, SAM2_MASK_DECODER, SAM2_PROMPT_ENCODER
from sam_variants.modeling_sam_variants import SamVariantsModel

DECODER = {"transformer_dim": 32, "transformer_num_heads": 4, "transformer_mlp_dim": 40, "iou_head_hidden_dim": 24}
TINY = {
    "sam": {
        "vision_config": {
            "model_type": "sam_variants_vit",
            "image_size": 64,
            "patch_size": 8,
            "embed_dim": 24,
            "depth": 3,
            "num_heads": 3,
            "window_size": 3,
            "global_attn_indexes": [1],
            "out_chans": 32,
        },
        "prompt_encoder_config": {"embed_dim": 32, "mask_in_chans": 8},
        "mask_decoder_config": DECODER,
    },
    "mobile-sam": {
        "vision_config": {
            "model_type": "sam_variants_tiny_vit",
            "image_size": 64,
            "num_classes": 5,
            "embed_dims": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 3, 4],
            "window_sizes": [3, 3, 4, 3],
            "strides": [2, 2, 1],
            "out_chans": 32,
        },
        "prompt_encoder_config": {"embed_dim": 32, "mask_in_chans": 8},
        "mask_decoder_config": DECODER,
    },
    # transformers writes memories 64 wide; the embedding is twice that, so that object pointers are cut in two.
    "sam2": {
        "model_type": "sam_variants_video",
        "vision_config": {
            "model_type": "sam_variants_hiera",
            "image_size": 64,
            "embed_dim": 8,
            "num_heads": 1,
            "stages": [1, 2, 3, 1],
            "global_att_blocks": [4],
            "window_pos_embed_bkg_spatial_size": [3, 5],
            "window_spec": [8, 4, 6, 3],
            "out_chans": 128,
        },
        "prompt_encoder_config": {**SAM2_PROMPT_ENCODER, "embed_dim": 128, "mask_in_chans": 8},
        "mask_decoder_config": {
            **SAM2_MASK_DECODER,
            "high_resolution_channels": [128, 128],
            "transformer_dim": 128,
            "transformer_num_heads": 4,
            "transformer_mlp_dim": 40,
            "iou_head_hidden_dim": 24,
        },
        "memory_attention_config": {"d_model": 128, "num_layers": 2, "dim_feedforward": 48, "feat_sizes": [4, 4]},
        "memory_encoder_config": {"in_dim": 128},
    },
}


TINY_SAM2_0 = {**TINY["sam2"], **SAM2_0}

# transformers' Sam2Model and Sam2VideoModel in sizes that nobody published.
THEIR_IMAGE_PARTS: dict[str, Any] = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 16,
            "num_attention_heads": 2,
            "blocks_per_stage": [1, 2, 1, 1],
            "embed_dim_per_stage": [16, 24, 36, 54],
            "num_attention_heads_per_stage": [2, 2, 2, 2],
            "window_size_per_stage": [4, 2, 6, 2],
            "window_positional_embedding_background_size": [3, 5],
            "global_attention_blocks": [2],
            "mlp_ratio": 3.0,
        },
        "backbone_channel_list": [54, 36, 24, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
        "fpn_top_down_levels": [1, 2],
    },
    "prompt_encoder_config": {"hidden_size": 128, "image_size": 64, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 128,
        "mlp_dim": 40,
        "num_attention_heads": 4,
        "attention_downsample_rate": 1,
        "num_multimask_outputs": 2,
        "iou_head_depth": 4,
        "iou_head_hidden_dim": 24,
    },
}
THEIR_VIDEO: dict[str, Any] = {
    **THEIR_IMAGE_PARTS,
    "image_size": 64,
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 2,
    "memory_attention_num_attention_heads": 2,
    "memory_attention_feed_forward_hidden_size": 40,
    "memory_attention_rope_feat_sizes": [4, 4],
    "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    "memory_encoder_hidden_size": 128,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 512,
    "memory_fuser_num_layers": 3,
    "memory_fuser_kernel_size": 3,
    "memory_fuser_padding": 1,
    "num_maskmem": 4,
    "max_object_pointers_in_encoder": 5,
    "max_cond_frame_num": 3,
}


@torch.no_grad()
def randomise(model: nn.Module, gain: float = 1.5, sharpness: float = 1.0) -> nn.Module:
    """Give every parameter and statistic a value that is neither zero nor one, so that no path is silently dead.

    `gain` scales the weights; `sharpness` those of queries and keys once more, so that the tokens of different prompts
    are told apart.
    """
    for name, parameter in model.named_parameters():
        scale = gain / 1.5 if parameter.ndim == 1 else gain / max(parameter[0].numel(), 4) ** 0.5
        is_matched = name.endswith(("q_proj.weight", "k_proj.weight"))
        nn.init.normal_(parameter, std=scale * (sharpness if is_matched else 1))
        if "positional_embedding" in name:
            nn.init.normal_(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "gaussian_matrix", "positional_embedding")):
            nn.init.normal_(buffer)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(7)
    return model.eval()


def tiny_model(name: str, **decoder: Any) -> SamVariantsModel:
    """A model of a row of `TINY` with random weights; `decoder` changes its decoder's configuration."""
    values = {"model_type": "sam_variants", **TINY[name]}
    return model_from({**values, "mask_decoder_config": {**values["mask_decoder_config"], **decoder}})


def model_from(values: dict[str, Any]) -> SamVariantsModel:
    """A model with random weights from the fields of its configuration, `model_type` among them."""
    model: Any = AutoModel.from_config(AutoConfig.for_model(**copy.deepcopy(values)))
    is_sam2 = model.config.mask_decoder_config.sam2_transformer
    return randomise(model, gain=1.0, sharpness=8.0) if is_sam2 else randomise(model)  # type: ignore[return-value]


def copied(source: nn.Module | dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of its own memory."""
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def image_keys(tensors: dict[str, Any]) -> dict[str, Any]:
    """Those that a model for images has too."""
    parts = ("image_encoder.", "prompt_encoder.", "mask_decoder.", "no_mem_embed")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(parts)}


TOLERANCE = 1e-4
PROMPTS = {
    "points": {
        "input_points": torch.tensor([[[[10.0, 20.0], [50.5, 31.0]], [[3.0, 60.0], [33.0, 30.0]]]]),
        "input_labels": torch.tensor([[[1, 0], [0, 1]]]),
    },
    "boxes": {"input_boxes": torch.tensor([[[4.0, 6.0, 40.0, 50.0], [20.0, 3.0, 63.0, 33.0]]])},
    "points and boxes": {
        "input_points": torch.tensor([[[[10.0, 20.0]], [[33.0, 30.0]]]]),
        "input_labels": torch.tensor([[[1], [0]]]),
        "input_boxes": torch.tensor([[[4.0, 6.0, 40.0, 50.0], [20.0, 3.0, 63.0, 33.0]]]),
    },
}


@torch.no_grad()
def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two models' masks (of order 1) and scores, over every kind of prompt."""
    pixel_values = torch.randn(1, 3, 64, 64)
    largest = 0.0
    for prompts in PROMPTS.values():
        for multimask_output in (True, False):
            outputs = [m(pixel_values=pixel_values, multimask_output=multimask_output, **prompts) for m in (one, other)]
            assert outputs[0].pred_masks.std() > 0.05
            for name in ("pred_masks", "iou_scores", "object_score_logits"):
                if outputs[0].get(name) is not None:
                    largest = max(largest, (outputs[0][name] - outputs[1][name]).abs().max().item())
    return largest


def legacy_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)
