"""One load of the benchmark `load`, in a process of its own.

`python -m sam_variants.hub_scripts.benchmark_loading from_pretrained FOLDER` prints a line of JSON. All imports are
done before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, Sam2Model, SamModel, pipeline
from transformers.utils import logging

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub_scripts.benchmark_peak import PeakMemory

PRETRAINED, CHECKPOINT, PIPELINE = "from_pretrained", "load_checkpoint", "pipeline"
# Their modules are imported when they are first named, which is no part of a load.
THEIR_CLASSES = (SamModel, Sam2Model)
any_pipeline: Callable[..., Any] = pipeline  # whose types know transformers' own tasks
LOADERS: dict[str, Callable[[str], Any]] = {
    PRETRAINED: AutoModel.from_pretrained,
    CHECKPOINT: load_checkpoint,
    PIPELINE: lambda folder: any_pipeline("promptable-segmentation", model=folder).model,
}


def measured_load(loader: str, folder: str) -> dict[str, Any]:
    """Load a model once.

    Args:
        loader: key of `LOADERS`.
        folder: the checkpoint.

    Returns:
        `seconds` and `cpu_seconds` of the load; `weights_bytes`; `peak_bytes`, how far memory rose meanwhile and while
        every weight was read once, because those that are mapped from the file are in memory only then (None where the
        system doesn't tell).
    """
    with PeakMemory() as memory:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        model = LOADERS[loader](folder)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
        read_weights(model)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "weights_bytes": weights,
        "peak_bytes": memory.peak_bytes,
    }


@torch.no_grad()
def read_weights(model: nn.Module) -> None:
    """Touch every weight."""
    for tensor in model.state_dict().values():
        tensor.sum()


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments say."""
    logging.disable_progress_bar()
    sys.stdout.write(json.dumps(measured_load(*arguments)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
