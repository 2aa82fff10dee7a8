"""How a student learns, and the sizes that have names; apart, so that `--help` tells them without PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

TINY_VIT = "sam_variants_tiny_vit"
# TinyViT's published sizes (Wu et al., 2022), with MobileSAM's windows and without the classifier.
SIZES: dict[str, dict[str, Any]] = {
    "tiny-vit-5m": {"embed_dims": [64, 128, 160, 320], "num_heads": [2, 4, 5, 10]},
    "tiny-vit-11m": {"embed_dims": [64, 128, 256, 448], "num_heads": [2, 4, 8, 14]},
    "tiny-vit-21m": {"embed_dims": [96, 192, 384, 576], "num_heads": [3, 6, 12, 18]},
}
STUDENT_SIZES = {name: {"model_type": TINY_VIT, "num_classes": 0, **size} for name, size in SIZES.items()}


@dataclass(frozen=True)
class DistillationSettings:
    """How a student learns.

    Attributes:
        epochs: passes over the images in which the encoder learns the teacher's embeddings.
        batch_size: images per step and process.
        accumulate: batches per step.
        learning_rate: at its peak; warmed up over a twentieth of the steps, then decayed by a cosine.
        weight_decay: of matrices.
        alignment_epochs: passes in which the mask decoder learns the teacher's answers then; 0 leaves it as it is.
        alignment_learning_rate: the same for the decoder.
        objects: clicks per image.
        rounds: answers per click: the first, then corrections.
        held_out: share of the images that are only measured on, `MAX_HELD_OUT` at most.
        bf16: autocast to bfloat16, for teacher and student.
        cache_dtype: what the teacher's embeddings are stored in.
        seed: of weights, order and prompts.
        num_workers: processes that read images, per process.
        save_steps: steps from one checkpoint to the next.
        logging_steps: steps from one line of the log to the next.
        report_to: "none" or "tensorboard".
    """

    epochs: float = 10
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    alignment_epochs: float = 0
    alignment_learning_rate: float = 1e-4
    objects: int = 8
    rounds: int = 2
    held_out: float = 0.05
    bf16: bool = False
    cache_dtype: str = "float16"
    seed: int = 0
    num_workers: int = 0
    save_steps: int = 500
    logging_steps: int = 20
    report_to: str = "none"

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "accumulate": 1, "objects": 1, "rounds": 1, "save_steps": 1, "logging_steps": 1}
        least |= {"seed": 0, "num_workers": 0, "epochs": 0, "alignment_epochs": 0, "weight_decay": 0}
        for name, limit in least.items():
            if not limit <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be {limit} or more")
        for name in ("learning_rate", "alignment_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be between 0 and 1, such as 1e-3")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be between 0 and 1, such as 0.05")
        if not self.epochs and not self.alignment_epochs:
            raise ValueError("epochs and alignment_epochs are both 0: there is nothing to learn")
