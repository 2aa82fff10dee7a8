"""transformers' Trainer for modules that compare a student with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from sam_variants.training.embedding_distillation import collate_levels
from sam_variants.training.mask_batches import EpochOrder
from sam_variants.training.parameter_groups import parameter_groups
from sam_variants.training.training_callbacks import TrainingProgress


class DistillationTrainer(Trainer):
    """Trains a module whose forward pass returns a `loss`.

    The order of the rows is a function of the seed and the epoch: a run that is resumed goes on exactly where it
    stopped.

    Args:
        module: what learns; parameters without `requires_grad` don't.
        args: how.
        rows: whose index is an `EpochRow`.
    """

    def __init__(self, module: nn.Module, args: TrainingArguments, rows: Dataset) -> None:
        self._order = EpochOrder(len(rows), args.seed)  # type: ignore[arg-type]
        super().__init__(model=module, args=args, train_dataset=rows, data_collator=collate_levels)  # type: ignore[arg-type]
        for shown in (PrinterCallback, ProgressCallback):
            self.remove_callback(shown)
        self.add_callback(TrainingProgress())

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self._order

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]
        # accelerate does not find the sampler of a run in several processes that skips batches
        self._order.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)  # type: ignore[misc]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.args.learning_rate, self.args.weight_decay)  # type: ignore[arg-type]
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As in transformers; an infinite loss ends the run before it reaches the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} in step {self.state.global_step + 1}: a lower --learning-rate may help, or "
                "float32 instead of bfloat16; the last checkpoint is from before"
            )
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


def freeze_unused(module: nn.Module, batch: Mapping[str, Any]) -> None:
    """Freeze the parameters that the loss of a batch does not depend on, such as a classifier that came with weights.

    Several processes would wait for their gradients.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    moved = {
        name: [level.to(device) for level in value] if isinstance(value, list) else value.to(device)
        for name, value in batch.items()
    }
    module(**moved)["loss"].backward()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    module.train(was_training)
