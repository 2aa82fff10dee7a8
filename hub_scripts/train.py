"""`sam-variants train`: fine-tune a checkpoint on images with masks, or on clips; in several processes too."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sam_variants.hub_scripts.cli import one_line

NUM_GPU_WORKERS = 4
# Of a clip, where nothing is said.
NUM_FRAMES = 8


class Log(StrEnum):
    """Where the numbers of a run are drawn."""

    none = "none"
    tensorboard = "tensorboard"


class Parts(StrEnum):
    """What of a model that tracks is trained."""

    memory = "memory"
    decoder = "decoder"
    all = "all"


def train(
    data: Annotated[str, typer.Argument(help="images with masks: a folder, a COCO file, or a dataset on the Hub")],
    out: Annotated[Path | None, typer.Option(help="new folder for the checkpoint; needed but for --dry-run")] = None,
    model: Annotated[str | None, typer.Option(help="checkpoint to begin with; none: the embedded one")] = None,
    split: Annotated[str | None, typer.Option(help="of DATA, where there are several")] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="data to measure on; none: DATA, if --eval-split is given")
    ] = None,
    eval_split: Annotated[str | None, typer.Option(help="split to measure on")] = None,
    eval_share: Annotated[
        float, typer.Option(min=0, max=1, help="share of DATA's rows that is held back for it")
    ] = 0.0,
    columns: Annotated[str | None, typer.Option(help="of DATA, if not found: image=NAME,masks=NAME,kind=…")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="read rows one after another; needs --steps")] = False,
    max_objects: Annotated[int | None, typer.Option(min=1, help="most objects read of an image; none: all")] = None,
    epochs: Annotated[float, typer.Option(help="passes over the data")] = 10.0,
    steps: Annotated[int | None, typer.Option(min=1, help="length of the run in place of --epochs")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images at once, of each process; none: 2")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="batches that make one step")] = 1,
    objects: Annotated[int | None, typer.Option(min=1, help="asked for in an image; none: 8, in a clip 3")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="a first prompt, then corrective clicks")] = 3,
    min_area: Annotated[float, typer.Option(min=0, max=1, help="smallest object, as a share of the image")] = 0.0,
    learning_rate: Annotated[
        float | None, typer.Option(help="none: 1e-4; for the decoder alone 2e-4, for adapters 5e-4, for clips 5e-5")
    ] = None,
    layer_decay: Annotated[float, typer.Option(help="of the learning rate, per block down the encoder")] = 1.0,
    weight_decay: Annotated[float, typer.Option(min=0, help="of matrices")] = 0.01,
    freeze_encoder: Annotated[bool, typer.Option("--freeze-encoder", help="train what follows the encoder")] = False,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="with --freeze-encoder --no-augment: run the encoder once, keep the results here"),
    ] = None,
    embedding_dtype: Annotated[
        str | None, typer.Option(help="of these: bfloat16, float32; none: float16, half the size of float32")
    ] = None,
    lora: Annotated[int | None, typer.Option(metavar="RANK", min=1, help="train adapters and the decoder")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="write the adapters into the weights at the end")] = False,
    augment: Annotated[bool, typer.Option(help="mirror, crop and recolour images")] = True,
    train_batch_norm: Annotated[
        bool, typer.Option("--train-batch-norm", help="take statistics from the batches, for untrained models")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="compute in bfloat16 where that is safe")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="less memory for a third more time")
    ] = False,
    image_size: Annotated[int | None, typer.Option(help="side of the model's input; none: its own")] = None,
    eval_every: Annotated[int | None, typer.Option(min=1, help="steps between evaluations; none: an epoch")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="stop after so many evaluations that are no better")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="go on with a run: auto, or its folder checkpoint-N")] = None,
    log: Annotated[Log, typer.Option(help="tensorboard draws OUT/runs")] = Log.none,
    seed: Annotated[int, typer.Option(min=0, help="of everything that is drawn")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="processes that read images; none: 0, with a GPU 4")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="leave the GPU alone")] = False,
    video: Annotated[bool, typer.Option("--video", help="DATA is clips: train tracking")] = False,
    parts: Annotated[Parts | None, typer.Option(help="with --video: what is trained; none: decoder")] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="with --video: frames of a clip that are learnt from; none: 8")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell what was found, and what would be done")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Fine-tune a checkpoint on a dataset of images and masks, or of clips with --video.

    \b
    sam-variants train photos --out trained --eval-share 0.2
    sam-variants train photos --out trained --lora 8 --merge
    sam-variants train DAVIS --video --split train --eval-split val --out trained

    In several processes, one for each GPU, or on processors with --cpu:

    \b
    torchrun --nproc-per-node 2 --no-python sam-variants train photos --out trained
    accelerate launch -m sam_variants.hub_scripts.train photos --out trained
    """
    # Here, because they import PyTorch, for which --help should not wait.
    import torch

    from sam_variants.hub_scripts.evaluation_data import read_columns
    from sam_variants.hub_scripts.train_data import DataOptions
    from sam_variants.hub_scripts.train_run import Choices, train_on_clips, train_on_images
    from sam_variants.training.mask_training import RunOptions

    if out is None and not dry_run:
        raise typer.BadParameter("--out is missing: name a new folder for the checkpoint")
    if not video and (parts or frames):
        raise typer.BadParameter("--parts and --frames are for clips: add --video, or leave them out")
    if embedding_dtype and not embeddings:
        raise typer.BadParameter("--embedding-dtype is that of cached embeddings: add --embeddings, or leave it out")
    has_gpu = torch.accelerator.is_available() and not cpu
    arguments: dict[str, Any] = {
        "output_dir": str(out),
        "rounds": rounds,
        "min_area": min_area,
        "augment": augment,
        "layer_decay": layer_decay,
        "frozen_encoder": freeze_encoder,
        "trains_batch_norm": train_batch_norm,
        "patience": patience,
        "lora_rank": lora,
        "weight_decay": weight_decay,
        "gradient_accumulation_steps": accumulate,
        "bf16": bf16,
        "activation_checkpointing": gradient_checkpointing,
        "report_to": log.value,
        "seed": seed,
        "dataloader_num_workers": (NUM_GPU_WORKERS if has_gpu else 0) if workers is None else workers,
        "use_cpu": not has_gpu,
        "disable_tqdm": json_output,
    }
    given = {
        "learning_rate": learning_rate,
        "objects_per_image": objects,
        "per_device_train_batch_size": batch_size,
    }
    arguments |= {name: value for name, value in given.items() if value is not None}
    where = DataOptions(
        data, split, eval_data, eval_split, eval_share, read_columns(columns), streaming, max_objects, seed
    )
    choices = Choices(where, model, image_size, arguments, epochs, steps, eval_every, dry_run, json_output)
    options = RunOptions(resume, embeddings, embedding_dtype or RunOptions.embedding_dtype, merge)
    if video:
        train_on_clips(choices, options, (parts or Parts.decoder).value, frames or NUM_FRAMES)
    else:
        train_on_images(choices, options)


def main() -> None:
    """The command by itself, as the launchers of several processes start it; errors in one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(train)
    try:
        app(standalone_mode=False)
    except Exception as error:
        typer.echo(one_line(error), err=True)
        raise SystemExit(getattr(error, "exit_code", 1)) from error


if __name__ == "__main__":
    main()
