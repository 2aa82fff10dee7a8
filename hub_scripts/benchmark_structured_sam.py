"""The random model of `sam-variants benchmark everything`.

Masks of random weights are noise or cover everything, which says nothing about filters and suppression. In
`structured_sam` most weights are random, but the image encoder lets positions through, and the last layers of
upscaling, hypernetworks and quality head are fitted in closed form: every point gets blobs around itself, and a fair
share of them passes the default thresholds. Such fits amplify rounding: bfloat16 changes these masks far more than
those of trained weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from sam_variants.checkpoint_layouts.layout_transformers_sam import config_to_transformers_sam
from sam_variants.configuration.presets import config_for
from sam_variants.hub_scripts.benchmark_settings import PRESET
from sam_variants.hub_scripts.benchmark_their_models import their_processor
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.point_grid import build_point_grid

# Radii of the blobs in shares of the model's input: the single mask, then part, middle and whole.
RADII = (0.16, 0.12, 0.18, 0.28)
# What is drawn smaller than at random so that positions and blobs stay smooth.
GAINS = {
    "patch_embed.projection.weight": 0.3,
    "attn.proj.weight": 0.1,
    "mlp.lin2.weight": 0.1,
    "rel_pos_h": 0.1,
    "rel_pos_w": 0.1,
    "cross_attn_image_to_token.out_proj.weight": 0.1,
}
EMBEDDINGS = ("_token.weight", "_tokens.weight", "_embed.weight", "positional_embedding")
# Cycles of the image encoder's positions over half an input side.
POSITION_FREQUENCY = 0.3
# Lifts the last upscaled features to where GELU is a straight line.
LINEAR_GELU = 3.0
RIDGE = 1e-3
# Points along each side that the fit is made for, and how many of them go through the decoder at once.
FITTED_POINTS, POINTS_AT_ONCE = 12, 16
# Shares of the masks that shall pass the default thresholds for predicted IoU and stability.
GOOD_SHARE, STABLE_SHARE = 0.5, 0.6
SCORE_SPREAD = 0.03


def small_sam_config(image_size: int = 256) -> SamConfig:
    """A `SamModel` with a decoder of the published size behind a small image encoder."""
    vision = {"image_size": image_size, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return SamConfig(
        vision_config=vision | {"mlp_dim": 192, "global_attn_indexes": [1]},
        prompt_encoder_config={"image_size": image_size},
    )


def preset_sam_config(image_size: int | None = None) -> SamConfig:
    """transformers' configuration of SAM ViT-B, at another input size if one is given.

    Raises:
        ValueError: for a size that is no multiple of the patches'.
    """
    config: Any = config_for(PRESET)
    if image_size is None:
        return config_to_transformers_sam(config)
    patch = config.vision_config.patch_size
    if image_size < patch or image_size % patch:
        raise ValueError(f"image_size={image_size} must be a multiple of {patch} pixels")
    values = config.to_dict()
    values["vision_config"]["image_size"] = image_size
    return config_to_transformers_sam(type(config)(**values | {"image_size": image_size}))


@torch.no_grad()
def structured_sam(config: SamConfig, image: np.ndarray, seed: int = 0) -> SamModel:
    """A float32 `SamModel` that makes blobs around the points of an image; the same for the same seed.

    Args:
        config: its sizes.
        image: H×W×3 uint8, for which masks are made to pass the default thresholds.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    model = SamModel(config).float().eval()
    for name, parameter in model.named_parameters():
        parameter.copy_(_random_weight(name, parameter.shape, generator))
    positions: Any = model.vision_encoder.pos_embed
    positions.copy_(_smooth_positions(positions.shape, generator))
    _fit_blobs(model, image)
    return model


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) < 2:
        return 0.1 * noise + float(name.endswith("weight"))
    gain = next((gain for ending, gain in GAINS.items() if name.endswith(ending)), 1.0)
    if name.endswith("neck.conv2.weight"):
        # The same for all pixels under the kernel: a blur.
        noise = noise[..., :1, :1].expand(shape)
    if name.endswith(EMBEDDINGS) or "rel_pos" in name or "point_embed" in name:
        return gain * noise
    return gain * noise * shape[1:].numel() ** -0.5


def _smooth_positions(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """1×h×w×C waves of low frequency."""
    frequencies = POSITION_FREQUENCY * torch.randn(2, shape[-1], generator=generator)
    phases = torch.rand(shape[-1], generator=generator)
    cells = torch.cartesian_prod(torch.linspace(-1, 1, shape[1]), torch.linspace(-1, 1, shape[2]))
    return math.sqrt(2) * torch.cos(2 * math.pi * (cells @ frequencies + phases)).reshape(shape)


def _fit_blobs(model: SamModel, image: np.ndarray) -> None:
    """Fit what follows the decoder's transformer, from what comes out of it for a grid of points."""
    decoder: Any = model.mask_decoder
    side = model.config.vision_config.image_size
    inputs = their_processor(side)(images=image, return_tensors="pt")
    embedding = model.get_image_embeddings(inputs["pixel_values"])
    height, width = inputs["reshaped_input_sizes"][0].tolist()
    points = torch.from_numpy(build_point_grid(FITTED_POINTS) * [width, height]).float()
    outputs: list[tuple[Tensor, Tensor]] = []
    hook = decoder.transformer.register_forward_hook(lambda module, args, output: outputs.append(output[:2]))
    chunks = points.split(POINTS_AT_ONCE)
    scores = [model(image_embeddings=embedding, input_points=chunk[None, :, None]).iou_scores[0] for chunk in chunks]
    hook.remove()
    tokens = torch.cat([output[0][0] for output in outputs])
    image_tokens = torch.stack([output[1][0].mean(dim=0) for output in outputs]).mean(dim=0)
    features = _fit_upscaling(decoder, image_tokens)
    logits = [
        _fit_hypernetwork(decoder.output_hypernetworks_mlps[number], tokens[:, 1 + number], features, target)
        for number, target in enumerate(_blobs(points / side, features.shape[-1]))
    ]
    gain = _stable_gain(torch.cat(logits[1:]))
    for network in decoder.output_hypernetworks_mlps:
        network.proj_out.weight *= gain
        network.proj_out.bias *= gain
    _fit_scores(decoder.iou_prediction_head.proj_out, torch.cat(scores))


def _ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias that map N×C to N×D with the least squares."""
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    gram = inputs.T @ inputs
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    solution = torch.linalg.solve(gram, inputs.T @ targets)
    return solution[:-1], solution[-1]


def _waves(side: int, count: int) -> Tensor:
    """The smoothest cosines of a square, side²×count."""
    angles = (torch.arange(side) + 0.5) / side * math.pi
    orders = sorted(((i, j) for i in range(count) for j in range(count)), key=lambda pair: math.hypot(*pair))
    waves = [torch.outer(torch.cos(i * angles), torch.cos(j * angles)) for i, j in orders[:count]]
    return torch.stack(waves, dim=-1).flatten(0, 1)


def _fit_upscaling(decoder: Any, image_tokens: Tensor) -> Tensor:
    """Let both upscaling steps keep smooth functions of the position; returns what comes out, C/8×4h×4w."""
    side = math.isqrt(len(image_tokens))
    first, second = decoder.upscale_conv1, decoder.upscale_conv2
    _set_convolution(first, *_ridge(image_tokens, _waves(side, first.out_channels)))
    x = first(image_tokens.T.unflatten(1, (side, side))[None])
    x = decoder.activation(decoder.upscale_layer_norm(x))
    _set_convolution(second, *_ridge(x[0].flatten(1).T, _waves(2 * side, second.out_channels)))
    second.bias += LINEAR_GELU
    return decoder.activation(second(x))[0]


def _set_convolution(convolution: nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    """Every pixel of a 2×2 block gets the same."""
    convolution.weight.copy_(weight[:, :, None, None].expand_as(convolution.weight))
    if convolution.bias is not None:
        convolution.bias.copy_(bias)


def _blobs(points: Tensor, side: int) -> list[Tensor]:
    """For every radius of `RADII` P×side² cones with their tips at points in 0..1, 0 at the radius."""
    centres = (torch.arange(side) + 0.5) / side
    columns, rows = centres - points[:, :1], centres - points[:, 1:]
    distances = torch.hypot(rows[:, :, None], columns[:, None]).flatten(1)
    return [((radius - distances) / radius).clamp(min=-1) for radius in RADII]


def _fit_hypernetwork(network: Any, tokens: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    """Let a hypernetwork give the coefficients that make the targets of features; returns the logits it gets."""
    features = features.flatten(1)
    coefficients = torch.linalg.lstsq(features.T, targets.T).solution.T
    x = network.activation(network.proj_in(tokens))
    for layer in network.layers:
        x = network.activation(layer(x))
    weight, bias = _ridge(x, coefficients)
    network.proj_out.weight.copy_(weight.T)
    network.proj_out.bias.copy_(bias)
    return network(tokens) @ features


def _stable_gain(logits: Tensor) -> float:
    """By how much to multiply logits N×K so that `STABLE_SHARE` of the masks is stable; bisection."""
    options = MaskGenerationOptions()
    low, high = 1.0, 1e5
    for _ in range(30):
        gain = math.sqrt(low * high)
        cut = options.stability_score_offset / gain
        stability = (logits > cut).sum(dim=1) / (logits > -cut).sum(dim=1).clamp(min=1)
        enough = (stability >= options.stability_score_thresh).float().mean() >= STABLE_SHARE
        low, high = (low, gain) if enough else (gain, high)
    return high


def _fit_scores(head: nn.Linear, scores: Tensor) -> None:
    """Scale the predicted IoU of the multiple masks so that `GOOD_SHARE` is above the default threshold."""
    cut = MaskGenerationOptions().pred_iou_thresh
    scale = SCORE_SPREAD / scores.std(dim=0)
    head.weight[1:] *= scale[:, None]
    head.bias[1:] = scale * (head.bias[1:] - scores.quantile(1 - GOOD_SHARE, dim=0)) + cut
