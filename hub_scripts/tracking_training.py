"""Training an image model's new memory: recipes, batches of clips, the model, and a run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import AutoModel

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.hub_scripts.synthetic_clips import clip_stream
from sam_variants.hub_scripts.train_embedded import Run
from sam_variants.hub_scripts.train_tracking import CONTINUE, DEFAULT
from sam_variants.hub_scripts.training_batches import CELL, drawn_ahead
from sam_variants.hub_scripts.training_recipes import Phase, Recipe
from sam_variants.losses import LossWeights
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.training.clip_loss import tracking_step
from sam_variants.training.parameter_groups import parameter_groups
from sam_variants.training.prompt_simulation import jittered_box, sample_click

# What stays as the image model has it; the decoder learns more slowly than the memory, which begins from nothing.
FROZEN = ("image_encoder.", "prompt_encoder.", "mask_decoder.conv_s", "no_mem_embed")
DECODER_RATE = 0.15
# Frames of a generated clip beyond those that are trained on: motion is slower then than in a clip of the same length.
SPARE_FRAMES = 6

TRACKING_LOSS = LossWeights(focal=0.0, cross_entropy=1.0, balance=0.2, dice=1.0, iou=1.0, object_score=0.5)
TRACKING_RECIPES = {
    DEFAULT: Recipe(
        phases=(
            Phase(0.45, size=160, batch_size=4, num_objects=3, rounds=4, min_area=0.004),
            Phase(0.30, size=224, batch_size=3, num_objects=3, rounds=6, min_area=0.003),
            Phase(0.25, size=320, batch_size=2, num_objects=3, rounds=7, min_area=0.002),
        ),
        learning_rate=8e-4,
        warmup=150,
        average=0.998,
        loss=TRACKING_LOSS,
    ),
    # longer clips at full size: objects that are hidden for some frames
    CONTINUE: Recipe(
        phases=(
            Phase(0.45, size=224, batch_size=3, num_objects=3, rounds=7, min_area=0.003),
            Phase(0.55, size=320, batch_size=2, num_objects=3, rounds=8, min_area=0.002),
        ),
        learning_rate=5e-4,
        warmup=50,
        average=0.995,
        loss=TRACKING_LOSS,
    ),
}
"""A phase's `rounds` are the frames of its clips."""


class ClipBatches(IterableDataset):
    """Endless batches of synthetic clips with simulated prompts on the first frame.

    Args:
        phase: sizes.
        seed: start of the random numbers; every worker adds its own.
    """

    def __init__(self, phase: Phase, seed: Sequence[int]) -> None:
        super().__init__()
        self.phase = phase
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        num_frames = self.phase.rounds
        streams = [
            clip_stream(int(rng.integers(2**31)), 0, num_frames + spare, self.phase.size) for spare in (0, SPARE_FRAMES)
        ]
        while True:
            examples: list[dict[str, Tensor]] = []
            while len(examples) < self.phase.batch_size:
                clip = next(streams[int(rng.integers(len(streams)))])
                example = self._example(clip.frames, clip.masks, rng)
                examples += [example] if example is not None else []
            yield {name: torch.stack([example[name] for example in examples]) for name in examples[0]}

    def _example(self, frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor] | None:
        """A stretch of a clip, forwards or backwards, with objects that its first frame shows; None without any."""
        first = int(rng.integers(len(frames) - self.phase.rounds + 1))
        stretch = slice(first, first + self.phase.rounds)
        frames, masks = frames[stretch], masks[stretch]
        if rng.uniform() < 0.5:
            frames, masks = frames[::-1], masks[::-1]
        coverage = F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(masks)).float(), CELL)
        usable = np.flatnonzero(coverage[0].mean(dim=(1, 2)).numpy() >= self.phase.min_area)
        if not len(usable):
            return None
        chosen = rng.choice(usable, self.phase.num_objects, replace=len(usable) < self.phase.num_objects)
        shown = coverage[0, chosen].numpy()
        return {
            "frames": torch.from_numpy(np.ascontiguousarray(frames)),
            "targets": coverage[:, chosen],
            "clicks": torch.tensor([sample_click(one, rng, CELL) for one in shown]),
            "boxes": torch.from_numpy(np.stack([jittered_box(one, rng, CELL) for one in shown])),
        }


class TrackingRun(Run):
    """`Run` on clips."""

    model: SamVariantsVideoModel  # type: ignore[assignment]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        is_decoder = {id(parameter) for parameter in self.model.mask_decoder.parameters()}
        groups = []
        for group in parameter_groups(self.model, 1.0, self.recipe.weight_decay):
            for rate, chosen in ((DECODER_RATE, True), (1.0, False)):
                params = [part for part in group["params"] if (id(part) in is_decoder) == chosen]
                groups.append({**group, "params": params, "rate": rate})
        return groups

    def _batches(self, phase: Phase) -> Iterator[dict[str, Tensor]]:
        dataset = ClipBatches(phase, [self.seed, self.step, self.rank])
        return drawn_ahead(dataset)

    def _loss(self, batch: dict[str, Tensor], phase: Phase) -> tuple[Tensor, dict[str, float]]:
        return tracking_step(self.model, batch, self.recipe.loss)


def tracking_config(image_config: SamVariantsConfig) -> SamVariantsVideoConfig:
    """An image model's configuration with a small memory and a score of whether an object is visible."""
    values = image_config.to_dict()
    width = image_config.vision_config.out_chans
    values["mask_decoder_config"] |= {
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "use_multimask_token_for_obj_ptr": True,
    }
    for name in ("model_type", "architectures", "transformers_version"):
        values.pop(name, None)
    return SamVariantsVideoConfig(
        **values,
        memory_attention_config={
            "d_model": width,
            "num_layers": 2,
            "dim_feedforward": 2 * width,
            "kv_in_dim": width // 2,
            "dropout": 0.0,
        },
        memory_encoder_config={"in_dim": width, "out_dim": width // 2},
        memory_dtype="float32",
    )


def with_memory(image_model: SamVariantsModel) -> SamVariantsVideoModel:
    """A video model that has everything from the image model, and a memory that knows nothing yet."""
    config = tracking_config(image_model.config)
    model = SamVariantsVideoModel(config)
    model.load_state_dict(image_model.state_dict(), strict=False)
    torch.nn.init.zeros_(model.mask_decoder.obj_score_token.weight)
    return model


@dataclass(frozen=True)
class TrackingSettings:
    """What the command was asked for; the fields are its options."""

    out: Path
    start: Path
    recipe: str
    minutes: float
    seed: int


def train_tracking_process(rank: int, settings: TrackingSettings) -> None:
    """A whole run; all processes begin with the same weights and go on with their own clips."""
    torch.manual_seed(settings.seed)
    loaded = AutoModel.from_pretrained(settings.start)
    model = loaded if isinstance(loaded, SamVariantsVideoModel) else with_memory(loaded)
    torch.manual_seed(settings.seed + rank)
    random.seed(settings.seed + rank)
    recipe = TRACKING_RECIPES[settings.recipe]
    TrackingRun(model, recipe, [], settings.out, settings.minutes, settings.seed, autocast=False).train()
