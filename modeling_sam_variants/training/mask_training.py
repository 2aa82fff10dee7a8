"""A whole run of fine-tuning: checks, what is trained, the trainer, and the checkpoint at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, set_seed

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pretrained_part import IMAGE_PARTS
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.embedding_shards import EMBEDDING_PARTS, EmbeddingShards, embed_dataset
from sam_variants.training.lora import add_lora, merge_adapter, save_adapter
from sam_variants.training.mask_datasets import MaskDataset
from sam_variants.training.mask_trainer import MaskTrainer, MaskTrainingArguments
from sam_variants.training.training_record import CHECKPOINT_NAME, TrainingRecord, is_complete, last_checkpoint

AUTO = "auto"
# Rows of a stream among which there has to be an object.
STREAM_START = 100
ADAPTER_FOLDER, LOG_FOLDER = "adapter", "runs"
# Arguments that decide the order of the data and the weights, and so can't change when a run goes on.
FIXED = (
    *("seed", "objects_per_image", "rounds", "min_area", "box_share", "augment", "layer_decay", "frozen_encoder"),
    *("trains_batch_norm", "learning_rate", "weight_decay", "warmup_steps", "gradient_accumulation_steps", "bf16"),
    *("max_grad_norm", "lora_rank"),
)


@dataclass(frozen=True)
class RunOptions:
    """What of a run is not the trainer's.

    Attributes:
        resume: a folder checkpoint-N to go on with, "auto" for the last one in the output folder (a new run where that
            has none), or None for a new run.
        embeddings: folder for the image embeddings of a frozen encoder, which are computed where they are missing;
            None runs the encoder in every step.
        embedding_dtype: float16 halves the folder; float32 gives exactly what the encoder would.
        merge: write adapters into the weights at the end; they themselves come into a folder `adapter` then.
        facts: for the record, such as the checkpoint that the run begins with.
    """

    resume: str | Path | None = None
    embeddings: Path | None = None
    embedding_dtype: str = "float16"
    merge: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def train_masks(
    model: SamVariantsModel,
    processor: SamVariantsProcessor,
    data: MaskDataset,
    args: MaskTrainingArguments,
    eval_data: MaskDataset | None = None,
    options: RunOptions | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Fine-tune a promptable model, in place, and leave the best checkpoint in `args.output_dir`.

    Args:
        model: the model; fused for inference it can't be trained.
        processor: its processor.
        data: images with masks; a stream needs `args.max_steps`.
        args: how; `lora_rank` and `frozen_encoder` say what is trained.
        eval_data: rows that the mIoU is measured on, for early stopping and the choice of the best checkpoint; without
            them the last one is kept.
        options: resuming, cached embeddings, merging.
        callbacks: of transformers' Trainer.

    Returns:
        What `training.json` says, with `seconds` and `out`.

    Raises:
        ValueError: for options that don't go together, data without objects, a folder that isn't empty, a run that
            can't be resumed, and a loss that isn't finite.
    """
    options, begun = options or RunOptions(), time.monotonic()
    out = Path(args.output_dir or "")
    check_options(model, data, args, eval_data, options)
    checkpoint = checkpoint_to_resume(out, options.resume, is_first=args.process_index == 0)
    require_object(data, args.min_area)
    trained: Any = prepared(model, args)
    record = TrainingRecord(
        fixed_arguments(args, processor, data),
        {**options.facts, "trained_parameters": trained_parameters(trained), "data": data.report()}
        | ({} if eval_data is None else {"eval_data": eval_data.report()}),
    )
    before = {} if checkpoint is None else record.check(checkpoint)
    embeddings = None
    if options.embeddings is not None:
        embeddings = cached_embeddings(model, processor, data, args, options)
    if eval_data is not None:
        args.load_best_model_at_end = True
        args.eval_on_start = checkpoint is None
    trainer = MaskTrainer(trained, args, processor, data, eval_data, record, embeddings, callbacks=list(callbacks))
    trainer.rows_without_objects = before.get("rows_without_objects", 0)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    write_result(trainer, out, options.merge)
    summary = record.summary(trainer.state, trainer.rows_without_objects)
    return summary | {"seconds": round(time.monotonic() - begun, 1), "out": str(out)}


def check_options(
    model: SamVariantsModel,
    data: MaskDataset,
    args: MaskTrainingArguments,
    eval_data: MaskDataset | None,
    options: RunOptions,
) -> None:
    """Refuse what can't be trained, and options that contradict each other."""
    if getattr(model, "_is_fused", False):
        raise ValueError("the model is fused for inference and can't be trained: load it again, without fuse()")
    if args.frozen_encoder and args.lora_rank:
        raise ValueError("a frozen encoder has no use for adapters in it: choose --freeze-encoder or --lora")
    if options.embeddings is not None and not args.frozen_encoder:
        raise ValueError("cached embeddings need a frozen encoder: add --freeze-encoder, or leave out --embeddings")
    if options.embeddings is not None and args.augment:
        raise ValueError("cached embeddings are those of unchanged images: add --no-augment, or leave out --embeddings")
    if options.merge and not args.lora_rank:
        raise ValueError("there is nothing to merge without adapters: add --lora RANK, or leave out --merge")
    if data.streaming and (args.max_steps < 1 or options.embeddings is not None):
        raise ValueError("a stream has no end and no rows: say --steps, and leave out --embeddings")
    if data.streaming and args.dataloader_num_workers > 1:
        raise ValueError(f"a stream is read by one worker at most, got --workers {args.dataloader_num_workers}")
    if eval_data is not None and eval_data.streaming:
        raise ValueError("evaluation data can't be a stream: open it with streaming=False")
    if args.patience is not None and eval_data is None:
        raise ValueError("stopping early needs data to measure the mIoU on: add --eval-split or --eval-data")


def checkpoint_to_resume(out: Path, resume: str | Path | None, is_first: bool = True) -> Path | None:
    """The checkpoint that a run goes on with, or None for a new one.

    Args:
        out: where the run writes.
        resume: as in `RunOptions`.
        is_first: whether this process is the one that looks whether the folder is empty.

    Raises:
        ValueError: when a new run would write into a folder that holds something.
        OSError: when there is no such checkpoint.
    """
    if resume is not None and str(resume) != AUTO:
        if not is_complete(Path(resume)):
            raise OSError(f"--resume {resume} is no checkpoint of a run: name a folder checkpoint-N, or auto")
        return Path(resume)
    present = list(out.iterdir()) if out.is_dir() else [out] if out.exists() else []
    if resume is None:
        if present and is_first:
            raise ValueError(f"--out {out} isn't empty: name a new folder, or go on with its run with --resume auto")
        return None
    if last := last_checkpoint(out):
        return last
    # a run that was killed before its first checkpoint was complete begins anew
    others = [path for path in present if path.name != LOG_FOLDER and not CHECKPOINT_NAME.fullmatch(path.name)]
    if others and is_first:
        raise ValueError(f"--out {out} has no checkpoint to resume from, but other files: name a new folder")
    return None


def require_object(data: MaskDataset, min_area: float) -> None:
    """Refuse data in which there is nothing to learn.

    Raises:
        ValueError: when no row (of a stream: none of the first) has an object that is large enough.
    """
    if not data.streaming and not len(data):
        raise ValueError(f"{data.name} has no rows: there is nothing to train on")
    looked_at = islice(data, STREAM_START) if data.streaming else data
    if not any((example.areas >= min_area).any() for example in looked_at):
        rows = f"the first {STREAM_START}" if data.streaming else str(len(data))
        smallest = f" that covers {min_area:.2%} of its image" if min_area else ""
        raise ValueError(f"{data.name}: none of {rows} rows has an object{smallest}: there is nothing to train on")


def prepared(model: SamVariantsModel, args: MaskTrainingArguments) -> nn.Module:
    """The model with what is not trained frozen, or with adapters around it, which begin as the seed says.

    Weights are trained in float32, whatever a checkpoint holds: in float16 small steps would be lost.
    """
    model.float()
    for name, parameter in model.named_parameters():
        is_image_part = name.startswith(IMAGE_PARTS)
        parameter.requires_grad_(is_image_part and not (args.frozen_encoder and name.startswith(EMBEDDING_PARTS)))
    if not args.lora_rank:
        return model
    set_seed(args.seed)
    return add_lora(model, rank=args.lora_rank)


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def fixed_arguments(args: MaskTrainingArguments, processor: SamVariantsProcessor, data: MaskDataset) -> dict[str, Any]:
    """What has to be the same when a run goes on."""
    fixed = {name: getattr(args, name) for name in FIXED}
    fixed["images_per_batch"] = args.per_device_train_batch_size * args.world_size
    fixed["image_size"] = processor.image_processor.image_size  # type: ignore[attr-defined]
    if data.streaming:
        # datasets reads the shards of a stream in another order in a worker
        return fixed | {"workers": args.dataloader_num_workers}
    return fixed | {"rows": len(data), "data_fingerprint": data.fingerprint}


def cached_embeddings(
    model: SamVariantsModel,
    processor: SamVariantsProcessor,
    data: MaskDataset,
    args: MaskTrainingArguments,
    options: RunOptions,
) -> EmbeddingShards:
    """The embeddings of all rows, each process computing its share of what is missing."""
    model.to(args.device)  # type: ignore[arg-type]
    return embed_dataset(
        model,
        processor,
        data,
        options.embeddings or "",
        args.per_device_train_batch_size,
        options.embedding_dtype,
        precision="bfloat16" if args.bf16 else "float32",
    )


def write_result(trainer: MaskTrainer, out: Path, merge: bool) -> None:
    """The trained weights with configuration, processor and record into `out`; by the first process."""
    if not merge:
        trainer.save_model(str(out))
        return
    adapted: Any = trainer.model
    if trainer.args.should_save:
        save_adapter(adapted, out / ADAPTER_FOLDER)
    trainer.model = merge_adapter(adapted)
    trainer.save_model(str(out))
