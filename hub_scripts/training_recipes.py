"""How the embedded model is built and trained: configuration, phases, learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.losses import LossWeights
from sam_variants.modeling_sam_variants import SamVariantsModel


@dataclass(frozen=True)
class Phase:
    """A part of a training run.

    Attributes:
        share: of the whole run.
        size: side of the input in pixels.
        batch_size: images per step and process.
        num_objects: prompted objects per image.
        rounds: predictions per object: the first prompt, then corrective clicks with the previous mask.
        min_area: smallest object asked for, as a share of the image.
        caches: which scene caches are drawn from, by position in the command's list.
    """

    share: float
    size: int
    batch_size: int
    num_objects: int
    rounds: int
    min_area: float
    caches: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Recipe:
    """How a run goes.

    Attributes:
        phases: one after the other; easy and coarse first.
        learning_rate: at its peak; warmed up linearly, then decayed by a cosine over the run.
        warmup: steps of warm-up.
        weight_decay: AdamW's, on matrices only.
        average: decay of the averaged weights that are kept.
        loss: weights of the loss.
    """

    phases: tuple[Phase, ...]
    learning_rate: float = 1.5e-3
    warmup: int = 300
    weight_decay: float = 0.05
    average: float = 0.999
    loss: LossWeights = field(
        default_factory=lambda: LossWeights(focal=0.0, cross_entropy=1.0, balance=0.25, dice=1.0, iou=0.5)
    )


RECIPES = {
    "default": Recipe(
        phases=(
            Phase(0.20, size=128, batch_size=10, num_objects=16, rounds=1, min_area=0.01),
            Phase(0.25, size=128, batch_size=10, num_objects=12, rounds=2, min_area=0.006),
            Phase(0.55, size=256, batch_size=5, num_objects=12, rounds=2, min_area=0.002),
        )
    ),
    # the masks are good by now: this one teaches the scores to choose among them
    "continue": Recipe(
        phases=(
            Phase(0.35, size=256, batch_size=5, num_objects=12, rounds=2, min_area=0.0015),
            Phase(0.65, size=320, batch_size=4, num_objects=10, rounds=2, min_area=0.0015),
        ),
        learning_rate=6e-4,
        warmup=100,
        loss=LossWeights(focal=0.0, cross_entropy=1.0, balance=0.1, dice=1.0, iou=4.0),
    ),
    # goes on with a trained model on scenes with whole, part and subpart, at a larger input in the end
    "second": Recipe(
        phases=(
            Phase(0.45, size=256, batch_size=6, num_objects=8, rounds=2, min_area=0.002),
            Phase(0.55, size=384, batch_size=3, num_objects=8, rounds=3, min_area=0.0015, caches=(0, 1)),
        ),
        learning_rate=8e-4,
        warmup=200,
        loss=LossWeights(focal=0.0, cross_entropy=1.0, balance=0.15, dice=1.0, iou=2.0),
    ),
}


def default_config() -> SamVariantsConfig:
    """The embedded model: a narrow TinyViT with a narrow decoder and SAM 2's skip connections."""
    widths, channels = [32, 64, 128, 160], 128
    return SamVariantsConfig(
        vision_config={
            "model_type": "sam_variants_tiny_vit",
            "image_size": 256,
            "embed_dims": widths,
            "depths": [2, 2, 4, 2],
            "num_heads": [1, 2, 4, 5],
            "window_sizes": [8, 8, 8, 8],
            "strides": [2, 2, 1],
            "out_chans": channels,
            "num_classes": 0,
            "use_high_resolution_features": True,
        },
        prompt_encoder_config={"embed_dim": channels},
        mask_decoder_config={
            "transformer_dim": channels,
            "transformer_num_heads": 4,
            "transformer_mlp_dim": 256,
            "iou_head_hidden_dim": channels,
            "high_resolution_channels": widths[:2],
        },
        # So small a model is less sure of itself and less steep at the borders than the published ones.
        mask_generation={"pred_iou_thresh": 0.6, "stability_score_thresh": 0.9},
    )


def start_skips_at_zero(model: SamVariantsModel) -> None:
    """Let the decoder begin without its skip connections: random ones hold it in the all-background answer."""
    for convolution in (model.mask_decoder.conv_s0, model.mask_decoder.conv_s1):
        for parameter in convolution.parameters():
            nn.init.zeros_(parameter)


def learning_rate_at(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up by steps, cosine decay by progress (0..1) of the run."""
    decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * max(decay, 0.01)
