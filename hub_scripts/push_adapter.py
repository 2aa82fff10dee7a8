"""`sam-variants push` for the folder of an adapter: it goes to the Hub alone, its base is only named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub.push_folder import PushReport
from sam_variants.training.adapter_files import read_adapter_config
from sam_variants.training.lora import load_adapter, push_adapter


def push_adapter_folder(folder: Path, repo_id: str, base_model: str | None = None, **how: Any) -> PushReport:
    """Push an adapter that was saved, once it is sure that it fits its base.

    Args:
        folder: of `save_adapter`, or what `sam-variants train --lora` leaves.
        repo_id: of the adapter.
        base_model: what the base is called where the folder does not say it, or says a place of this machine.
        how: of `push_adapter`.

    Raises:
        ValueError: for an adapter without a base, or that does not fit it, and as `push_adapter`.
        OSError: when the base can't be read, or the Hub refuses.
    """
    stated = read_adapter_config(folder).base_model_name_or_path
    source = stated if stated and (base_model is None or Path(stated).exists()) else base_model
    if not source:
        raise ValueError(
            f"{folder} does not say which model its adapter belongs to: add --base-model, for example --base-model "
            "facebook/sam-vit-base"
        )
    base: Any = load_checkpoint(source)
    return push_adapter(load_adapter(base, folder), repo_id, base_model=base_model, **how)
