"""Fine-tuning on video clips with masks: what tracks learns from prompts on the first frame and its own memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback

from sam_variants.losses import LossWeights
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pretrained_part import IMAGE_PARTS, VIDEO_PARTS
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.clip_batches import ClipPlan, PromptedClips, collate_clips
from sam_variants.training.clip_datasets import ClipDataset
from sam_variants.training.clip_loss import TrackingLoss
from sam_variants.training.clip_quality import PROMPTS, TrackedObjectQuality, clip_quality, mean_quality
from sam_variants.training.mask_trainer import MaskTrainer, MaskTrainingArguments
from sam_variants.training.mask_training import RunOptions, checkpoint_to_resume, trained_parameters, write_result
from sam_variants.training.prompt_simulation import PromptSampler
from sam_variants.training.training_record import TrainingRecord

# What is trained, by the beginnings of parameter names.
TRAINED_PARTS: dict[str, tuple[str, ...]] = {
    "memory": VIDEO_PARTS,
    "decoder": (*VIDEO_PARTS, "prompt_encoder.", "mask_decoder.", "no_mem_embed"),
    "all": (*VIDEO_PARTS, *IMAGE_PARTS),
}
# Arguments that decide the order of the data and the weights, and so can't change when a run goes on.
FIXED = (
    *("parts", "learning_rate", "weight_decay", "layer_decay", "warmup_steps", "gradient_accumulation_steps", "bf16"),
    "max_grad_norm",
)
# Of images alone: these have no meaning for clips.
FOR_IMAGES = {"rounds": 3, "frozen_encoder": False, "trains_batch_norm": False, "lora_rank": None}


@dataclass
class ClipTrainingArguments(MaskTrainingArguments):
    """Those of images, as far as they mean something for clips, and what is about tracking.

    Attributes:
        parts: what is trained, a key of `TRAINED_PARTS`: "memory", "decoder" (and prompt encoder, and memory) or "all".
        objects_per_image: objects of a clip, at most.
        augment: clips that run backwards, and mirrored ones.
        box_share, mask_share: how often boxes and masks are given on the first frame; else it is clicks.
        refine_share, correct_share, corrected_frames, correction_clicks: of `ClipPlan`.
        eval_frames: frames of evaluation clips that are tracked, at most; None for all.
        eval_prompt: "click", "box" or "mask", on the first frame that shows an object.
    """

    parts: str = "decoder"
    objects_per_image: int = 3
    box_share: float = 0.2
    mask_share: float = 0.2
    refine_share: float = 0.4
    correct_share: float = 0.3
    corrected_frames: int = 1
    correction_clicks: int = 1
    eval_frames: int | None = None
    eval_prompt: str = "click"

    learning_rate: float = 5e-5
    per_device_train_batch_size: int = 1
    metric_for_best_model: str | None = "j_and_f"

    def __post_init__(self) -> None:
        if self.parts not in TRAINED_PARTS:
            raise ValueError(f"parts={self.parts!r} is none of {sorted(TRAINED_PARTS)}")
        if self.eval_prompt not in PROMPTS:
            raise ValueError(f"eval_prompt={self.eval_prompt!r} is none of {PROMPTS}")
        for name, usual in FOR_IMAGES.items():
            if getattr(self, name) != usual:
                raise ValueError(f"{name}={getattr(self, name)!r} is about training on images: leave it out for clips")
        for name in ("mask_share", "refine_share", "correct_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in 0..1")
        if self.box_share + self.mask_share > 1:
            raise ValueError(f"box_share={self.box_share} and mask_share={self.mask_share} are more than 1 together")
        for name, least in {"corrected_frames": 0, "correction_clicks": 0, "eval_frames": 2}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        super().__post_init__()

    @property
    def clip_plan(self) -> ClipPlan:
        """What is asked of the clips."""
        share = 0.5 if self.augment else 0.0
        return ClipPlan(
            seed=self.seed,
            num_objects=self.objects_per_image,
            min_area=self.min_area,
            reverse_share=share,
            mirror_share=share,
            box_share=self.box_share,
            mask_share=self.mask_share,
            refine_share=self.refine_share,
            correct_share=self.correct_share,
            corrected_frames=self.corrected_frames,
            correction_clicks=self.correction_clicks,
        )


class ClipTrainer(MaskTrainer):
    """Trains a video model on clips; everything else is as in `MaskTrainer`.

    Args:
        model: a video model; what of it is not to be trained has no `requires_grad`.
        args: how.
        processor: the model's.
        train_data: the clips.
        eval_data: clips to measure J and F on, or None.
        record: what is written beside every checkpoint.
        loss_weights: SAM's by default.
        callbacks: further ones.
    """

    collate: Any = staticmethod(collate_clips)

    def __init__(
        self,
        model: SamVariantsVideoModel,
        args: ClipTrainingArguments,
        processor: SamVariantsProcessor,
        train_data: ClipDataset,
        eval_data: ClipDataset | None = None,
        record: TrainingRecord | None = None,
        loss_weights: LossWeights | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        data: Any = (train_data, eval_data)
        super().__init__(model, args, processor, data[0], data[1], record, None, loss_weights, callbacks)

    def _examples(self, data: Any, args: Any, embeddings: Any) -> PromptedClips:
        return PromptedClips(data, self.processor, args.clip_plan)

    def _with_loss(self, model: nn.Module) -> TrackingLoss:
        encoder: Any = model.image_encoder
        learns = any(parameter.requires_grad for parameter in encoder.parameters())
        return TrackingLoss(model, self.loss_weights, frozen_encoder=not learns)

    def _quality(self, data: Any) -> dict[str, float]:
        """J and F of every object of all clips, each process tracking its share of them."""
        args: Any = self.args
        qualities = []
        for row in range(self.accelerator.process_index, len(data), self.accelerator.num_processes):
            clip = data.whole(row, args.eval_frames)
            qualities += clip_quality(self.model, self.processor, clip, args.eval_prompt)
        if self.accelerator.num_processes > 1:
            qualities = [TrackedObjectQuality(*values) for values in gather_object(qualities)]
        return mean_quality(qualities)


def train_clips(
    model: SamVariantsVideoModel,
    processor: SamVariantsProcessor,
    clips: ClipDataset,
    args: ClipTrainingArguments,
    eval_clips: ClipDataset | None = None,
    options: RunOptions | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Fine-tune a video model, in place, and leave the best checkpoint in `args.output_dir`.

    Args:
        model: of SAM 2 or any other that tracks; fused for inference it can't be trained.
        processor: its processor.
        clips: what it learns from, a window of every clip in each epoch.
        args: how; `parts` says what is trained.
        eval_clips: clips that J and F are measured on, for early stopping and the choice of the best checkpoint;
            without them the last one is kept.
        options: resuming and facts for the record; the rest is for images.
        callbacks: of transformers' Trainer.

    Returns:
        What `training.json` says, with `seconds` and `out`.

    Raises:
        TypeError: for a model of images.
        ValueError: for options that don't go together, clips without objects, a folder that isn't empty, a run that
            can't be resumed, and a loss that isn't finite.
    """
    options, begun = options or RunOptions(), time.monotonic()
    out = Path(args.output_dir or "")
    check_clip_options(model, args, eval_clips, options)
    checkpoint = checkpoint_to_resume(out, options.resume, is_first=args.process_index == 0)
    require_tracked_object(clips, args)
    prepared_for_clips(model, args)
    reports = {"data": clips} | ({} if eval_clips is None else {"eval_data": eval_clips})
    record = TrainingRecord(
        fixed_clip_arguments(args, processor, clips),
        {**options.facts, "trained_parameters": trained_parameters(model)}
        | {name: data.report() for name, data in reports.items()},
        str(args.metric_for_best_model),
    )
    before = {} if checkpoint is None else record.check(checkpoint)
    if eval_clips is not None:
        args.load_best_model_at_end = True
        args.eval_on_start = checkpoint is None
    trainer = ClipTrainer(model, args, processor, clips, eval_clips, record, callbacks=list(callbacks))
    trainer.rows_without_objects = before.get("rows_without_objects", 0)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    write_result(trainer, out, merge=False)
    summary = record.summary(trainer.state, trainer.rows_without_objects)
    return summary | {"seconds": round(time.monotonic() - begun, 1), "out": str(out)}


def check_clip_options(
    model: nn.Module, args: ClipTrainingArguments, eval_clips: ClipDataset | None, options: RunOptions
) -> None:
    """Refuse what can't be trained, and options that contradict each other."""
    if not isinstance(model, SamVariantsVideoModel):
        raise TypeError(
            f"a {type(model).__name__} has no memory to follow objects with: load a checkpoint that can track, such as "
            "the embedded one, sam_variants.default_checkpoint(video=True), or any of SAM 2"
        )
    if getattr(model, "_is_fused", False):
        raise ValueError("the model is fused for inference and can't be trained: load it again, without fuse()")
    if options.embeddings is not None or options.merge:
        raise ValueError("cached embeddings and adapters are for training on images: leave them out for clips")
    if args.patience is not None and eval_clips is None:
        raise ValueError("stopping early needs clips to measure J and F on: add --eval-split or --eval-data")


def prepared_for_clips(model: SamVariantsVideoModel, args: ClipTrainingArguments) -> SamVariantsVideoModel:
    """The model with what is not trained frozen; in float32, as for images."""
    model.float()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED_PARTS[args.parts]))
    return model


def require_tracked_object(clips: ClipDataset, args: ClipTrainingArguments) -> None:
    """Refuse clips in which there is nothing to learn.

    Raises:
        ValueError: when no clip has an object that is large enough.
    """
    sampler = PromptSampler(args.seed)
    drawn = (clips.draw(row, sampler.rng(0, row), 1, args.min_area) for row in range(len(clips)))
    if not any(clip.object_ids for clip in drawn):
        smallest = f" that covers {args.min_area:.2%} of a frame" if args.min_area else ""
        raise ValueError(f"{clips.name}: none of {len(clips)} clips has an object{smallest}: there is nothing to learn")


def fixed_clip_arguments(
    args: ClipTrainingArguments, processor: SamVariantsProcessor, clips: ClipDataset
) -> dict[str, Any]:
    """What has to be the same when a run goes on."""
    return {
        **{name: getattr(args, name) for name in FIXED},
        **asdict(args.clip_plan),
        "clips_per_batch": args.per_device_train_batch_size * args.world_size,
        "image_size": processor.image_processor.image_size,  # type: ignore[attr-defined]
        "clips": len(clips),
        "frames": clips.num_frames,
        "strides": list(clips.strides),
    }
