"""What every evaluation begins and ends with: the model that is measured, versions, and the file of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers

from sam_variants.checkpoint_layouts.load_checkpoint import find_locally, load_checkpoint
from sam_variants.hub.saved_weights import checkpoint_checksums
from sam_variants.modeling_sam_variants import SamVariantsModel


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "sam-variants": version("sam-variants"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "scikit-image": version("scikit-image"),
    }


def chosen_names(option: str, given: str, known: Sequence[str]) -> list[str]:
    """The names of a comma-separated list, in the order in which they are known.

    Raises:
        ValueError: an unknown or missing name.
    """
    names = [name.strip() for name in given.split(",")]
    if not set(names) <= set(known):
        raise ValueError(f"{option}={given!r} is not allowed; give some of {','.join(known)}, with commas between")
    return [name for name in known if name in names]


def load_model(checkpoint: str, image_size: int | None, device: str = "cpu") -> tuple[SamVariantsModel, dict[str, Any]]:
    """A model ready for inference, and what the report says about it.

    Raises:
        ValueError, OSError: the checkpoint can't be read, or the size is not a multiple of the encoder's stride.
    """
    model = load_checkpoint(checkpoint)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"{checkpoint} holds a {type(model).__name__}; only a whole SamVariantsModel can be evaluated")
    if image_size is not None:
        model.config.image_size = image_size
    about = {
        "checkpoint": checkpoint,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": model.config.image_size,
        # By it a model card's numbers are known to be of its weights.
        "sha256": checkpoint_checksums(find_locally(checkpoint)[0]),
    }
    # transformers' own float() refuses quantised weights, which stay as they are.
    found: Any = torch.nn.Module.float(model)
    return found.fuse().to(device), about


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, with the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
