"""The processor that belongs to a model built or loaded by hand."""

from __future__ import annotations

from typing import Any

from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor

# Preprocessing by the model_type of the image encoder. SAM's is the image processor's default.
SAM_PREPROCESSING: dict[str, Any] = {}
SAM2_PREPROCESSING: dict[str, Any] = {
    "resize_mode": "square",
    "do_rescale": True,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}
PREPROCESSING: dict[str, dict[str, Any]] = {
    "sam_variants_vit": SAM_PREPROCESSING,
    "sam_variants_tiny_vit": SAM_PREPROCESSING,
    "sam_variants_hiera": SAM2_PREPROCESSING,
}


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
    vision_config = getattr(config, "vision_config", config)
    model_type, stride = getattr(vision_config, "model_type", None), getattr(vision_config, "stride", None)
    image_size = getattr(config, "image_size", None) or getattr(vision_config, "image_size", None)
    if stride is None or image_size is None:
        raise TypeError(
            f"processor_for takes a model, its configuration, or one of the presets {sorted(PRESETS)}, "
            f"got {type(model_or_preset).__name__}"
        )
    if model_type not in PREPROCESSING:
        raise ValueError(f"the image encoder {model_type!r} is not among {sorted(PREPROCESSING)}")
    image_processor = SamVariantsImageProcessorPil(
        size=image_size, pad_size=image_size, mask_size=4 * image_size // stride, **PREPROCESSING[model_type]
    )
    return SamVariantsProcessor(image_processor)
