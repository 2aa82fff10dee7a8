"""Tiny models with random weights for the checkpoint tests, and how two models are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
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
}


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that is neither zero nor one, so that no path is silently dead."""
    for name, parameter in model.named_parameters():
        scale = 1.0 if parameter.ndim == 1 else 1.5 / max(parameter[0].numel(), 4) ** 0.5
        nn.init.normal_(parameter, std=scale)
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
    values = TINY[name]
    config = SamVariantsConfig(**{**values, "mask_decoder_config": {**values["mask_decoder_config"], **decoder}})
    return randomise(SamVariantsModel(config))


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
            for name in ("pred_masks", "iou_scores"):
                largest = max(largest, (outputs[0][name] - outputs[1][name]).abs().max().item())
    return largest


def legacy_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)
