"""`sam-variants distill`: a small image encoder in place of a large one, from nothing but images."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sam_variants.training.distillation_settings import STUDENT_SIZES, DistillationSettings

if TYPE_CHECKING:
    from sam_variants.training.embedding_shards import ImageSource

DEFAULTS = DistillationSettings()


class CacheDtype(StrEnum):
    """What the teacher's embeddings are stored in."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Report(StrEnum):
    """Where the log goes beside the terminal."""

    none = "none"
    tensorboard = "tensorboard"


def distill(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Images: a folder, a file of a dataset, or a dataset on the Hub.")
    ],
    teacher: Annotated[str, typer.Option(help="A checkpoint of any variant: file, folder or Hub repository.")],
    student: Annotated[
        str,
        typer.Option(
            help=f"A size ({', '.join(STUDENT_SIZES)}), a preset, a JSON file with an image encoder's configuration, "
            "or a checkpoint to begin with."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the student: a new or empty one.")],
    split: Annotated[str | None, typer.Option(help="Which split of the dataset.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="image=NAME,…", help="Columns that aren't found; masks=NAME with --masks.")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="The dataset has masks: click on objects in alignment.")
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Input size of the student.", show_default="its own, else the teacher's"),
    ] = None,
    projection: Annotated[
        bool, typer.Option("--projection", help="A student checkpoint keeps its own width and decoder; add --align.")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the images for the embeddings.")] = DEFAULTS.epochs,
    align: Annotated[
        float,
        typer.Option(metavar="EPOCHS", help="Passes in which the mask decoder learns the teacher's answers then."),
    ] = DEFAULTS.alignment_epochs,
    batch_size: Annotated[int, typer.Option(help="Images per step and process.")] = DEFAULTS.batch_size,
    accumulate: Annotated[int, typer.Option(help="Batches per step.")] = DEFAULTS.accumulate,
    learning_rate: Annotated[float, typer.Option(help="Of the embeddings, at its peak.")] = DEFAULTS.learning_rate,
    align_learning_rate: Annotated[
        float, typer.Option(help="Of the mask decoder, at its peak.")
    ] = DEFAULTS.alignment_learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = DEFAULTS.weight_decay,
    objects: Annotated[int, typer.Option(help="Clicks per image in alignment.")] = DEFAULTS.objects,
    rounds: Annotated[int, typer.Option(help="Answers per click in alignment.")] = DEFAULTS.rounds,
    held_out: Annotated[float, typer.Option(help="Share of the images to measure on.")] = DEFAULTS.held_out,
    embeddings: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the teacher's embeddings are kept.", show_default="in --out"),
    ] = None,
    cache_dtype: Annotated[CacheDtype, typer.Option(help="What they are stored in.")] = CacheDtype.float16,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where that is safe (autocast).")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and prompts.")] = DEFAULTS.seed,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = DEFAULTS.num_workers,
    save_steps: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = DEFAULTS.save_steps,
    logging_steps: Annotated[int, typer.Option(help="Steps from one line to the next.")] = DEFAULTS.logging_steps,
    report_to: Annotated[Report, typer.Option(help="A further log.")] = Report.none,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> dict[str, Any]:
    """Teach a small image encoder the embeddings of a large one.

    The student takes over the teacher's prompt encoder, mask decoder and memory. Its encoder learns the teacher's
    embeddings, which are computed once and kept on disk; with --align the mask decoder then learns the teacher's
    answers to clicks and boxes. Images are enough, no masks are needed. What comes out is a complete checkpoint.

    Embeddings that lie on disk are those of unchanged images: there is no augmentation.

    \b
    sam-variants distill photos --teacher sam_vit_h_4b8939.pth --student tiny-vit-5m --out mobile --align 2
    sam-variants distill photos --teacher facebook/sam2.1-hiera-large --student tiny-vit-11m --image-size 512 --out mine
    accelerate launch -m sam_variants.hub_scripts.cli distill photos --teacher …
    """
    # Here, because they import PyTorch, for which --help should not wait.
    import torch
    from transformers.utils import logging

    from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
    from sam_variants.modeling_sam_variants import SamVariantsModel
    from sam_variants.training.distillation import Distillation
    from sam_variants.training.student_config import build_student

    logging.disable_progress_bar()
    settings = DistillationSettings(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        alignment_epochs=align,
        alignment_learning_rate=align_learning_rate,
        objects=objects,
        rounds=rounds,
        held_out=held_out,
        bf16=bf16,
        cache_dtype=cache_dtype.value,
        seed=seed,
        num_workers=workers,
        save_steps=save_steps,
        logging_steps=logging_steps,
        report_to=report_to.value,
    )
    images, told = _open(data, split, columns, masks)
    model = load_checkpoint(teacher)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"--teacher {teacher!r} holds a {type(model).__name__} alone, not a whole model")
    torch.manual_seed(seed)
    learner = build_student(model, student, image_size, projection)
    run = Distillation(
        model,
        learner,
        images,
        out,
        settings,
        embeddings,
        cpu,
        {"teacher": teacher, "student": student, "data": told.splitlines()[0]},
    )
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # one of several processes tells
    console.print(told, markup=False, soft_wrap=True)
    report = run.run(resume)
    for line in summary(report):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{out}: a checkpoint for AutoModel.from_pretrained", markup=False, soft_wrap=True)
    return report


def _open(data: str, split: str | None, columns: str | None, masks: bool) -> tuple[ImageSource, str]:
    """The images, and what was found, for people."""
    from sam_variants.hub_scripts.evaluation_data import read_columns
    from sam_variants.training.image_rows import open_images
    from sam_variants.training.mask_datasets import open_masks

    wanted = read_columns(columns) or {}
    if masks:
        with_masks = open_masks(data, split=split, columns=wanted or None)
        return with_masks, with_masks.report()
    if set(wanted) - {"image"}:
        raise ValueError(f"--columns {columns} names more than the images: add --masks, or write image=NAME alone")
    images = open_images(data, split=split, column=wanted.get("image"))
    return images, images.report()


def summary(report: dict[str, Any]) -> list[str]:
    """What came out, line by line, for people."""
    from sam_variants.training.training_callbacks import duration

    sizes = [report[f"{who}_parameters"] / 1e6 for who in ("teacher", "student")]
    lines = [f"image encoder: {sizes[0]:.1f} M parameters → {sizes[1]:.1f} M"]
    lines += [f"note: {note}" for note in report["notes"]]
    if "embeddings" in report:
        before, after = report["embeddings"]["before"], report["embeddings"]["after"]
        lines.append(
            f"embeddings of {report['held_out']} held-out images: mean squared error {before['mse']:.5f} → "
            f"{after['mse']:.5f} ({after['unexplained']:.1%} of the teacher's spread is left)"
        )
    if "alignment" in report:
        before, after = report["alignment"]["before"], report["alignment"]["after"]
        told = (f"{name} {before[name]:.3f} → {after[name]:.3f}" for name in before if name in after)
        lines.append(f"agreement with the teacher's masks (mean IoU): {', '.join(told)}")
    lines.append(f"took {duration(report['seconds'])}")
    return lines
