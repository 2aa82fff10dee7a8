"""One checkpoint on its way through `sam-variants convert`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from rich.console import Console

from sam_variants.checkpoint_layouts.read_checkpoint import WEIGHT_SUFFIXES
from sam_variants.hub_scripts.convert_folder import check_folder, folder_sizes, whole_folder
from sam_variants.hub_scripts.convert_forms import Target, WriteOptions
from sam_variants.hub_scripts.convert_source import (
    Source,
    as_quantized,
    parameters_by_part,
    read_source,
)
from sam_variants.hub_scripts.convert_target import card_for, check_target, write_target
from sam_variants.hub_scripts.convert_verify import verify_source
from sam_variants.hub_scripts.segment import Clock

# Beside the weights: the card, the configuration, the package's code.
SMALL_FILES = 2 << 20


class Conversion:
    """One checkpoint on its way.

    Args:
        name: what `load_checkpoint` takes.
        to: what is written.
        options: how it is written.
        preset, dtype, check, revision: as in `read_source`.
        force: write over an older result.
        verify: compare with transformers first.
        quantize: name in `QUANTIZATIONS`, or None.
    """

    def __init__(
        self,
        name: str,
        to: Target,
        options: WriteOptions,
        preset: str | None,
        dtype: torch.dtype | None,
        check: bool,
        revision: str | None,
        force: bool,
        verify: bool,
        quantize: str | None = None,
    ) -> None:
        self.name, self.to, self.options = name, to, options
        self.preset, self.dtype, self.check, self.revision = preset, dtype, check, revision
        self.force, self.verify, self.quantize = force, verify, quantize
        self.clock, self.console = Clock(), Console(stderr=True)

    def run(self, out: Path, taken: list[str] | None) -> dict[str, Any]:
        """Convert it.

        Args:
            out: where to.
            taken: for one of several: the folders below `out` that have others of them already.

        Returns:
            What there is to tell, ready for JSON.

        Raises:
            ValueError, TypeError, OSError: when it can't be done; nothing is left behind.
        """
        if taken is None:
            check_folder(out, self.force, Path(self.name))
        with self.clock.step("read", self.console):
            source = read_source(self.name, self.preset, self.dtype, self.check, self.revision)
            check_target(source, self.to)
        folder = out if taken is None else out / folder_name(source, taken)
        check_folder(folder, self.force, source.path)
        verified = None
        if self.verify:
            with self.clock.step("verify", self.console):
                verified = verify_source(source)
            verified.check(self.name)
        if self.quantize is not None:
            with self.clock.step("quantise", self.console):
                source = as_quantized(source, self.quantize)
        num_bytes = sum(tensor.nbytes for tensor in source.written.values()) + SMALL_FILES
        with self.clock.step("write", self.console), whole_folder(folder, self.force, num_bytes) as draft:
            write_target(source, self.to, draft, self.options)
            written = folder_sizes(draft)
        return describe(source, card_for(source, self.options)) | {
            "to": self.to.value,
            "out": str(folder),
            "written": written,
            "verified": None if verified is None else asdict(verified),
            "seconds": self.clock.seconds,
        }


def folder_name(source: Source, taken: list[str]) -> str:
    """The folder of one of several checkpoints: its preset's name, once; else the file's."""
    if source.preset is not None and source.preset not in taken:
        return source.preset
    name = source.path.name
    return next((name.removesuffix(suffix) for suffix in WEIGHT_SUFFIXES if name.endswith(suffix)), name)


def describe(source: Source, card: ModelCard) -> dict[str, Any]:
    """What a checkpoint was found to be, ready for JSON.

    Args:
        source: the checkpoint.
        card: the one that a repository of it gets.
    """
    return {
        "checkpoint": source.name,
        "layout": source.layout_name,
        "preset": source.preset,
        "told_by": source.how,
        "model_class": type(source.model).__name__,
        "files": [
            {
                "file": str(file.path),
                "sha256": file.sha256,
                "equals": file.compared_with or None,
                "published": None if file.published is None else file.published.file_name,
            }
            for file in source.files
        ],
        "licence": card.data.get("license"),
        "base_model": card.data.get("base_model"),
        "parameters": parameters_by_part(source.model.named_parameters()),
        "dropped": source.dropped,
        "stored_dtypes": dtypes_of(source.tensors.values()),
        "dtype": ", ".join(dtypes_of(source.written.values())),
        "quantize": source.quantize,
    }


def dtypes_of(tensors: Iterable[torch.Tensor]) -> list[str]:
    """The names of the dtypes of floating-point tensors, sorted."""
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()})
