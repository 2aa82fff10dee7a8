"""A run of `sam-variants train`: from options to arguments, and what is told of it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import typer

from sam_variants.checkpoint_layouts.load_whole import load_whole
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.train_data import DataOptions
from sam_variants.training.clip_trainer import (
    ClipTrainingArguments,
    check_clip_options,
    prepared_for_clips,
    require_tracked_object,
    train_clips,
)
from sam_variants.training.mask_trainer import MaskTrainingArguments
from sam_variants.training.mask_training import (
    RunOptions,
    check_options,
    prepared,
    require_object,
    train_masks,
    trained_parameters,
)
from sam_variants.training.training_callbacks import duration

# Learning rates where none is given: little is moved far, much is moved a little.
RATE, DECODER_RATE, ADAPTER_RATE = 1e-4, 2e-4, 5e-4
# How often a run reports; and how often one on a stream, which has no epochs, is evaluated and saved.
REPORTS, STREAM_EVALUATIONS = 50, 10


@dataclass(frozen=True)
class Choices:
    """What the command was called with.

    Attributes:
        where: the data.
        model: checkpoint to begin with, or None for the embedded one.
        image_size: side of the model's input, or None for its own.
        arguments: of `MaskTrainingArguments`, those that need no further thought.
        epochs, steps: length of the run; steps where both are given.
        eval_every: steps between evaluations and checkpoints, or None for an epoch.
        dry_run: train nothing.
        json_output: print one JSON object.
    """

    where: DataOptions
    model: str | None
    image_size: int | None
    arguments: dict[str, Any]
    epochs: float
    steps: int | None
    eval_every: int | None
    dry_run: bool
    json_output: bool


def train_on_images(choices: Choices, options: RunOptions) -> None:
    """Train on images with masks, and tell."""
    rows, measured = choices.where.open()
    source = choices.model or str(default_checkpoint())
    model, processor = load_whole(source, choices.image_size)
    arguments = {"learning_rate": default_rate(choices.arguments), **choices.arguments}
    num_rows = None if rows.streaming else len(rows)
    args = MaskTrainingArguments(**arguments, **schedule(choices, num_rows, 2, measured is not None))
    options = replace(options, facts={"model": source})
    is_first = args.process_index == 0
    if is_first and not (choices.dry_run and choices.json_output):
        tell_data(rows.report(), None if measured is None else measured.report())
    if choices.dry_run:
        check_options(model, rows, args, measured, options)
        require_object(rows, args.min_area)
        facts = {"data": rows.report(), "eval_data": None if measured is None else measured.report()}
        tell_plan(facts, prepared(model, args), args, num_rows, choices.json_output)
        return
    result = train_masks(model, processor, rows, args, measured, options)
    if is_first:
        tell_result(result, choices.json_output)


def train_on_clips(choices: Choices, options: RunOptions, parts: str, frames: int) -> None:
    """Train on clips with masks, and tell."""
    clips, measured = choices.where.open_as_clips(frames)
    source = choices.model or str(default_checkpoint(video=True))
    model, processor = load_whole(source, choices.image_size)
    arguments = choices.arguments | schedule(choices, len(clips), 1, measured is not None)
    args = ClipTrainingArguments(**arguments, parts=parts)
    video_model: Any = model
    is_first = args.process_index == 0
    if is_first and not (choices.dry_run and choices.json_output):
        tell_data(clips.report(), None if measured is None else measured.report())
    if choices.dry_run:
        check_clip_options(model, args, measured, options)
        require_tracked_object(clips, args)
        facts = {"data": clips.report(), "eval_data": None if measured is None else measured.report()}
        tell_plan(facts, prepared_for_clips(video_model, args), args, len(clips), choices.json_output)
        return
    result = train_clips(video_model, processor, clips, args, measured, replace(options, facts={"model": source}))
    if is_first:
        tell_result(result, choices.json_output)


def default_rate(arguments: dict[str, Any]) -> float:
    """The learning rate of what is trained."""
    if arguments["lora_rank"]:
        return ADAPTER_RATE
    return DECODER_RATE if arguments["frozen_encoder"] else RATE


def schedule(choices: Choices, num_rows: int | None, default_batch: int, is_measured: bool) -> dict[str, Any]:
    """How long a run is, and when it reports, evaluates and saves: arguments of the trainer.

    Args:
        choices: what was asked for.
        num_rows: of the data; None for a stream.
        default_batch: images of a batch where nothing was said.
        is_measured: whether there is data to measure on.

    Raises:
        ValueError: no length, or one that isn't positive.
    """
    batch = choices.arguments.get("per_device_train_batch_size", default_batch)
    images = batch * choices.arguments["gradient_accumulation_steps"] * int(os.environ.get("WORLD_SIZE", "1"))
    if choices.steps is None and num_rows is None:
        raise ValueError("a stream has no end: say how long to train with --steps N")
    if choices.epochs <= 0:
        raise ValueError(f"--epochs {choices.epochs} must be more than 0")
    total = choices.steps or math.ceil(math.ceil((num_rows or 0) / images) * choices.epochs)
    every = choices.eval_every
    if every is None and num_rows is None:
        every = max(1, total // STREAM_EVALUATIONS)
    when = {"save_strategy": "epoch"} if every is None else {"save_strategy": "steps", "save_steps": every}
    if is_measured:
        when |= {"eval_strategy": when["save_strategy"]} | ({} if every is None else {"eval_steps": every})
    length = {"num_train_epochs": choices.epochs} if choices.steps is None else {"max_steps": choices.steps}
    return {**length, **when, "logging_steps": max(1, total // REPORTS)}


def tell_data(report: str, eval_report: str | None) -> None:
    """What was found, on the standard error."""
    typer.echo(report, err=True)
    if eval_report is None:
        typer.echo("no data to measure on: the last weights are kept, not the best (--eval-share 0.1)", err=True)
    else:
        typer.echo(f"measured on:\n{eval_report}", err=True)


def tell_plan(facts: dict[str, Any], model: Any, args: Any, num_rows: int | None, as_json: bool) -> None:
    """What a run would do."""
    steps = args.max_steps
    if steps < 1:
        images = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = math.ceil(math.ceil((num_rows or 0) / images) * args.num_train_epochs)
    trained = trained_parameters(model)
    if as_json:
        plan = {**facts, "steps": steps, "learning_rate": args.learning_rate, "trained_parameters": trained}
        typer.echo(json.dumps(plan, indent=2, ensure_ascii=False))
        return
    typer.echo(f"would train {steps} steps with a learning rate of {args.learning_rate:g}, {trained:,} parameters")


def tell_result(result: dict[str, Any], as_json: bool) -> None:
    """What a run did."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{result['steps']} steps in {duration(result['seconds'])}: {result['out']}")
    if result["rows_without_objects"]:
        typer.echo(f"{result['rows_without_objects']} times an image without objects was skipped")
    before, best = result["before"], result["best"]
    if best is not None:
        name = "miou" if "miou" in best else "j_and_f"
        began = "" if before is None else f", {before[name]:.4f} before"
        typer.echo(f"best {name}: {best[name]:.4f} in step {best['step']}{began}")
        if before is not None and best[name] < before[name]:
            typer.echo(
                "that is worse than before: try a lower --learning-rate, --freeze-encoder or more data", err=True
            )
