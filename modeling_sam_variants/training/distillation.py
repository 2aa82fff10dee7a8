"""Distillation: a small image encoder learns the embeddings of a large one, then the decoder is fitted to it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.decoder_alignment import AlignmentRows, DecoderAlignment, agreement
from sam_variants.training.distillation_settings import DistillationSettings
from sam_variants.training.distillation_trainer import DistillationTrainer, freeze_unused
from sam_variants.training.embedding_distillation import (
    DistillationRows,
    EmbeddingDistiller,
    collate_levels,
    embedding_errors,
    spreads_of,
)
from sam_variants.training.embedding_shards import (
    EmbeddingShards,
    ImageSource,
    embed_dataset,
    embedding_fingerprint,
    encoder_checksum,
)
from sam_variants.training.mask_batches import EpochRow
from sam_variants.training.student_config import Student, teacher_processor
from sam_variants.training.training_record import last_checkpoint

REPORT_FILE = "distillation.json"
EMBEDDINGS_FOLDER = "teacher_embeddings"
STAGES = ("embeddings", "alignment")
MAX_HELD_OUT = 100
# What a run that is resumed must have as it was: all but these.
FREE_SETTINGS = ("num_workers", "save_steps", "logging_steps", "report_to")


@dataclass
class Distillation:
    """A run: teacher, student, images and where everything goes.

    Attributes:
        teacher: a whole model.
        student: of `build_student`.
        images: rows with images, and where they have masks, clicks are on objects; see `open_images`, `open_masks`.
        out: folder for the student, a complete repository; new or empty, or of a run to go on with.
        settings: how.
        embeddings: folder of the teacher's embeddings, which may be of an earlier run; None: in `out`.
        cpu: stay on the CPU.
        facts: for the report, such as the teacher's name.
    """

    teacher: SamVariantsModel
    student: Student
    images: ImageSource
    out: Path
    settings: DistillationSettings = field(default_factory=DistillationSettings)
    embeddings: Path | None = None
    cpu: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.images) < 2:
            raise ValueError(f"{len(self.images)} images are too few: one is held out, one or more are learned from")
        self.processor = processor_for(self.student.model)
        self.teacher_processor = teacher_processor(self.teacher, self.student.model)
        self.learned, self.held_out = split_rows(len(self.images), self.settings.held_out, self.settings.seed)
        self.fixed = {
            **{name: value for name, value in asdict(self.settings).items() if name not in FREE_SETTINGS},
            "rows": len(self.images),
            "student": encoder_checksum(self.student.model),
            "student_image_size": self.student.model.config.image_size,
            "projection": self.student.needs_projection,
            **embedding_fingerprint(
                self.teacher, self.teacher_processor, self.images, self.settings.cache_dtype, self._precision
            ),
        }

    @property
    def _precision(self) -> str:
        return "bfloat16" if self.settings.bf16 else "float32"

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Do all of it, and leave a complete checkpoint in `out`.

        Args:
            resume: go on with a run in `out`: embeddings that are there are not made again, and each stage continues
                at its last checkpoint.

        Returns:
            What `distillation.json` says: errors before and after, notes, times.

        Raises:
            ValueError: `out` holds something else, or a run with other settings; a loss that isn't finite.
        """
        begun = time.monotonic()
        arguments = {stage: self._arguments(stage) for stage in STAGES}
        is_first = arguments[STAGES[0]].process_index == 0
        self.fixed["processes"] = arguments[STAGES[0]].world_size
        self._begin(resume, is_first)
        device = arguments[STAGES[0]].device
        self.teacher.to(device).eval()  # type: ignore[arg-type]
        shards = self._embed()
        self.teacher.image_encoder.cpu()  # its work is done, and a large one takes what the student could use
        report: dict[str, Any] = self._facts()
        if self.settings.epochs:
            report["embeddings"] = self._learn_embeddings(arguments["embeddings"], shards)
        if self.settings.alignment_epochs:
            report["alignment"] = self._align(arguments["alignment"], shards)
        report["seconds"] = round(time.monotonic() - begun, 1)
        if is_first:
            model = self.student.model.requires_grad_(True).eval()
            write_repo_folder(model, self.out, processor=self.processor)
            write_json(self.out / REPORT_FILE, report)
        return report

    def _begin(self, resume: bool, is_first: bool) -> None:
        """Refuse a folder of something else; note what the run is."""
        path = self.out / REPORT_FILE
        if resume:
            if not path.is_file():
                raise ValueError(f"{str(self.out)!r} has no {REPORT_FILE}: there is no run to go on with")
            check_same_run(path, self.fixed)
        elif is_first and self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ValueError(f"{str(self.out)!r} isn't empty: name a new folder, or go on with its run (--resume)")
        if is_first and not resume:
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(path, {"settings": self.fixed})

    def _facts(self) -> dict[str, Any]:
        teacher, student = self.teacher, self.student
        return {
            "settings": self.fixed,
            **self.facts,
            "teacher_parameters": encoder_size(teacher),
            "student_parameters": encoder_size(student.model),
            "teacher_image_size": teacher.config.image_size,
            "student_image_size": student.model.config.image_size,
            "images": len(self.learned),
            "held_out": len(self.held_out),
            "notes": [*student.notes, *geometry_notes(teacher, student.model), *self._decoder_notes()],
        }

    def _decoder_notes(self) -> list[str]:
        """What a student with a decoder of its own lacks, in words."""
        if not self.student.needs_projection or self.settings.alignment_epochs:
            return []
        return ["the student's own decoder has not seen its new embeddings: align it (--align), or its masks are wrong"]

    def _arguments(self, stage: str) -> TrainingArguments:
        is_first_stage, settings = stage == STAGES[0], self.settings
        arguments = TrainingArguments(
            output_dir=str(self.out / "checkpoints" / stage),
            num_train_epochs=settings.epochs if is_first_stage else settings.alignment_epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulate,
            learning_rate=settings.learning_rate if is_first_stage else settings.alignment_learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=0.05,
            lr_scheduler_type="cosine",
            bf16=settings.bf16,
            seed=settings.seed,
            dataloader_num_workers=settings.num_workers,
            save_steps=settings.save_steps,
            save_total_limit=2,
            logging_steps=settings.logging_steps,
            logging_nan_inf_filter=False,
            report_to=settings.report_to,
            remove_unused_columns=False,
            label_names=[],
            ddp_find_unused_parameters=False,
            use_cpu=self.cpu,
            accelerator_config={"dispatch_batches": False},
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # several GPUs are several processes, never threads of one
        return arguments

    def _embed(self) -> EmbeddingShards:
        return embed_dataset(
            self.teacher,
            self.teacher_processor,
            self.images,
            self.embeddings or self.out / EMBEDDINGS_FOLDER,
            batch_size=self.settings.batch_size,
            dtype=self.settings.cache_dtype,
            precision=self._precision,
            num_workers=self.settings.num_workers,
        )

    def _learn_embeddings(self, arguments: TrainingArguments, shards: EmbeddingShards) -> dict[str, Any]:
        """The first stage; returns the errors on held-out images before and after."""
        student = self.student
        num_levels = 1 if student.needs_projection else min(num_maps(student.model), num_maps(self.teacher))
        width = self.teacher.config.vision_config.out_chans if student.needs_projection else None
        torch.manual_seed(self.settings.seed)
        distiller = EmbeddingDistiller(student.model, spreads_of(shards, self.learned, num_levels), width)
        distiller.to(arguments.device)
        learned, held_out = (
            DistillationRows(self.images, rows, self.processor, shards) for rows in (self.learned, self.held_out)
        )
        before = embedding_errors(distiller, self._batches(held_out))
        self._train(distiller, arguments, learned)
        return {"before": before, "after": embedding_errors(distiller, self._batches(held_out))}

    def _align(self, arguments: TrainingArguments, shards: EmbeddingShards) -> dict[str, Any]:
        """The second stage; returns the agreement with the teacher on held-out images before and after."""
        alignment = DecoderAlignment(self.student.model, self.teacher, self.settings.rounds).to(arguments.device)
        learned, held_out = (
            AlignmentRows(
                self.images,
                rows,
                self.processor,
                shards,
                self.teacher_processor,
                self.settings.objects,
                self.settings.rounds,
                self.settings.seed,
            )
            for rows in (self.learned, self.held_out)
        )
        before = agreement(alignment, self._batches(held_out))
        self._train(alignment, arguments, learned)
        return {"before": before, "after": agreement(alignment, self._batches(held_out))}

    def _batches(self, rows: DistillationRows) -> DataLoader:
        places = [EpochRow(0, place) for place in range(len(rows))]
        return DataLoader(rows, self.settings.batch_size, sampler=places, collate_fn=collate_levels)

    def _train(self, module: nn.Module, arguments: TrainingArguments, rows: DistillationRows) -> None:
        freeze_unused(module, collate_levels([rows[EpochRow(0, 0)]]))
        checkpoint = last_checkpoint(Path(arguments.output_dir or ""))
        resume = None if checkpoint is None else str(checkpoint)
        DistillationTrainer(module, arguments, rows).train(resume_from_checkpoint=resume)


def split_rows(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to learn from and to measure on, each sorted; at least one of either."""
    order = np.random.default_rng(seed).permutation(count)
    size = min(max(1, round(held_out * count)), MAX_HELD_OUT, count - 1)
    return sorted(order[size:].tolist()), sorted(order[:size].tolist())


def num_maps(model: SamVariantsModel) -> int:
    """How many maps `get_image_embeddings` returns."""
    return 1 if model.config.mask_decoder_config.high_resolution_channels is None else 3


def encoder_size(model: SamVariantsModel) -> int:
    """Parameters of the image encoder."""
    return sum(parameter.numel() for parameter in model.image_encoder.parameters())


def geometry_notes(teacher: SamVariantsModel, student: SamVariantsModel) -> list[str]:
    """What is done where teacher and student see images differently, in words."""
    notes = []
    sides = [model.config.image_size // model.config.vision_config.stride for model in (teacher, student)]
    if sides[0] != sides[1]:
        notes.append(f"the teacher's maps of {sides[0]}x{sides[0]} are resized to {sides[1]}x{sides[1]}")
    modes = [processor_for(model).image_processor.resize_mode for model in (teacher, student)]  # type: ignore[attr-defined]
    if modes[0] != modes[1]:
        notes.append(f"the teacher sees images fitted as the student does it ({modes[1]} instead of {modes[0]})")
    return notes


def check_same_run(path: Path, fixed: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that had other settings. Raises: ValueError, naming what differs."""
    try:
        before = json.loads(path.read_text("utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no report of a distillation: {error!r}") from error
    now = json.loads(json.dumps(dict(fixed)))
    different = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if different:
        told = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in different)
        raise ValueError(f"{str(path.parent)!r} holds another run: {told}. Resume with the same, or name a new folder")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to a file of its own and then put it in place."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
