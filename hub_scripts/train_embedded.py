"""Train the embedded model on synthetic scenes, or continue with one.

The recipes lie in `training_recipes.py`; this module's `--help` tells how to start one; `sam-variants train`
is for datasets.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_variants.hub_scripts.synthetic_scenes import open_cache
from sam_variants.hub_scripts.training_batches import SceneBatches, drawn_ahead
from sam_variants.hub_scripts.training_recipes import (
    RECIPES,
    Phase,
    Recipe,
    default_config,
    learning_rate_at,
    start_skips_at_zero,
)
from sam_variants.hub_scripts.training_step import training_step
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.parameter_groups import parameter_groups


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
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=0.0, betas=(0.9, 0.98))
        self.device = next(model.parameters()).device
        self.step = 0
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained; a group's `rate` is its share of the recipe's learning rate."""
        return [group | {"rate": 1.0} for group in parameter_groups(self.model, 1.0, self.recipe.weight_decay)]

    def _phases(self) -> Iterator[tuple[float, Phase]]:
        """Every phase with the progress at which it ends."""
        end = 0.0
        for phase in self.recipe.phases:
            end += phase.share
            yield end, phase

    def _batches(self, phase: Phase) -> Iterator[dict[str, Tensor]]:
        paths = [self.caches[index] for index in phase.caches if index < len(self.caches)]
        dataset = SceneBatches(
            paths,
            phase.size,
            phase.batch_size,
            phase.num_objects,
            phase.rounds,
            phase.min_area,
            [self.seed, self.step, self.rank],
        )
        return drawn_ahead(dataset)

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
        gradients = []
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # What a step of this process had no use for may have a gradient in another one.
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        flat = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / dist.get_world_size(), gradients)

    def _one_step(self, batch: dict[str, Tensor], phase: Phase, progress: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate_at(progress, self.step, self.recipe)
        batch = {key: value.to(self.device) for key, value in batch.items()}
        loss, report = self._loss(batch, phase)
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

    def _loss(self, batch: dict[str, Tensor], phase: Phase) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and what the log says of it."""
        return training_step(self.model, batch, phase.rounds, self.recipe.loss, self.autocast)

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


@dataclass(frozen=True)
class Settings:
    """What the command was asked for; the fields are its options."""

    out: Path
    caches: list[Path]
    recipe: str
    start: Path | None
    minutes: float
    seed: int
    bf16: bool
    device: str


def train_embedded(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and the log")],
    cache: Annotated[list[Path], typer.Option(help="scene cache; repeat for several, easy ones first")],
    recipe: Annotated[str, typer.Option(help=f"one of {', '.join(RECIPES)}")] = "default",
    start: Annotated[Path | None, typer.Option("--from", help="checkpoint folder to continue from")] = None,
    minutes: Annotated[float, typer.Option(help="length of the run")] = 90.0,
    seed: int = 0,
    processes: Annotated[int, typer.Option(help="processes that share each step; one thread each")] = 1,
    bf16: Annotated[bool, typer.Option(help="bfloat16 products")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps", show_default="a GPU where there is one")] = None,
) -> None:
    """Train the embedded model on cached synthetic scenes, or continue with a checkpoint.

    The caches come from python -m sam_variants.hub_scripts.synthetic_scenes --cache FOLDER.
    """
    if recipe not in RECIPES:
        raise typer.BadParameter(f"--recipe {recipe}: choose one of {', '.join(RECIPES)}")
    if minutes <= 0:
        raise typer.BadParameter(f"--minutes {minutes}: more than 0")
    for path in cache:
        open_cache(path)
    if device is None:
        device = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    if processes < 1 or (processes > 1 and device != "cpu"):
        raise typer.BadParameter(f"--processes {processes}: 1 on {device}, 1 or more on a CPU")
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(out, cache, recipe, start, minutes, seed, bf16, device)
    run_processes(train_process, processes, settings)


def run_processes(work: Callable[[int, Any], None], processes: int, settings: Any) -> None:
    """Call `work(rank, settings)` here, or in several processes that exchange their gradients."""
    if processes == 1:
        work(0, settings)
        return
    with tempfile.TemporaryDirectory() as meeting_place:
        arguments = (processes, f"file://{meeting_place}/store", work, settings)
        torch.multiprocessing.spawn(join_and_work, arguments, processes)


def join_and_work(
    rank: int, processes: int, meeting_place: str, work: Callable[[int, Any], None], settings: Any
) -> None:
    """One of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting_place, rank=rank, world_size=processes)
    work(rank, settings)
    dist.destroy_process_group()


def train_process(rank: int, settings: Settings) -> None:
    """A whole run; all processes begin with the same weights and go on with their own data."""
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model = SamVariantsModel(default_config())
        start_skips_at_zero(model)
    else:
        model = SamVariantsModel.from_pretrained(settings.start)
    torch.manual_seed(settings.seed + rank)
    run = Run(
        model.to(settings.device),  # type: ignore[arg-type]
        RECIPES[settings.recipe],
        settings.caches,
        settings.out,
        settings.minutes,
        settings.seed,
        autocast=settings.bf16 and settings.device != "cpu",
    )
    with bf16_products(settings.bf16 and settings.device == "cpu"):
        run.train()


@contextmanager
def bf16_products(wanted: bool) -> Iterator[None]:
    """Let a CPU's float32 matrix products work in bfloat16 and add up in float32: faster than autocast, all else exact.

    The fused attention is slower then, and for windows and prompts it is no gain.
    """
    if not wanted:
        yield
        return
    convolutions: Any = torch.backends.mkldnn.conv  # type: ignore[attr-defined]
    before = torch.get_float32_matmul_precision(), convolutions.fp32_precision
    torch.set_float32_matmul_precision("medium")
    convolutions.fp32_precision = "bf16"
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        convolutions.fp32_precision = before[1]


if __name__ == "__main__":
    typer.run(train_embedded)
