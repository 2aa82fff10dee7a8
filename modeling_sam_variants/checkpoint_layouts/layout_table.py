"""The layouts that can be read and written: a new one is a file with its table and one row here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from sam_variants.checkpoint_layouts.config_transformers_sam2 import (
    config_from_transformers_sam2,
    config_to_transformers_sam2,
)
from sam_variants.checkpoint_layouts.config_transformers_sam2_video import (
    config_from_transformers_sam2_video,
    config_to_transformers_sam2_video,
)
from sam_variants.checkpoint_layouts.layout_official import OFFICIAL_MOBILE_SAM, OFFICIAL_SAM
from sam_variants.checkpoint_layouts.layout_official_sam2 import OFFICIAL_SAM2, OUR_SAM2
from sam_variants.checkpoint_layouts.layout_transformers_sam import (
    TRANSFORMERS_SAM,
    config_from_transformers_sam,
    config_to_transformers_sam,
)
from sam_variants.checkpoint_layouts.layout_transformers_sam2 import TRANSFORMERS_SAM2, TRANSFORMERS_SAM2_VIDEO
from sam_variants.checkpoint_layouts.renames import RenameTable, shorten


@dataclass(frozen=True)
class Layout:
    """One foreign layout.

    Args:
        table: its parameter names.
        signature: a key that every file of this layout has, and no file of another (but those with `absent`).
        absent: a key that tells another layout with the same signature from this one.
        model_type: the `model_type` in its config.json, for layouts that come with one.
        config_from: our configuration from the content of its config.json.
        config_to: its configuration from ours.
    """

    table: RenameTable
    signature: str
    absent: str = ""
    model_type: str | None = None
    config_from: Callable[[dict[str, Any]], PreTrainedConfig] | None = None
    config_to: Callable[[Any], PreTrainedConfig] | None = None

    def has_written(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys is of this layout."""
        return self.signature in keys and self.absent not in keys


LAYOUTS: dict[str, Layout] = {
    "sam": Layout(OFFICIAL_SAM, signature="image_encoder.blocks.0.norm1.weight"),
    "mobile-sam": Layout(OFFICIAL_MOBILE_SAM, signature="image_encoder.layers.0.blocks.0.conv1.c.weight"),
    "transformers-sam": Layout(
        TRANSFORMERS_SAM,
        signature="vision_encoder.layers.0.layer_norm1.weight",
        model_type="sam",
        config_from=config_from_transformers_sam,
        config_to=config_to_transformers_sam,
    ),
    "sam2": Layout(OFFICIAL_SAM2, signature="sam_mask_decoder.iou_token.weight"),
    "sam2-our-names": Layout(
        OUR_SAM2, signature="image_encoder.trunk.pos_embed_window", absent="sam_mask_decoder.iou_token.weight"
    ),
    "transformers-sam2-video": Layout(
        TRANSFORMERS_SAM2_VIDEO,
        signature="memory_attention.layer_norm.weight",
        model_type="sam2_video",
        config_from=config_from_transformers_sam2_video,
        config_to=config_to_transformers_sam2_video,
    ),
    "transformers-sam2": Layout(
        TRANSFORMERS_SAM2,
        signature="vision_encoder.backbone.pos_embed_window",
        absent="memory_attention.layer_norm.weight",
        model_type="sam2",
        config_from=config_from_transformers_sam2,
        config_to=config_to_transformers_sam2,
    ),
}

# What peft puts before the names of an adapter's tensors.
ADAPTER_PREFIX = "base_model.model."


def layout_of(keys: Collection[str], source: str) -> Layout:
    """The layout that a file with these keys is of.

    Args:
        keys: names of a state dict.
        source: where they come from, for the message.

    Raises:
        ValueError: when the keys belong to no known layout.
    """
    for layout in LAYOUTS.values():
        if layout.has_written(keys):
            return layout
    if all(key.startswith(ADAPTER_PREFIX) for key in keys):
        raise ValueError(
            f"{source} holds an adapter (LoRA), not a whole model: load its base, then the adapter onto it, and save "
            f"both as one: merge_adapter(load_adapter(load_checkpoint(base), {source})).save_pretrained(folder), with "
            "merge_adapter and load_adapter from sam_variants.training.lora; `sam-variants train --merge` does it too"
        )
    known = ", ".join(layout.table.name for layout in LAYOUTS.values())
    raise ValueError(f"{source} has the keys of no known layout ({known}); it has {len(keys)} keys: {shorten(keys)}")


def layout_of_model_type(model_type: Any, source: str) -> Layout:
    """The layout that belongs to the `model_type` of a config.json.

    Raises:
        ValueError: for a model type that is not read, naming those that are.
    """
    for layout in LAYOUTS.values():
        if model_type is not None and layout.model_type == model_type:
            return layout
    known = [layout.model_type for layout in LAYOUTS.values() if layout.model_type]
    raise ValueError(
        f"{source} has model_type={model_type!r}; those that can be read: sam_variants…, {', '.join(known)}"
    )
