"""The processor that belongs to a model built or loaded by hand."""

from __future__ import annotations

from typing import Any

from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.processing.preprocessing import image_processor_for
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor


def processor_for(model_or_preset: Any) -> SamVariantsProcessor:
    """The processor for a model: its input size, normalisation, resizing and mask prompt size.

    Args:
        model_or_preset: a model (anything with a `config`), a configuration, or the name of a preset such as
            "mobile-sam". The parts alone (an image encoder, its configuration) will do.

    Returns:
        A fresh `SamVariantsProcessor`.

    Raises:
        ValueError: for an unknown preset or image encoder.
        TypeError: for anything else.
    """
    config = config_for(model_or_preset) if isinstance(model_or_preset, str) else model_or_preset
    config = getattr(config, "config", config)
    try:
        image_processor = image_processor_for(config)
    except TypeError as error:
        raise TypeError(
            f"processor_for takes a model, its configuration, or one of the presets {sorted(PRESETS)}, "
            f"got {type(model_or_preset).__name__}"
        ) from error
    return SamVariantsProcessor(image_processor)


def fitting_processor(model: Any, processor: Any = None) -> Any:
    """The processor given, or the one that belongs to the model.

    Args:
        model: a model of this package.
        processor: None makes it.

    Returns:
        The processor; for a model with `pad_input=False` one that leaves out the padding.

    Raises:
        ValueError: for a processor of another input size, one that leaves out padding that the model counts on, and
            a model whose images have none.
    """
    processor = processor_for(model) if processor is None else processor
    prepared_size = getattr(getattr(processor, "image_processor", None), "image_size", None)
    if prepared_size != model.config.image_size:
        raise ValueError(
            f"processor is a {type(processor).__name__} for images of {prepared_size} pixels, but the model takes "
            f"{model.config.image_size}; leave it out, or pass sam_variants.processor_for(model)"
        )
    return _padding_as_wanted(model, processor)


def _padding_as_wanted(model: Any, processor: Any) -> Any:
    """The processor, which pads as the model's configuration says."""
    image_processor: Any = processor.image_processor
    multiple = getattr(image_processor, "pad_to_multiple_of", None)
    if model.config.pad_input:
        if multiple is not None:
            raise ValueError(
                f"processor has pad_to_multiple_of={multiple}, but the model counts on padded "
                "images; load it with pad_input=False"
            )
        return processor
    if image_processor.resize_mode == SQUARE:
        raise ValueError("pad_input=False, but images of this model are resized to a square and have no padding")
    if multiple is not None:
        return processor
    stride = model.config.vision_config.stride
    return SamVariantsProcessor(image_processor.updated(pad_to_multiple_of=stride))
