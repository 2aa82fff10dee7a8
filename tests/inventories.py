"""The keys and shapes of every published checkpoint, stored as lists, and stand-ins for their tensors."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

SAM2_SIZES = ("tiny", "small", "base_plus", "large")
INVENTORIES = Path(__file__).parent / "key_inventories"


@cache
def inventory(name: str) -> dict[str, Any]:
    """A stored file: `shapes` and `num_parameters` of a full-size checkpoint of the official code or of transformers.

    Those that begin with `map_` hold official name → transformers' name.
    """
    return json.loads(gzip.decompress((INVENTORIES / f"{name}.json.gz").read_bytes()))


def stand_ins(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}
