"""Train a composed model on synthetic scenes, or continue with one.

The recipe that made the embedded checkpoint is `RECIPES["default"]`; `python -m sam_variants.hub_scripts.train --help`
tells the rest.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.hub_scripts.prompt_simulation import sample_corrections
from sam_variants.hub_scripts.training_batches import CELL, SceneBatches
from sam_variants.losses import LossWeights, mask_iou, segmentation_loss
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


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
    caches: tuple[int, ...] = (0, 1)


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
    "continue": Recipe(
        phases=(Phase(1.0, size=256, batch_size=8, num_objects=16, rounds=3, min_area=0.0015),), learning_rate=5e-4
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
    )


def start_skips_at_zero(model: SamVariantsModel) -> None:
    """Let the decoder begin without its skip connections: random ones hold it in the all-background answer."""
    for convolution in (model.mask_decoder.conv_s0, model.mask_decoder.conv_s1):
        for parameter in convolution.parameters():
            nn.init.zeros_(parameter)


def first_prompts(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Points, labels and boxes of the first round: a click for two objects in three, a box for the rest."""
    clicks, boxes = batch["clicks"], batch["boxes"]
    with_box = torch.rand(clicks.shape[:2]) < 0.35
    labels = torch.ones(clicks.shape[:2], dtype=torch.long).masked_fill(with_box, -10)
    return clicks[:, :, None], labels[:, :, None], torch.where(with_box[..., None], boxes, -10.0)


def predict_all(model: SamVariantsModel, embeddings: list[Tensor], prompts: tuple) -> tuple[Tensor, Tensor]:
    """All masks B×P×4×h×w, the single one first, and their predicted IoU."""
    points, labels, boxes, masks = prompts
    *skips, embedding = embeddings
    size = (embedding.shape[2], embedding.shape[3])
    encoded = model.prompt_encoder.encode_objects(
        points.flatten(0, 1), labels.flatten(0, 1), boxes.flatten(0, 1), masks, embedding
    )
    dense = encoded.dense.expand(points.shape[0] * points.shape[1], -1, -1, -1)
    logits, iou = model.mask_decoder.predict_masks(
        embedding, model.prompt_encoder.get_dense_pe(size), encoded.sparse, dense, skips, encoded.token_mask
    )
    return logits.unflatten(0, points.shape[:2]).float(), iou.unflatten(0, points.shape[:2]).float()


@torch.no_grad()
def quality_report(logits: Tensor, iou: Tensor, targets: Tensor, with_box: Tensor, turn: int) -> dict[str, float]:
    """Mean IoU of what a user would get in this round, for objects that began with a click and with a box."""
    reached = mask_iou(logits > 0, targets[:, :, None] > 0.5)
    chosen = iou[:, :, 1:].argmax(dim=-1, keepdim=True) + 1
    picked = reached.gather(2, chosen)[..., 0] if turn == 0 else reached[:, :, 0]
    report = {f"click{turn + 1}": picked[~with_box].mean().item(), f"box{turn + 1}": picked[with_box].mean().item()}
    if turn == 0:
        report["best_of_3"] = reached[:, :, 1:].amax(dim=-1)[~with_box].mean().item()
    return report


@torch.no_grad()
def corrected_prompts(
    logits: Tensor, iou: Tensor, targets: Tensor, points: Tensor, labels: Tensor, turn: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The next round's points and labels with one correction more, and the previous masks for two objects in three."""
    best = iou.argmax(dim=-1) if turn == 0 else torch.zeros_like(iou[..., 0], dtype=torch.long)
    index = best[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
    previous = logits.gather(2, index).flatten(0, 2)
    where, what = sample_corrections(previous, targets.flatten(0, 1), CELL)
    points = torch.cat([points, where.view(*points.shape[:2], 1, 2)], dim=2)
    labels = torch.cat([labels, what.view(*labels.shape[:2], 1)], dim=2)
    keep = torch.rand(len(previous)) > 0.33
    masks = torch.where(keep[:, None, None], previous.clamp(-32, 32), float("nan"))
    return points, labels, masks[:, None]


def training_step(
    model: SamVariantsModel, batch: dict[str, Tensor], rounds: int, weights: LossWeights, autocast: bool
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch over all rounds, and what the log shows."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixel_values = (batch["image"].permute(0, 3, 1, 2).float() - mean) / std
    targets = batch["targets"]
    points, labels, boxes = first_prompts(batch)
    masks = None
    total: Tensor = torch.zeros(())
    report: dict[str, float] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings: Any = model.get_image_embeddings(pixel_values)
    for turn in range(rounds):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits, iou = predict_all(model, embeddings, (points, labels, boxes, masks))
        several = segmentation_loss(logits[:, :, 1:], iou[:, :, 1:], targets, weights=weights)
        single = segmentation_loss(logits[:, :, :1], iou[:, :, :1], targets, weights=weights)
        total = total + (several + 0.5 * single if turn == 0 else 0.5 * several + single)
        report |= quality_report(logits, iou, targets, boxes[..., 0] >= 0, turn)
        if turn + 1 < rounds:
            points, labels, masks = corrected_prompts(logits, iou, targets, points, labels, turn)
    return total / rounds, report


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; vectors, embeddings and attention biases don't."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embed" in name or "token" in name or "attention_biases" in name
        (others if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate_at(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up by steps, cosine decay by progress (0..1) of the run."""
    decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * max(decay, 0.01)


class Run:
    """A training run: model, averaged weights, optimiser, log.

    Args:
        model: the model to train, in place.
        recipe: how.
        caches: scene caches, easy ones first.
        out: folder for checkpoints and log.
        minutes: length of the run.
        seed: of data and augmentation.
        autocast: bfloat16 products.

    Under torch.distributed every process works on its own batches and gradients are averaged.
    """

    def __init__(
        self,
        model: SamVariantsModel,
        recipe: Recipe,
        caches: list[Path],
        out: Path,
        minutes: float,
        seed: int,
        autocast: bool,
    ) -> None:
        self.model, self.recipe, self.caches, self.out = model, recipe, caches, out
        self.seconds, self.seed, self.autocast = minutes * 60, seed, autocast
        self.average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    def _phases(self) -> Iterator[tuple[float, Phase]]:
        """Every phase with the progress at which it ends."""
        end = 0.0
        for phase in self.recipe.phases:
            end += phase.share
            yield end, phase

    def _batches(self, phase: Phase) -> Iterator[dict[str, Tensor]]:
        paths = [self.caches[index] for index in phase.caches if index < len(self.caches)]
        dataset = SceneBatches(
            paths, phase.size, phase.batch_size, phase.num_objects, phase.min_area, [self.seed, self.step, self.rank]
        )
        return iter(DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=4))

    def train(self) -> None:
        """Run all phases, saving the averaged weights every few minutes and at the end."""
        start = saved = time.monotonic()
        self.model.train()
        for end, phase in self._phases():
            batches = self._batches(phase)
            while (progress := self._agree((time.monotonic() - start) / self.seconds)) < end:
                report = self._one_step(next(batches), phase, progress)
                if self.step % 50 == 0:
                    self._log(report, progress, phase)
                if time.monotonic() - saved > 240:
                    self.save()
                    saved = time.monotonic()
        self.save()

    @staticmethod
    def _agree(progress: float) -> float:
        """The first process' clock, so that all change phases in the same step."""
        if not dist.is_initialized():
            return progress
        shared = torch.tensor(progress, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def _average_gradients(self) -> None:
        """Mean of all processes' gradients, in one exchange."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        flat = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / dist.get_world_size(), gradients)

    def _one_step(self, batch: dict[str, Tensor], phase: Phase, progress: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(progress, self.step, self.recipe)
        loss, report = training_step(self.model, batch, phase.rounds, self.recipe.loss, self.autocast)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if dist.is_initialized():
            self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.step > self.recipe.warmup:
            self.average.update_parameters(self.model)
        return report | {"loss": loss.item()}

    def _log(self, report: dict[str, float], progress: float, phase: Phase) -> None:
        if self.rank:
            return
        line = {"step": self.step, "progress": round(progress, 4), "size": phase.size}
        line |= {key: round(value, 4) for key, value in report.items()}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        typer.echo(json.dumps(line))

    def save(self) -> None:
        """Write the averaged weights as a checkpoint that `from_pretrained` loads."""
        if self.rank:
            return
        averaged: Any = self.average.module if self.step > self.recipe.warmup else self.model
        averaged.save_pretrained(self.out)
        processor_for(averaged).save_pretrained(self.out)
        (self.out / "training.json").write_text(
            json.dumps({"steps": self.step, "seconds": self.seconds, "recipe": asdict(self.recipe)}, indent=2)
        )


def train(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and the log")],
    cache: Annotated[list[Path], typer.Option(help="scene cache; repeat for several, easy ones first")],
    recipe: Annotated[str, typer.Option(help=f"one of {', '.join(RECIPES)}")] = "default",
    start: Annotated[Path | None, typer.Option("--from", help="checkpoint folder to continue from")] = None,
    minutes: Annotated[float, typer.Option(help="length of the run")] = 90.0,
    seed: int = 0,
    processes: Annotated[int, typer.Option(help="processes that share each step, one thread each on a CPU")] = 2,
    bf16: Annotated[bool, typer.Option(help="bfloat16 products")] = True,
) -> None:
    """Train the embedded model on cached synthetic scenes, or continue with a checkpoint."""
    if recipe not in RECIPES:
        raise typer.BadParameter(f"--recipe {recipe}: choose one of {', '.join(RECIPES)}")
    if processes < 1:
        raise typer.BadParameter(f"--processes {processes}: at least 1")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting_place:
        arguments = (processes, f"file://{meeting_place}/store", out, cache, recipe, start, minutes, seed, bf16)
        torch.multiprocessing.spawn(train_process, arguments, processes)


def train_process(
    rank: int,
    processes: int,
    meeting_place: str,
    out: Path,
    caches: list[Path],
    recipe: str,
    start: Path | None,
    minutes: float,
    seed: int,
    bf16: bool,
) -> None:
    """What each of the processes does; all begin with the same weights."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dist.init_process_group("gloo", init_method=meeting_place, rank=rank, world_size=processes)
    if start is None:
        model = SamVariantsModel(default_config())
        start_skips_at_zero(model)
    else:
        model = SamVariantsModel.from_pretrained(start)
    torch.manual_seed(seed + rank)
    Run(model, RECIPES[recipe], caches, out, minutes, seed, bf16).train()
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(train)
