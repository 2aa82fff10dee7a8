"""A checkpoint of any layout as a whole model with the processor that belongs to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, PreTrainedModel
from transformers.utils import logging

from sam_variants.checkpoint_layouts.load_checkpoint import OWN_MODEL_TYPE, config_beside, load_checkpoint
from sam_variants.hub.quantized_weights import rebuilt
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for

PROCESSOR_FILE = "processor_config.json"


def load_whole(
    source: str, image_size: int | None = None, quantize: str | None = None
) -> tuple[SamVariantsModel, SamVariantsProcessor]:
    """The whole model of a checkpoint, as it is trained and saved, and its processor.

    Args:
        source: what `load_checkpoint` takes.
        image_size: side of the model's input in pixels, or None for its own.
        quantize: as in `load_checkpoint`.

    Raises:
        ValueError, OSError: for a checkpoint or size that can't be used.
    """
    logging.disable_progress_bar()
    model: PreTrainedModel = load_checkpoint(source, quantize=quantize)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"--model {source!r} holds a {type(model).__name__} alone, not a whole model")
    if image_size is not None:
        config = copy.deepcopy(model.config)
        config.image_size = image_size
        name = model.name_or_path
        model = rebuilt(model, config, model.state_dict())
        model.name_or_path = name
    processor: Any = processor_for(model)
    folder = Path(source)
    is_ours = str(config_beside(folder).get("model_type", "")).startswith(OWN_MODEL_TYPE)
    if is_ours and (folder / PROCESSOR_FILE).is_file():
        processor = AutoProcessor.from_pretrained(source, image_size=model.config.image_size)
    return model, processor
