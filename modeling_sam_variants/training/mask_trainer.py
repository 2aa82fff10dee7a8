"""Fine-tuning on images with masks: transformers' Trainer with simulated prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from sam_variants.losses import LossWeights
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.embedding_shards import EmbeddingShards
from sam_variants.training.lora import save_adapter
from sam_variants.training.mask_batches import EpochOrder, PromptedRows, PromptedStream, PromptPlan, collate
from sam_variants.training.mask_datasets import MaskDataset
from sam_variants.training.parameter_groups import parameter_groups
from sam_variants.training.prompted_loss import PromptedLoss
from sam_variants.training.quality_while_training import quality, quality_sums
from sam_variants.training.training_callbacks import TrainingProgress
from sam_variants.training.training_record import TrainingRecord


@dataclass
class MaskTrainingArguments(TrainingArguments):
    """transformers' arguments with defaults for segmentation, and what is about prompts.

    Attributes:
        objects_per_image: objects asked for in every image.
        rounds: predictions per object: a click or box, then corrective clicks, often with the previous mask.
        min_area: smallest object asked for, as a share of the image.
        box_share: how often the first prompt is a box.
        augment: mirrored, cropped and recoloured images.
        layer_decay: factor of the learning rate per block of the image encoder, from its end to its beginning.
        frozen_encoder: train prompt encoder and mask decoder alone.
        trains_batch_norm: take the statistics of batch norms from the batch; for models that begin with nothing.
        patience: stop after so many evaluations without a better mIoU; None never stops early.
        lora_rank: rank of the adapters of the model, for the record; None without.
    """

    objects_per_image: int = 8
    rounds: int = 3
    min_area: float = 0.0
    box_share: float = 0.5
    augment: bool = True
    layer_decay: float = 1.0
    frozen_encoder: bool = False
    trains_batch_norm: bool = False
    patience: int | None = None
    lora_rank: int | None = None

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: float = 0.05
    lr_scheduler_type: Any = "cosine"
    per_device_train_batch_size: int = 2
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    save_total_limit: int | None = 2
    report_to: str | list[str] | None = "none"
    ddp_find_unused_parameters: bool | None = True
    restore_callback_states_from_checkpoint: bool = True
    metric_for_best_model: str | None = "miou"
    greater_is_better: bool | None = True
    seed: int = 0
    accelerator_config: dict | str | None = field(default_factory=lambda: {"dispatch_batches": False})

    def __post_init__(self) -> None:
        limits = {"objects_per_image": 1, "rounds": 1, "per_device_train_batch_size": 1, "patience": 1, "seed": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        for name in ("min_area", "box_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in 0..1")
        super().__post_init__()

    @property
    def plan(self) -> PromptPlan:
        """What is asked of the images."""
        return PromptPlan(self.seed, self.objects_per_image, self.rounds, self.min_area, self.box_share, self.augment)


class MaskTrainer(Trainer):
    """Trains a promptable model on rows of images and masks.

    What an example is, prompts included, is a function of the seed, the epoch and the row: a run that is resumed goes
    on exactly where it stopped, and several processes do what one with as many times the batch does. The loss is the
    mean over all objects of a step, however they are shared out to processes and accumulated batches.

    Args:
        model: a promptable model, or one with adapters; what of it is not to be trained has no `requires_grad`.
        args: how.
        processor: the model's.
        train_data: rows; a stream needs `max_steps`.
        eval_data: rows to measure the mIoU on, or None.
        record: what is written beside every checkpoint.
        embeddings: `EmbeddingShards` of the rows, in place of running a frozen encoder.
        loss_weights: SAM's by default.
        callbacks: further ones.
    """

    # the loss is divided by the number of objects of the whole step already
    loss_is_scaled_for_ga = True
    collate: Any = staticmethod(collate)

    def __init__(
        self,
        model: nn.Module,
        args: MaskTrainingArguments,
        processor: SamVariantsProcessor,
        train_data: MaskDataset,
        eval_data: MaskDataset | None = None,
        record: TrainingRecord | None = None,
        embeddings: EmbeddingShards | None = None,
        loss_weights: LossWeights | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if not getattr(train_data, "streaming", False):
            self._order = EpochOrder(len(train_data), args.seed)
        self.processor, self.record, self.loss_weights = processor, record, loss_weights
        self.rows_without_objects = 0
        if args.device.type == "cuda":
            args._n_gpu = 1  # several GPUs are several processes, never threads of one
        stopping = [EarlyStoppingCallback(args.patience)] if args.patience and eval_data is not None else []
        uses_cache = getattr(model.config, "use_cache", None)
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=self.collate,
            train_dataset=self._examples(train_data, args, embeddings),
            eval_dataset=eval_data,  # type: ignore[arg-type]
            callbacks=[*stopping, *(callbacks or [])],
        )
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("DeepSpeed and FSDP are not supported: models of this size fit into every process")
        if uses_cache is None and hasattr(model.config, "use_cache"):
            del model.config.use_cache  # about text generation; it would be saved with the model
        for shown in (PrinterCallback, ProgressCallback):
            self.remove_callback(shown)
        self.add_callback(TrainingProgress())

    def _examples(self, data: Any, args: Any, embeddings: EmbeddingShards | None) -> Any:
        """Rows as what `collate` makes batches of."""
        if data.streaming:
            return PromptedStream(data, self.processor, args.plan)
        return PromptedRows(data, self.processor, args.plan, embeddings)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self._order

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]
        # accelerate does not find the sampler of a run in several processes that skips batches
        if hasattr(self, "_order"):
            self._order.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)  # type: ignore[misc]

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: DataLoader | None = None) -> nn.Module:
        """The model and its loss as one module: gradients are exchanged around one forward pass."""
        if not training or isinstance(self.accelerator.unwrap_model(model), PromptedLoss):
            return model
        return self.accelerator.prepare_model(self._with_loss(model))

    def _with_loss(self, model: nn.Module) -> PromptedLoss:
        args: Any = self.args
        return PromptedLoss(model, args.rounds, self.loss_weights, args.frozen_encoder, args.trains_batch_norm)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args: Any = self.args
            trained: Any = self.model
            groups = parameter_groups(trained, args.learning_rate, args.weight_decay, args.layer_decay)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, self.model)  # type: ignore[arg-type]
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _get_learning_rate(self) -> float:
        return max(group["lr"] for group in self.optimizer.param_groups)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """How many objects all batches of one step have, in all processes; rows without any are counted."""
        found = [(batch["is_object"].sum(), (~batch["is_object"].any(dim=1)).sum()) for batch in batch_samples]
        counts = torch.tensor(found).view(-1, 2).sum(dim=0).to(device)
        num_objects, num_empty = self.accelerator.reduce(counts, "sum")  # type: ignore[misc]
        self.rows_without_objects += int(num_empty)
        return num_objects.clamp(min=1)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # averaging gradients over the processes divides by their number
        return model(inputs) * (self.accelerator.num_processes / num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As in transformers; an infinite loss ends the run before it reaches the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            rows = inputs["row"].tolist()
            raise ValueError(
                f"the loss is {loss.item()} in step {self.state.global_step + 1}, rows {rows}: a lower --learning-rate "
                "may help, or float32 instead of bfloat16; the last checkpoint is from before"
            )
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the model reaches on all rows, shared out to the processes."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._quality(data).items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _quality(self, data: Any) -> dict[str, float]:
        """mIoU; see `quality`."""
        process, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        args: Any = self.args
        sums = quality_sums(self.model, self.processor, data, args.min_area, process, num_processes)  # type: ignore[arg-type]
        if num_processes > 1:
            sums = self.accelerator.reduce(sums.to(args.device), "sum")  # type: ignore[assignment]
        return quality(sums)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A complete checkpoint: weights (or adapters), configuration, processor, record; by the first process."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        model: Any = self.model
        if isinstance(model, PeftModel):
            save_adapter(model, folder)
        else:
            model.save_pretrained(folder, state_dict=state_dict)
        self.processor.save_pretrained(folder)
        if self.record is not None:
            self.record.write(folder, self.state, self.rows_without_objects)
